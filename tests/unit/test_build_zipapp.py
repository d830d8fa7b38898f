"""How the builder finds pip."""

import pytest

import build_zipapp


def test_without_pip_a_plain_user_gets_the_line_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_zipapp, "has_pip", lambda _python: False)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(build_zipapp.BuildError, match="type: sudo apt install python3-pip"):
        build_zipapp.find_pip()


def test_any_pip_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python without pip, such as one built by hand, takes that of the system."""
    monkeypatch.setattr(build_zipapp, "has_pip", lambda python: python == "/usr/bin/python3")
    monkeypatch.setattr("sys.executable", "/opt/python/bin/python3")
    assert build_zipapp.find_pip() == ["/usr/bin/python3", "-m", "pip"]


def test_without_pip_root_has_it_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(build_zipapp, "has_pip", lambda _python: bool(ran))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr("subprocess.run", lambda argv, **_: ran.append(argv))
    assert build_zipapp.find_pip()[1:] == ["-m", "pip"]
    assert [argv[:2] for argv in ran] == [["apt-get", "update"], ["apt-get", "install"]]
    assert ran[1][-2:] == ["python3-pip", "python3-venv"]
