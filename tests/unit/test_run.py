"""The door to other programs."""

import os
import time
from pathlib import Path

import pytest

from nodectl.errors import CommandFailed, ToolMissing
from nodectl.run import run


def test_what_a_program_said_comes_back_in_parts() -> None:
    done = run(["sh", "-c", "echo out; echo err >&2"])
    assert (done.status, done.stdout, done.stderr) == (0, b"out\n", b"err\n")


def test_words_never_meet_a_shell(tmp_path: Path) -> None:
    word = f"$(touch {tmp_path}/made); *"
    assert run(["printf", "%s", word]).stdout == word.encode()
    assert list(tmp_path.iterdir()) == []


def test_names_that_are_not_utf8_pass_through(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff\xfe"
    Path(os.fsdecode(name)).touch()
    assert run(["ls", tmp_path]).stdout.startswith(b"\xff\xfe")


def test_standard_input_is_empty_or_what_was_given() -> None:
    assert run(["cat"]).stdout == b""
    assert run(["cat"], input=b"x" * 1_000_000).stdout == b"x" * 1_000_000


def test_the_environment_is_built_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    said = run(["env"]).stdout.decode()
    assert "LC_ALL=C.UTF-8\n" in said
    assert "SECRET_TOKEN" not in said


def test_a_failure_names_command_status_and_last_lines() -> None:
    with pytest.raises(CommandFailed) as caught:
        run(["sh", "-c", "for n in 1 2 3 4 5 6 7 8 9; do echo line $n >&2; done; exit 3"])
    sentence = str(caught.value)
    assert sentence.startswith("sh -c ")
    assert "ended with status 3" in sentence
    assert "line 9" in sentence
    assert "line 1\n" not in sentence


def test_a_failure_that_only_spoke_on_stdout_is_heard() -> None:
    with pytest.raises(CommandFailed, match="why it failed"):
        run(["sh", "-c", "echo why it failed; exit 1"])


def test_a_status_may_be_declared_good() -> None:
    assert run(["sh", "-c", "exit 2"], ok=(0, 2)).status == 2


def test_death_by_a_signal_is_a_failure() -> None:
    with pytest.raises(CommandFailed, match="status -9"):
        run(["sh", "-c", "kill -9 $$"])


def test_a_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ToolMissing, match="no-such-program") as caught:
        run(["no-such-program"])
    assert "no-such-program" in caught.value.hint
    monkeypatch.setattr("nodectl.run._SEARCH_PATH", "")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ToolMissing) as caught:
        run(["mkfs.ext4"])
    assert "e2fsprogs" in caught.value.hint


def test_a_missing_folder_is_not_taken_for_a_missing_program(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        run(["true"], cwd=tmp_path / "absent")


def test_a_time_out_kills_the_whole_family(tmp_path: Path) -> None:
    """The grandchild holds the pipe open: if it lived, this call would wait for it."""
    began = time.monotonic()
    with pytest.raises(CommandFailed, match=r"did not end within 0\.3 s"):
        run(["sh", "-c", "sleep 60 & echo $! > pid; wait"], timeout=0.3, cwd=tmp_path)
    assert time.monotonic() - began < 10
    pid = int((tmp_path / "pid").read_text(encoding="ascii"))
    deadline = time.monotonic() + 5
    while _lives(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _lives(pid)


def _lives(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
