"""What runs first in nodectl.pyz: the builder copies this file there as `__main__.py`.

It finds out whether this Python can run the rest, and if not, finds one that can. So it has to
parse and run on every Python that may be called `python3` or `python`, back to 2.7: no f-strings,
no annotations, nothing newer. It imports little, since it is compiled at every start.

`TARGETS`, a member of the zip, lists what native modules are inside: a line "3.11 x86_64" each.
"""

import os
import sys

# As in nodectl.errors, which an old Python cannot import: SelfInvalid, CannotRun.
STATUS_DAMAGED = 70
STATUS_CANNOT_RUN = 71
GUARD = "NODECTL_LAUNCHED"  # set while another Python is tried, so that two never call in a circle
SUPPORTED = ("3.14", "3.13", "3.12", "3.11")  # best first
PLACES = ("/usr/local/bin", "/usr/bin", "/bin", "/opt/python/bin", "/opt/nodectl/bin")
GLIBC_MINIMUM = (2, 28)


def fail(sentence, next_step, status=STATUS_CANNOT_RUN):
    """Say in one line why nothing runs, and end."""
    sys.stderr.write("nodectl: " + sentence + "; " + next_step + "\n")
    sys.exit(status)


def read_targets(loader):
    """Return the (python, machine) pairs that this file carries native modules for."""
    lines = loader.get_data("TARGETS").decode("ascii").splitlines()
    return [tuple(line.split()) for line in lines]


def this_target():
    """Return (python, machine) of the Python that runs, or None where none is ever supported."""
    implementation = getattr(sys, "implementation", None)
    # "t" marks a free-threaded Python, which needs other native modules.
    if implementation is None or implementation.name != "cpython" or "t" in sys.abiflags:
        return None
    return ("%d.%d" % sys.version_info[:2], machine())


def machine():
    """Return the architecture of this process, as wheels call it."""
    name = os.uname()[4]
    return name if sys.maxsize > 2**32 else name + " (32 bit)"


def candidates(versions):
    """Yield the programs that may be a Python of one of the `versions`, best first."""
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    folders += [place for place in PLACES if place not in folders]
    for version in versions:
        for folder in folders:
            path = os.path.join(folder, "python" + version)
            if os.path.isabs(path) and os.access(path, os.X_OK):
                yield path


def is_usable(path, versions):
    """Try a Python: a name alone proves nothing (pyenv puts stand-ins on PATH)."""
    import subprocess

    code = (
        "import sys; v = '%d.%d' % sys.version_info[:2]; "
        "sys.exit(not (v in sys.argv[1:] and sys.implementation.name == 'cpython'"
        " and 't' not in sys.abiflags))"
    )
    with open(os.devnull, "r+b") as null:
        argv = [path, "-I", "-S", "-c", code] + list(versions)
        try:
            return subprocess.call(argv, stdin=null, stdout=null, stderr=null) == 0
        except OSError:
            return False


def run_with_another_python(archive, versions):
    """Replace this process by a Python that can run the file, or return where there is none."""
    if os.environ.get(GUARD):
        return
    for path in candidates(versions):
        if is_usable(path, versions):
            os.environ[GUARD] = "1"
            # The name by which we were called chooses what we are: it has to stay.
            name = sys.argv[0] if os.path.exists(sys.argv[0]) else archive
            os.execv(path, [path, name] + sys.argv[1:])


def glibc_version():
    """Return (2, 36) or the like; None where the C library is another one."""
    try:
        name, _, version = os.confstr("CS_GNU_LIBC_VERSION").partition(" ")
        return tuple(int(number) for number in version.split(".")[:2]) if name == "glibc" else None
    except (AttributeError, OSError, ValueError):
        return None


def check_platform(archive, targets):
    """Return when this Python can run the rest; else start one that can, or fail with a line."""
    here = machine()
    versions = [version for version in SUPPORTED if (version, here) in targets]
    if not sys.platform.startswith("linux") or not versions:
        carried = sorted(set(name for _, name in targets))
        fail(
            "this file has no native modules for " + sys.platform + " on " + here,
            "it carries Linux " + ", ".join(carried) + ": build one for this machine",
        )
    if this_target() not in targets:
        run_with_another_python(archive, versions)
        fail(
            "Python " + sys.version.split()[0] + " cannot run this file",
            "install Python "
            + " or ".join(reversed(versions))
            + " (Debian, Ubuntu: apt install python3; RHEL family: dnf install python3.11)",
        )
    glibc = glibc_version()
    if glibc is None or glibc < GLIBC_MINIMUM:
        known = "glibc " + ".".join(str(n) for n in glibc) if glibc else "a C library not glibc"
        fail("this system has " + known, "nodectl needs glibc 2.28 or newer")


def prepare():
    """Check the Python and make the modules of the zip importable."""
    loader = globals()["__loader__"]
    # The file itself, not the link we were called by: it may go while we run.
    archive = os.path.realpath(loader.archive)
    check_platform(archive, read_targets(loader))
    os.environ.pop(GUARD, None)
    # Children of multiprocessing that do not fork run this file again, under another name.
    main_module = sys.modules["__main__"]
    main_module.__spec__ = None
    main_module.__file__ = archive
    sys.path.insert(0, os.path.join(archive, "lib"))
    import zlib  # there, or this file could not have been read

    try:
        from nodectl.zipapp.loader import install

        install(archive, loader.get_data("INDEX"))
    except (ImportError, SyntaxError, ValueError, zlib.error):
        fail(archive + " is damaged", "copy it to this machine again", STATUS_DAMAGED)


def main():
    """Hand over to the command line."""
    from nodectl.zipapp.archive import Damaged

    try:
        from nodectl.cli.main import main as run_command_line

        run_command_line()
    except Damaged as error:
        fail(str(error), "copy nodectl.pyz to this machine again", STATUS_DAMAGED)


if __name__ in {"__main__", "__mp_main__"}:
    prepare()
if __name__ == "__main__":
    main()
