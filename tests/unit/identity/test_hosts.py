"""/etc/hosts of a node."""

import pytest

from nodectl.identity.hosts import own_hosts

LOCAL = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
OURS = "# nodectl: this node"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("127.0.0.1 localhost\n", "127.0.0.1 localhost\n"),
        ("127.0.1.1 gold\n", "127.0.1.1\tnode07\n"),
        ("127.0.1.1\tgold.example.org gold\n", "127.0.1.1\tnode07.example.org node07\n"),
        ("# 127.0.1.1 gold\n", "# 127.0.1.1 gold\n"),
        ("10.0.0.1 gold\n", "10.0.0.1 gold\n"),
        ("", ""),
    ],
)
def test_the_own_address_gets_the_nodes_name(old: str, new: str) -> None:
    assert own_hosts(old, "node07") == new


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", f"{LOCAL}10.0.0.7\tnode07\t{OURS}\n"),
        ("127.0.1.1 gold.x gold\n10.0.0.1 a", f"10.0.0.1 a\n10.0.0.7\tnode07.x node07\t{OURS}\n"),
        ("10.0.0.7 node07.x node07\n", "10.0.0.7 node07.x node07\n"),
        ("10.0.0.7 other # node07\n", f"10.0.0.7 other # node07\n10.0.0.7\tnode07\t{OURS}\n"),
        (f"a b\n10.0.0.9\tnode05\t{OURS}\n", f"a b\n10.0.0.7\tnode07\t{OURS}\n"),
    ],
)  # fmt: skip
def test_a_fixed_address_gets_the_name(old: str, new: str) -> None:
    assert own_hosts(old, "node07", ["10.0.0.7"]) == new
    assert own_hosts(new, "node07", ["10.0.0.7"]) == new
