"""Where each field of a TOML text stands."""

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from nodectl.disk.toml_lines import field_lines

TEXT = '''\
# a comment with [brackets] = and "quotes
schema = 2
name = """
[[disk]]
id = "not me"
"""

[[disk]]
id = "a"  # = [
match = { serial = "S]1", size = [
  ">= 1GiB",
  "< 2GiB" ] }
"role" = 'data'

[[disk]]
id = 'b'
[disk.match]
serial = "x"

[[filesystem]]
subvolumes = [
  { path = "@" },
  # between
  { path = "@home", mount = "/home" },
]
a.b = 1
'''


def test_every_field_has_its_line() -> None:
    tomllib.loads(TEXT)
    lines = field_lines(TEXT)
    wanted = {
        "schema": 2,
        "name": 3,
        "disk": 8,
        "disk[0]": 8,
        "disk[0].id": 9,
        "disk[0].match": 10,
        "disk[0].match.serial": 10,
        "disk[0].match.size": 10,
        "disk[0].match.size[1]": 12,
        "disk[0].role": 13,
        "disk[1].id": 16,
        "disk[1].match": 17,
        "disk[1].match.serial": 18,
        "filesystem[0].subvolumes": 21,
        "filesystem[0].subvolumes[0].path": 22,
        "filesystem[0].subvolumes[1].mount": 24,
        "filesystem[0].a.b": 26,
    }
    assert {key: lines.get(key) for key in wanted} == wanted


@given(
    st.lists(
        st.sampled_from(
            ["[a]", "[[b]]", 'x = "]"', "y = [1, [2, {z = 3}]]", "q = '''a\nb'''", "# c", "",
             'k."l m".n = 1979-05-27T07:32:00Z', "w = { a = [], b = {} }", "]", "= 3", "x ="]
        )
    ).map("\n".join)
)  # fmt: skip
def test_a_walk_always_comes_to_its_end(text: str) -> None:
    assert all(line >= 1 for line in field_lines(text).values())
