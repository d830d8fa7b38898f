import os
import time
from pathlib import Path

import pytest

from nodectl.zipapp.cachefolder import CacheFolder, open_cache, places

BUILD = "0123456789abcdef0123456789abcdef"


def opened(tmp_path: Path, *, for_exec: bool = False) -> CacheFolder | None:
    return open_cache(BUILD, environ={"XDG_RUNTIME_DIR": str(tmp_path)}, for_exec=for_exec)


def at(tmp_path: Path) -> CacheFolder:
    """Return the folder at the first place; fails where another place was taken."""
    folder = opened(tmp_path)
    assert folder is not None
    assert folder.path == f"{tmp_path}/nodectl/{BUILD}"
    return folder


def test_the_places_of_a_plain_user() -> None:
    environ = {"XDG_RUNTIME_DIR": "/run/user/7", "HOME": "/home/u"}
    assert places(environ, 7) == [
        "/run/user/7/nodectl",
        "/home/u/.cache/nodectl",
        "/dev/shm/nodectl-7",
    ]


def test_the_places_of_root() -> None:
    assert places({"XDG_CACHE_HOME": "/c", "HOME": "/root"}, 0) == [
        "/run/nodectl",
        "/c/nodectl",
        "/var/cache/nodectl",
        "/dev/shm/nodectl-0",
    ]


def test_without_an_environment_there_is_still_a_place() -> None:
    assert places({}, 7) == ["/dev/shm/nodectl-7"]


def test_relative_names_are_no_places() -> None:
    assert places({"XDG_CACHE_HOME": "cache", "HOME": ""}, 7) == ["/dev/shm/nodectl-7"]


def test_what_was_written_is_read(tmp_path: Path) -> None:
    folder = at(tmp_path)
    assert folder.read("a") is None
    assert folder.write("a", b"1")
    assert folder.write("a", b"22")
    assert at(tmp_path).read("a") == b"22"
    assert [path.name for path in Path(folder.path).iterdir()] == ["a"]


def test_the_folder_is_private(tmp_path: Path) -> None:
    assert Path(at(tmp_path).path).stat().st_mode & 0o777 == 0o700


def test_an_open_folder_of_others_is_passed_over(tmp_path: Path) -> None:
    path = Path(at(tmp_path).path)
    path.chmod(0o755)
    other = opened(tmp_path)
    assert other is None or other.path != str(path)


def test_a_link_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "nodectl").symlink_to("real")
    other = opened(tmp_path)
    assert other is None or not other.path.startswith(str(tmp_path))
    assert list((tmp_path / "real").iterdir()) == []


def test_a_place_where_others_may_rename_is_passed_over(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    other = opened(tmp_path)
    assert other is None or not other.path.startswith(str(tmp_path))
    tmp_path.chmod(0o1777)  # with the sticky bit they may not
    at(tmp_path)


@pytest.mark.root
def test_somebody_elses_folder_is_passed_over(tmp_path: Path) -> None:
    path = Path(at(tmp_path).path)
    os.chown(path, 12345, 12345)
    other = opened(tmp_path)
    assert other is None or other.path != str(path)


def test_a_link_in_the_folder_is_not_followed(tmp_path: Path) -> None:
    folder = at(tmp_path)
    Path(folder.path, "a").symlink_to("/etc/hostname")
    assert folder.read("a") is None
    assert folder.write("a", b"1")  # replaces the link
    assert folder.read("a") == b"1"


def test_a_full_or_lost_folder_is_no_error(tmp_path: Path) -> None:
    folder = at(tmp_path)
    Path(folder.path).rmdir()
    assert not folder.write("a", b"1")
    assert folder.read("a") is None


def test_folders_of_builds_long_unused_go_when_a_new_one_comes(tmp_path: Path) -> None:
    base = tmp_path / "nodectl"
    (base / "old").mkdir(parents=True)
    (base / "old" / "file").touch()
    (base / "recent").mkdir()
    base.chmod(0o700)
    old = time.time() - 30 * 86400
    os.utime(base / "old", (old, old))
    at(tmp_path)
    assert sorted(path.name for path in base.iterdir()) == [BUILD, "recent"]
