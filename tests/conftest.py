"""What every test gets: the order of stages, a home of its own, and a check on what it leaves.

Stages run one after the other, whatever the random order inside them: linters, unit, contract,
property, the rest, then root, netns, package, slow, guest. When a test of the quick stages has
failed, the later ones are not begun: the failure shows within minutes.
"""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from leftovers import leftovers, settled_leftovers

from nodectl.content.frame import FrameCodec
from nodectl.trust.keys import ContentKeys

TESTS = Path(__file__).parent
REPOSITORY = TESTS.parent

# What stands there is run inside of guests, by run_tests_in_guest().
collect_ignore = [] if "NODECTL_IN_GUEST" in os.environ else ["guest/inside"]

_QUICK_FOLDERS = ("unit", "contract", "property")
_FIRST_FILES = ("test_linters.py", "test_house.py")
_LATE_MARKERS = ("root", "netns", "package", "slow", "guest")
# A shell that runs this behind an & has it ignore Ctrl-C, and all that the tests start inherits it.
signal.signal(signal.SIGINT, signal.default_int_handler)

_LATE = 10  # stages from here on are the ones that a quick failure stops


def _stage(item: pytest.Item) -> int:
    late = [_LATE + n for n, name in enumerate(_LATE_MARKERS) if item.get_closest_marker(name)]
    if late:
        return max(late)
    place = item.path.relative_to(TESTS).parts if item.path.is_relative_to(TESTS) else ("",)
    if place[0] == "integration":
        return _LATE
    if place[0] in _FIRST_FILES:
        return 0
    if place[0] in _QUICK_FOLDERS:
        return 1 + _QUICK_FOLDERS.index(place[0])
    return 1 + len(_QUICK_FOLDERS)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Sort by stage after everybody else (pytest-randomly too) had their turn; skip for users."""
    yield
    items.sort(key=_stage)
    if os.geteuid() == 0:
        return
    for item in items:
        if any(item.get_closest_marker(name) for name in ("root", "netns")):
            item.add_marker(pytest.mark.skip(reason="needs root: run `bash tests/run` as root"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Stop between the quick and the late stages when something quick has failed."""
    result = yield
    session = item.session
    if nextitem and session.testsfailed and _stage(item) < _LATE <= _stage(nextitem):
        session.shouldfail = "a quick test failed: the slow stages were not begun"
    return result


@pytest.fixture(scope="session", autouse=True)
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the whole run a home and a TMPDIR below pytest's folder; nothing may stay behind."""
    base = tmp_path_factory.getbasetemp()
    for name in ("home", "tmp"):
        (base / name).mkdir()
    os.environ.update(HOME=str(base / "home"), TMPDIR=str(base / "tmp"))
    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"):
        os.environ.pop(name, None)
    tempfile.tempdir = None
    before = leftovers(base)
    yield base
    _refuse(before, base)


@pytest.fixture(autouse=True)
def isolated(request: pytest.FixtureRequest, run_folder: Path) -> Iterator[None]:
    """Give each test a state folder that does not exist yet; look after those that can leave much.

    A function of its own and not `monkeypatch`, so that property tests may have it too.
    """
    state = run_folder / "state" / f"{abs(hash(request.node.nodeid)):x}"
    os.environ["NODECTL_STATE"] = str(state)
    if _stage(request.node) < _LATE:
        yield
        return
    before = leftovers(run_folder)
    yield
    _refuse(before, run_folder)


def _refuse(before: frozenset[str], base: Path) -> None:
    """Fail, naming them, if there are things that were not there before."""
    left = settled_leftovers(base, before=before)
    assert not left, "left behind:\n" + "\n".join(sorted(left))


@pytest.fixture(scope="session")
def realm_keys() -> ContentKeys:
    """Return the keys of a realm that is the same in every run."""
    return ContentKeys(chunk_id=b"c" * 32, seal=b"s" * 32, nonce=b"n" * 32)


@pytest.fixture(scope="session")
def codec(realm_keys: ContentKeys) -> FrameCodec:
    """Return a codec of that realm."""
    return FrameCodec(realm_keys)


@pytest.fixture(scope="session")
def netns_prefix() -> str:
    """Return how the names of this run's network namespaces begin (the process id is in it)."""
    return f"nct{os.getpid()}-"
