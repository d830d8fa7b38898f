import os
import time
from pathlib import Path

import pytest

from nodectl.zipapp import cachefolder
from nodectl.zipapp.cachefolder import CacheFolder, open_cache, places

BUILD = "0" * 32
OTHER_BUILD = "1" * 32
OLD_BUILD = "2" * 32


@pytest.fixture
def only_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let there be one place for caches, and return the folder that it is in."""
    monkeypatch.setattr(cachefolder, "places", lambda _environ, _uid: [f"{tmp_path}/nodectl"])
    tmp_path.chmod(0o700)
    return tmp_path


def opened() -> CacheFolder | None:
    return open_cache(BUILD, environ={}, for_exec=False)


def trusted() -> CacheFolder:
    folder = opened()
    assert folder is not None
    return folder


def test_the_places_of_a_plain_user() -> None:
    environ = {"XDG_RUNTIME_DIR": "/run/user/7", "HOME": "/home/u"}
    assert places(environ, 7) == [
        "/run/user/7/nodectl",
        "/home/u/.cache/nodectl",
        "/dev/shm/nodectl-7",
    ]


def test_the_places_of_root() -> None:
    assert places({"XDG_CACHE_HOME": "/c", "HOME": "/h"}, 0) == [
        "/run/nodectl",
        "/c/nodectl",
        "/var/cache/nodectl",
        "/dev/shm/nodectl-0",
    ]


def test_without_an_environment_there_is_still_a_place() -> None:
    assert places({}, 7) == ["/dev/shm/nodectl-7"]


def test_relative_names_are_no_places() -> None:
    assert places({"XDG_CACHE_HOME": "cache", "HOME": ""}, 7) == ["/dev/shm/nodectl-7"]


@pytest.mark.usefixtures("only_place")
def test_what_was_written_is_read() -> None:
    folder = trusted()
    assert folder.read("a") is None
    assert folder.write("a", b"1")
    assert folder.write("a", b"22")
    assert trusted().read("a") == b"22"
    assert [path.name for path in Path(folder.path).iterdir()] == ["a"]


@pytest.mark.usefixtures("only_place")
def test_the_folder_is_private() -> None:
    assert Path(trusted().path).stat().st_mode & 0o777 == 0o700


@pytest.mark.usefixtures("only_place")
def test_an_open_folder_of_others_is_passed_over() -> None:
    path = Path(trusted().path)
    path.chmod(0o755)
    assert opened() is None


def test_a_link_is_passed_over(only_place: Path) -> None:
    (only_place / "real").mkdir(mode=0o700)
    (only_place / "nodectl").symlink_to("real")
    assert opened() is None
    assert list((only_place / "real").iterdir()) == []


def test_a_place_where_others_may_rename_is_passed_over(only_place: Path) -> None:
    only_place.chmod(0o777)
    assert opened() is None
    only_place.chmod(0o1777)  # with the sticky bit they may not
    trusted()


@pytest.mark.root
@pytest.mark.usefixtures("only_place")
def test_somebody_elses_folder_is_passed_over() -> None:
    path = Path(trusted().path)
    os.chown(path, 12345, 12345)
    assert opened() is None


@pytest.mark.usefixtures("only_place")
def test_a_link_in_the_folder_is_not_followed() -> None:
    folder = trusted()
    Path(folder.path, "a").symlink_to("/etc/hostname")
    assert folder.read("a") is None
    assert folder.write("a", b"1")  # replaces the link
    assert folder.read("a") == b"1"


@pytest.mark.usefixtures("only_place")
def test_a_full_or_lost_folder_is_no_error() -> None:
    folder = trusted()
    Path(folder.path).rmdir()
    assert not folder.write("a", b"1")
    assert folder.read("a") is None


def test_folders_of_builds_long_unused_go_when_a_new_one_comes(only_place: Path) -> None:
    base = only_place / "nodectl"
    (base / OLD_BUILD).mkdir(parents=True)
    (base / OLD_BUILD / "file").touch()
    (base / OTHER_BUILD).mkdir()
    (base / "of-something-else").mkdir()
    base.chmod(0o700)
    old = time.time() - 30 * 86400
    for name in (OLD_BUILD, "of-something-else"):
        os.utime(base / name, (old, old))
    trusted()
    assert sorted(path.name for path in base.iterdir()) == [BUILD, OTHER_BUILD, "of-something-else"]
