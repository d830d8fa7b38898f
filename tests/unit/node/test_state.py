import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from nodectl.cli.realm import make_controller
from nodectl.errors import AlreadyThere, InvalidInput, NoRealm, PathUnreadable
from nodectl.ids import Root
from nodectl.node.state import HeldRoot, Membership, StateFolder, default_folder
from nodectl.trust.ca import Credential
from nodectl.trust.keys import ContentKeys
from nodectl.trust.publisher import Publisher
from nodectl.trust.token import Role

NEW_FOLDER = {"realm", "node.json", "store", "catalog.sqlite", "audit.log"}
MEMBERSHIP = Membership(
    realm_id="ab" * 16,
    realm_name="lab",
    node="n1",
    role=Role.NODE,
    controllers=("https://c:7443",),
    ca_pem="PEM",
    secret=b"s" * 32,
    content_keys=ContentKeys(chunk_id=b"1" * 32, seal=b"2" * 32, nonce=b"3" * 32),
    publishers=(Publisher(key=b"p" * 32, name="realm"),),
    job_keys=(b"j" * 32,),
    identity=Credential(certificate=b"CERTIFICATE", key=b"KEY"),
)


def test_a_membership_reads_back_and_is_private(tmp_path: Path) -> None:
    state = StateFolder(tmp_path / "s")
    with pytest.raises(NoRealm):
        state.membership()
    state.write_membership(MEMBERSHIP)
    assert state.membership() == MEMBERSHIP
    assert state.membership_file.stat().st_mode & 0o777 == 0o600
    assert state.folder.stat().st_mode & 0o777 == 0o700
    assert MEMBERSHIP.secret.hex() not in repr(MEMBERSHIP)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"version": 2}', "null"])
def test_a_damaged_membership_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "node.json").write_text(text)
    with pytest.raises(PathUnreadable, match=r"node\.json"):
        StateFolder(tmp_path).membership()


def test_held_roots_and_seen_generations_are_remembered(tmp_path: Path) -> None:
    held = HeldRoot(
        root=Root(bytes(32)),
        swarm_key=b"k" * 32,
        name="golden",
        generation=2,
        root_block=b"block",
        complete=False,
    )
    state = StateFolder(tmp_path)
    assert state.held_roots() == ()
    state.hold_root(held)
    assert StateFolder(tmp_path).held_roots() == (held,)
    assert (tmp_path / "roots.json").stat().st_mode & 0o777 == 0o600
    assert state.seen_generation("golden") == 0
    state.see_generation("golden", 5)
    state.see_generation("golden", 3)
    assert state.seen_generation("golden") == 5
    state.see_generation("golden", 3, allow_older=True)
    assert state.seen_generation("golden") == 3


def test_of_one_name_the_last_generations_are_served(tmp_path: Path) -> None:
    state = StateFolder(tmp_path)
    for name, generation in [("a", 1), ("b", 1), ("a", 2), ("a", 3), ("a", 4), ("a", 2)]:
        root = Root(bytes([ord(name), generation]) * 16)
        state.hold_root(
            HeldRoot(
                root=root, swarm_key=bytes(32), name=name, generation=generation,
                root_block=b"", complete=True,
            )
        )  # fmt: skip
    held = sorted((one.name, one.generation) for one in state.held_roots())
    assert held == [("a", 2), ("a", 3), ("a", 4), ("b", 1)]


def test_what_was_captured_here_is_held_whatever_comes_later(tmp_path: Path) -> None:
    """This may be the only machine that has it; gc goes by what is held."""
    state = StateFolder(tmp_path)
    for generation in range(1, 8):
        held = HeldRoot(
            root=Root(bytes([generation]) * 32), swarm_key=bytes(32), name="a",
            generation=generation, root_block=b"", complete=True, own=generation < 3,
        )  # fmt: skip
        state.hold_root(held)
        state.hold_root(dataclasses.replace(held, own=False))  # the agent learns of it once more
    assert sorted(one.generation for one in state.held_roots()) == [1, 2, 5, 6, 7]


def test_leaving_forgets_every_key(tmp_path: Path) -> None:
    state = StateFolder(tmp_path / "s")
    state.write_membership(MEMBERSHIP)
    state.forget_membership()
    assert sorted(p.name for p in state.folder.iterdir()) == ["store"]


def test_the_default_folder() -> None:
    assert default_folder({}, root=True) == Path("/var/lib/nodectl")
    assert default_folder({"XDG_DATA_HOME": "/d"}, root=False) == Path("/d/nodectl")


def _init(target: Path) -> None:
    make_controller(target, realm_name="lab", node="c", listen="127.0.0.1:0")


def test_init_makes_a_whole_private_folder_and_never_overwrites(tmp_path: Path) -> None:
    target = tmp_path / "s"
    _init(target)
    entries = sorted(target.rglob("*"))
    assert {p.name for p in target.iterdir()} == NEW_FOLDER
    assert {p.stat().st_mode & 0o777 for p in entries if p.is_file()} == {0o600}
    assert {p.stat().st_mode & 0o777 for p in [target, *entries] if p.is_dir()} == {0o700}
    before = {p: p.read_bytes() for p in entries if p.is_file()}
    with pytest.raises(AlreadyThere):
        _init(target)
    assert {p: p.read_bytes() for p in sorted(target.rglob("*")) if p.is_file()} == before


def test_init_takes_an_empty_folder_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    _init(tmp_path / "empty")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("x")
    with pytest.raises(AlreadyThere, match="not empty"):
        _init(tmp_path / "full")
    (tmp_path / "file").write_text("x")
    with pytest.raises(AlreadyThere):
        _init(tmp_path / "file")


def test_init_refuses_a_bad_name_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        make_controller(tmp_path / "s", realm_name="a/b", node="c", listen="127.0.0.1:0")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dies_at", range(1, 14, 3))
def test_init_killed_anywhere_leaves_nothing_and_can_be_repeated(
    tmp_path: Path, dies_at: int
) -> None:
    """The process ends at once at the n-th fsync, which is how a power cut looks from here."""
    code = f"""
import os, sys
from pathlib import Path
real, count = os.fsync, [0]
def dying(fd):
    count[0] += 1
    if count[0] == {dies_at}:
        os._exit(9)
    real(fd)
os.fsync = dying
from nodectl.cli.realm import make_controller
make_controller(Path(sys.argv[1]), realm_name="lab", node="c", listen="127.0.0.1:0")
"""
    target = tmp_path / "s"
    status = subprocess.run([sys.executable, "-c", code, str(target)], check=False, timeout=60)
    assert status.returncode == 9
    assert not target.exists()
    _init(target)
    assert StateFolder(target).membership().node == "c"
    assert [p.name for p in tmp_path.iterdir()] == ["s"]
