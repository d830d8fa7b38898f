"""Tells the controller what booted: a program of its own that a clone carries, once.

Nothing of nodectl imports it and it imports nothing of nodectl: `boot/first_boot.py` puts it beside
`told.json` onto the disk, and the new system's own Python (3.6 or newer, nothing but its standard
library) runs it after the start. It reads back what the system is, and sends that with the ticket
of `told.json` over TLS to a controller of the realm's CA, again and again while there is no
network; then it removes itself, the ticket and what started it. A system that cannot reach its
controller tries at each start anew, at most `starts` times; then nothing of it is left either.

Exit codes: 0 told (or nothing more to do), 1 not told: the next start tries again.
"""

import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Tuple
from urllib.parse import urlsplit

PATH = "/v1/booted"
SERVER_NAME = "controller.nodectl"
NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME: a new machine's clock may say 1970
SETTLE_S = 180.0  # how long a start may go on until units are looked at
ANSWER_S = 20.0
PAUSE_S = 1.0  # before trying again; doubled each time
PAUSE_MOST_S = 30.0
RUN_S = 20.0
ANSWER_MAX = 65536
FAILED_MAX = 50  # units that are named
EFI = Path("/sys/firmware/efi")
EFI_GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
NUMBER_BYTES = 2  # of an entry's number
OPTION_HEAD = 6  # bytes before the words of an entry: attributes, length of its path
DONE = 200
REFUSED = range(400, 500)
LATER = (408, 425, 429)  # of those, what is not the last word


def main(folder: Path) -> int:
    """Read back, tell, clean up."""
    told: Dict[str, Any] = json.loads((folder / "told.json").read_text("utf-8"))
    starts = count_start(folder)
    wait_until_started()
    seen = read_back(told, starts)
    deadline = time.monotonic() + float(told["try_s"])
    pause = PAUSE_S
    while True:
        answer = ask(told, seen)
        print(f"nodectl-first-boot: {answer.text}", flush=True)
        if answer.final:
            remove(told, folder)
            return 0
        if time.monotonic() + pause > deadline:
            break
        time.sleep(pause)
        pause = min(2 * pause, PAUSE_MOST_S)
    if starts >= int(told["starts"]):
        remove(told, folder)
        print(f"nodectl-first-boot: given up after {starts} starts", flush=True)
        return 0
    return 1


class Answer:
    """What came of one try."""

    def __init__(self, text: str, *, final: bool) -> None:
        self.text = text
        self.final = final


def count_start(folder: Path) -> int:
    """Return the how manieth start this is, this one counted."""
    counter = folder / "starts"
    try:
        before = int(counter.read_text("ascii"))
    except (OSError, ValueError):
        before = 0
    counter.write_text(str(before + 1), "ascii")
    return before + 1


def wait_until_started() -> None:
    """Wait, not for ever, until systemd has nothing more to start."""
    deadline = time.monotonic() + SETTLE_S
    while time.monotonic() < deadline:
        if output("systemctl", "is-system-running") not in ("initializing", "starting"):
            return
        time.sleep(0.5)


def read_back(told: Dict[str, Any], starts: int) -> Dict[str, Any]:
    """Return what this system is.

    Only the root is as `told.json` says, which was written onto this disk with the image.
    """
    return {
        "hostname": text_of("/proc/sys/kernel/hostname"),
        "machine_id": text_of("/etc/machine-id"),
        "root": str(told["root"]),
        "root_uuid": output("findmnt", "--noheadings", "--output", "UUID", "/"),
        "kernel": os.uname().release,
        "firmware": "uefi" if EFI.is_dir() else "bios",
        "entry": boot_entry(),
        "failed_units": failed_units(),
        "starts": starts,
        "uptime_s": int(float((text_of("/proc/uptime") or "0").split()[0])),
    }


def text_of(path: str) -> str:
    """Return a short text file, empty where it is not there."""
    try:
        return Path(path).read_text("utf-8", "replace").strip()[:200]
    except OSError:
        return ""


def output(*argv: str) -> str:
    """Return what a program of this system says, empty where it is not there or fails to say."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            timeout=RUN_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode("utf-8", "replace").strip()


def failed_units() -> List[str]:
    """Return the names of the units that failed; none where there is no systemd."""
    listed = output("systemctl", "list-units", "--state=failed", "--plain", "--no-legend")
    return [line.split()[0][:200] for line in listed.splitlines() if line.split()][:FAILED_MAX]


def boot_entry() -> str:
    """Return the firmware's entry that was started ("0003 debian"), empty where none is known.

    Source: UEFI specification 2.10, 3.1.3 (load options) and 3.3 (BootCurrent).
    """
    number = efi_variable("BootCurrent")
    if len(number) != NUMBER_BYTES:
        return ""
    name = f"{int.from_bytes(number, 'little'):04X}"
    option = efi_variable(f"Boot{name}")
    words = option[OPTION_HEAD:].decode("utf-16-le", "replace").partition("\0")[0]
    return f"{name} {words}".strip()[:200]


def efi_variable(name: str) -> bytes:
    """Return the value of a variable, without the four bytes of its attributes."""
    try:
        return (EFI / "efivars" / f"{name}-{EFI_GLOBAL}").read_bytes()[4:]
    except OSError:
        return b""


def ask(told: Dict[str, Any], seen: Dict[str, Any]) -> Answer:
    """Tell each controller once, until one takes it."""
    body = json.dumps(
        {"job_id": told["job_id"], "node": told["node"], "ticket": told["ticket"], "seen": seen}
    ).encode()
    text = "no controller is named"
    for url in told["controllers"]:
        try:
            status, answer = post(url, str(told["ca_pem"]), body)
        except (OSError, http.client.HTTPException, ValueError) as exc:
            text = f"{url}: {exc!r}"
            continue
        if status == DONE:
            return Answer(f"told {url}", final=True)
        text = f"{url} answers {status} {answer.decode('utf-8', 'replace')}"
        if status in REFUSED and status not in LATER:
            return Answer(text, final=True)  # refused: asking again changes nothing
    return Answer(text, final=False)


def post(url: str, ca_pem: str, body: bytes) -> Tuple[int, bytes]:
    """Make one request to a controller of this CA; return status and answer."""
    parts = urlsplit(url)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if hasattr(ssl, "TLSVersion"):
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    else:  # Python 3.6
        context.options |= ssl.OP_NO_TLSv1 | ssl.OP_NO_TLSv1_1 | ssl.OP_NO_TLSv1_2
    context.verify_flags |= NO_CHECK_TIME
    context.load_verify_locations(cadata=ca_pem)
    plain = socket.create_connection((parts.hostname, parts.port or 443), ANSWER_S)
    try:
        connection = http.client.HTTPConnection(str(parts.hostname), timeout=ANSWER_S)
        connection.sock = context.wrap_socket(plain, server_hostname=SERVER_NAME)
        connection.request("POST", PATH, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.status, response.read(ANSWER_MAX)
        connection.close()
        return answer
    finally:
        plain.close()


def remove(told: Dict[str, Any], folder: Path) -> None:
    """Remove the ticket first, then all that was put here with it."""
    (folder / "told.json").unlink()
    for path in told["remove"]:
        try:
            Path(path).unlink()
        except OSError as exc:
            print(f"nodectl-first-boot: {exc}", flush=True)
    shutil.rmtree(str(folder), ignore_errors=True)
    output("systemctl", "daemon-reload")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
