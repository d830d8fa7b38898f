"""The built file on real Pythons, in the places where a one-file program tends to break."""

import json
import os
import resource
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from package.conftest import ROOT
from package.found_pythons import found_pythons

pytestmark = [pytest.mark.package, pytest.mark.timeout(300)]

START_LIMIT_S = 0.25
PLAIN_USER = "setpriv --reuid=65534 --regid=65534 --clear-groups"
PRINT_VERSION = "import sys; print('%d.%d.%d' % sys.version_info[:3])"

# What every process of nodectl may need, loaded and used.
USE_EVERYTHING = """
import sys
import aiohttp.web, aiohttp._http_parser, blake3, multidict, xxhash, yarl, zstandard
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
assert zstandard.backend == "cext", zstandard.backend
assert aiohttp.http_parser.HttpRequestParser.__module__ == "aiohttp._http_parser"
assert multidict.MultiDict.__module__ == "multidict._multidict"
packed = zstandard.ZstdCompressor().compress(b"x" * 1000)
assert zstandard.ZstdDecompressor().decompress(packed) == b"x" * 1000
key = ed25519.Ed25519PrivateKey.generate()
key.public_key().verify(key.sign(b"x"), b"x")
ec.generate_private_key(ec.SECP256R1())
sealed = AESGCM(bytes(32)).encrypt(bytes(12), b"x", b"")
assert AESGCM(bytes(32)).decrypt(bytes(12), sealed, b"") == b"x"
assert blake3.blake3(b"").hexdigest().startswith("af1349b9")
assert xxhash.xxh3_64_intdigest(b"") == 0x2D06800538D394C2
import typer, rich.table
"""


def run(
    argv: list[str | Path], *, cwd: Path | None = None, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run with a bare environment: only what is named, and the session's place for caches."""
    bare = {name: os.environ[name] for name in ("PATH", "XDG_RUNTIME_DIR")}
    return subprocess.run(
        argv,
        env=bare | environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def check(done: "subprocess.CompletedProcess[str]") -> str:
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a fresh, private place for caches: the first one that is looked at."""
    folder = tmp_path / "runtime"
    folder.mkdir(mode=0o700)
    return folder


def in_namespace(
    probe: Path, code: str, *, user: str = "", mount: str = "", file: str = "", before: str = ""
) -> str:
    """Run `code` where all places for caches are fresh, as a machine just started has them.

    `mount` are options for these places ("ro"), `file` options for the folder that the program
    lies in, `before` a shell command, `user` words in front of Python.
    """
    places = f"for place in /run /dev/shm /var/cache; do mount -t tmpfs {mount} tmpfs $place; done"
    script = f"""
set -e
mount --make-rprivate /
{places}
mount --bind "$1" /mnt
mount -o remount,bind{file} /mnt
{before}
exec {user} python3 "/mnt/$2" "$3"
"""
    unshare = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", script, "sh"]
    environment = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "XDG_RUNTIME_DIR": "", "TMPDIR": "/run"}
    return check(run([*unshare, probe.parent, probe.name, code], **environment))


# ---- forms of running ---------------------------------------------------------------------------


def test_version_says_what_runs(python: str, pyz: Path, home: Path) -> None:
    said = json.loads(check(run([python, pyz, "version", "--json"], XDG_RUNTIME_DIR=str(home))))
    assert said["python"].startswith(check(run([python, "-c", PRINT_VERSION])).strip())
    assert said["architecture"] == os.uname().machine
    assert len(said["build_id"]) == 32
    assert list(said) == ["version", "build_id", "python", "architecture"]


def test_everything_that_is_native_loads_and_works(python: str, probe: Path, home: Path) -> None:
    check(run([python, probe, USE_EVERYTHING], XDG_RUNTIME_DIR=str(home)))
    # Again, with code from the cache.
    check(run([python, probe, USE_EVERYTHING], XDG_RUNTIME_DIR=str(home)))


def test_it_is_a_program(pyz: Path) -> None:
    assert check(run([pyz, "version"])).startswith("nodectl ")


def test_it_runs_from_its_own_folder(pyz: Path) -> None:
    assert check(run(["./nodectl.pyz", "version"], cwd=pyz.parent)).startswith("nodectl ")


def test_it_runs_through_a_link_of_any_name(probe: Path, tmp_path: Path) -> None:
    """What it was called as stays known; what it is, too."""
    link = tmp_path / "vif-bridge"
    link.symlink_to(probe)
    code = "import sys; from nodectl.zipapp.archive import running; print(sys.argv[0])"
    argv0, path = check(run([link, f"{code}; print(running().path)"])).splitlines()
    assert (argv0, path) == (str(link), str(probe))


def test_it_starts_itself_again_from_any_folder(probe: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(probe.name)
    (tmp_path / probe.name).write_bytes(probe.read_bytes())
    code = """
import os, subprocess
from nodectl.zipapp.identity import self_command
os.chdir("/")
print(subprocess.check_output([*self_command(), "print('again')"], text=True))
"""
    assert check(run([sys.executable, "link", code], cwd=tmp_path)).strip() == "again"


def test_no_other_copy_of_a_library_gets_in(python: str, probe: Path, tmp_path: Path) -> None:
    """Neither by PYTHONPATH nor from a site folder nor from the current one."""
    for name in ("aiohttp", "typing_extensions", "aiodns", "brotli"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong one was imported')")
    done = run([python, probe, USE_EVERYTHING], cwd=tmp_path, PYTHONPATH=str(tmp_path))
    check(done)
    code = (
        "import sys; print([p for p in sys.path if 'site-packages' in p or 'dist-packages' in p])"
    )
    assert check(run([python, probe, code])).strip() == "[]"


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_worker_processes_work(python: str, probe: Path, method: str) -> None:
    """Also with native modules: loaded before (fork inherits them) or in the worker."""
    code = f"""
import multiprocessing, xxhash, os
with multiprocessing.get_context("{method}").Pool(2) as pool:
    print(pool.apply(xxhash.xxh3_64_hexdigest, (b"",)))
    from blake3 import blake3
    print(pool.apply(os.getppid) > 0)
    pool.close()
    pool.join()
"""
    assert check(run([python, probe, code])).split() == ["2d06800538d394c2", "True"]


def test_children_get_no_descriptor_of_ours(probe: Path) -> None:
    code = """
import subprocess, xxhash, zstandard
command = ["ls", "-l", "/proc/self/fd"]
print(subprocess.check_output(command, text=True, close_fds=False))
"""
    seen = check(run([sys.executable, probe, code]))
    assert "memfd" not in seen
    assert "probe.pyz" not in seen


def test_it_goes_on_when_its_file_is_replaced(probe: Path, tmp_path: Path) -> None:
    copy = tmp_path / "nodectl.pyz"
    copy.write_bytes(probe.read_bytes())
    code = (
        """
import os
with open("newer", "wb") as file:
    file.write(b"not even a zip")
os.replace("newer", "nodectl.pyz")
"""
        + USE_EVERYTHING
    )
    check(run([sys.executable, "nodectl.pyz", code], cwd=tmp_path))


def test_tracebacks_show_the_source(probe: Path) -> None:
    code = """
import traceback, yarl
try:
    yarl.URL(5)
except TypeError:
    print(traceback.format_exc())
"""
    said = check(run([sys.executable, probe, code]))
    assert 'File "nodectl.pyz/lib/yarl/_url.py"' in said
    assert "raise TypeError(" in said


def test_data_files_are_found(python: str, probe: Path) -> None:
    code = """
from importlib.resources import files
print(files("nodectl.zipapp").joinpath("wheels.lock").read_text()[:1])
"""
    assert check(run([python, probe, code])).strip() == "#"


# ---- hostile places -----------------------------------------------------------------------------


@pytest.mark.root
@pytest.mark.parametrize("user", ["", PLAIN_USER], ids=["root", "plain user"])
def test_it_runs_on_a_fresh_machine(probe: Path, user: str) -> None:
    in_namespace(probe, USE_EVERYTHING, user=user)


@pytest.mark.root
@pytest.mark.parametrize("user", ["", PLAIN_USER], ids=["root", "plain user"])
def test_it_runs_with_noexec_everywhere(probe: Path, user: str) -> None:
    """Also the folder that the program lies in, as in a HOME mounted so."""
    in_namespace(probe, USE_EVERYTHING, user=user, mount="-o noexec", file=",noexec")


@pytest.mark.root
@pytest.mark.parametrize("user", ["", PLAIN_USER], ids=["root", "plain user"])
def test_it_runs_where_nothing_can_be_written(probe: Path, user: str) -> None:
    in_namespace(probe, USE_EVERYTHING, user=user, mount="-o ro", file=",ro")


@pytest.mark.root
def test_it_runs_where_memory_files_may_not_be_executed(probe: Path) -> None:
    if not Path("/proc/sys/vm/memfd_noexec").exists():
        pytest.skip("this kernel knows no vm.memfd_noexec")
    in_namespace(probe, USE_EVERYTHING, before="echo 2 > /proc/sys/vm/memfd_noexec")


WITHOUT_MEMFD = """
import os
def refuse(*arguments):
    raise PermissionError("not here")
os.memfd_create = refuse
"""


def test_without_memory_files_a_private_folder_serves(python: str, probe: Path, home: Path) -> None:
    code = WITHOUT_MEMFD + USE_EVERYTHING
    check(run([python, probe, code], XDG_RUNTIME_DIR=str(home)))
    (folder,) = (home / "nodectl").iterdir()
    libraries = [path for path in folder.iterdir() if path.name.endswith(".so")]
    assert len(libraries) >= 8
    assert folder.stat().st_mode & 0o777 == 0o700
    # A library that is not what the archive holds is put right before it is loaded.
    for path in libraries:
        path.write_bytes(b"garbage")
    check(run([python, probe, code], XDG_RUNTIME_DIR=str(home)))


@pytest.mark.root
def test_without_any_way_to_load_a_native_module_the_error_says_so(probe: Path) -> None:
    code = (
        WITHOUT_MEMFD
        + """
try:
    import xxhash
except ImportError as error:
    print(error)
"""
    )
    said = in_namespace(probe, code, mount="-o noexec")
    assert "cannot load the native module xxhash._xxhash" in said
    assert "no private folder that allows exec" in said


def test_first_starts_at_the_same_moment(probe: Path, home: Path) -> None:
    argv = [sys.executable, probe, WITHOUT_MEMFD + USE_EVERYTHING]
    environment = dict(os.environ, XDG_RUNTIME_DIR=str(home))
    processes = [
        subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(4)
    ]
    ends = [(process.communicate()[1], process.returncode) for process in processes]
    assert ends == [("", 0)] * 4
    (folder,) = (home / "nodectl").iterdir()
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_a_damaged_cache_is_made_again(probe: Path, home: Path) -> None:
    argv: list[str | Path] = [sys.executable, probe, "import typer; print(typer.__name__)"]
    check(run(argv, XDG_RUNTIME_DIR=str(home)))
    (folder,) = (home / "nodectl").iterdir()
    for number, path in enumerate(sorted(folder.iterdir())):
        data = path.read_bytes()
        path.write_bytes((b"", data[:-5], data[:9] + b"\xff" + data[10:])[number % 3])
    assert check(run(argv, XDG_RUNTIME_DIR=str(home))) == "typer\n"


# ---- damage, old Pythons, time ------------------------------------------------------------------


@pytest.fixture
def damaged(pyz: Path, tmp_path: Path) -> Iterator[Path]:
    """Return a copy to damage."""
    copy = tmp_path / "damaged.pyz"
    shutil.copy(pyz, copy)
    yield copy
    copy.unlink()


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def offset_of(path: Path, name: str) -> int:
    """Return where a member's data begins, as the zip itself says."""
    with zipfile.ZipFile(path) as archive:
        return archive.getinfo(name).header_offset + 30 + len(name)


def test_the_whole_file_verifies(pyz: Path) -> None:
    assert "whole" in check(run([pyz, "self", "verify"]))
    said = json.loads(check(run([pyz, "self", "verify", "--json"])))
    assert said["ok"] is True
    assert said["bytes"] == pyz.stat().st_size


@pytest.mark.parametrize(
    "name",
    [
        "native/abi3-x86_64/cryptography.hazmat.bindings._rust.so",
        "native/cp314-aarch64/xxhash._xxhash.so",
        "lib/aiohttp/web.py",
    ],
)
def test_a_damaged_member_is_named(damaged: Path, name: str) -> None:
    flip(damaged, offset_of(damaged, name) + 100)
    done = run([damaged, "self", "verify"])
    assert done.returncode == 70
    assert f"{name} in {damaged} is damaged" in done.stderr
    assert "next: copy nodectl.pyz to this machine again" in done.stderr


def test_damage_between_members_is_found(damaged: Path) -> None:
    flip(damaged, offset_of(damaged, "lib/aiohttp/web.py") - 25)  # in the header before it
    done = run([damaged, "self", "verify"])
    assert done.returncode == 70
    assert "is damaged" in done.stderr


@pytest.mark.parametrize("name", ["lib/typer/main.py", "lib/nodectl/zipapp/loader.py", "INDEX"])
def test_damage_in_what_it_starts_with_is_one_line(damaged: Path, name: str, home: Path) -> None:
    flip(damaged, offset_of(damaged, name) + 60)
    # With the build id of a whole copy, the cache would have the code; here it is fresh.
    done = run([damaged, "version"], XDG_RUNTIME_DIR=str(home))
    assert done.returncode == 70
    assert done.stderr.count("\n") == 1
    assert "is damaged; copy" in done.stderr


def test_an_old_python_finds_a_newer_one(old_python: str, pyz: Path) -> None:
    supported = [path for name, path in found_pythons().items() if name.startswith("3.1")]
    if not [path for path in supported if path.startswith("/usr/bin/")]:
        pytest.skip("no supported Python in a usual place")
    assert check(run([old_python, pyz, "version"], PATH="/nonexistent")).startswith("nodectl ")


def test_an_old_python_alone_says_what_to_install(old_python: str) -> None:
    code = (
        "import sys; names = {'__name__': 'launcher'};"
        "exec(compile(open(sys.argv[1]).read(), 'launcher', 'exec'), names);"
        "names['PLACES'] = ();"
        "names['check_platform']('/x/nodectl.pyz', [('3.11', names['machine']())])"
    )
    launcher = ROOT / "nodectl/zipapp/launcher.py"
    done = run([old_python, "-c", code, launcher], PATH="/nonexistent")
    assert done.returncode == 71
    assert done.stderr.count("\n") == 1
    assert "cannot run this file; install Python 3.11 (Debian" in done.stderr


@pytest.mark.parametrize("argument", ["version", "--help"])
def test_a_second_start_is_quick(python: str, pyz: Path, home: Path, argument: str) -> None:
    """Counted in processor time, as a start waits for nothing and the machine may be busy."""
    check(run([python, pyz, argument], XDG_RUNTIME_DIR=str(home)))
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        check(run([python, pyz, argument], XDG_RUNTIME_DIR=str(home)))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    assert min(seconds) <= START_LIMIT_S


def test_memory_stays_small(probe: Path, home: Path) -> None:
    """All libraries loaded are a third of what a process of nodectl may take."""
    check(run([sys.executable, probe, USE_EVERYTHING], XDG_RUNTIME_DIR=str(home)))
    # Not ru_maxrss: Linux counts in what the parent was before exec.
    code = (
        USE_EVERYTHING
        + """
import re
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""
    )
    peak_kib = int(check(run([sys.executable, probe, code], XDG_RUNTIME_DIR=str(home))))
    assert peak_kib < 70 << 10
