"""What this machine can do: hash, compress, seal, open, its disk, its own network stack.

Each figure takes a second or a few, all together well under a minute. The code measured is the code
that captures, fetches and restores; the data is made up, half noise and half words, and shrinks to
about a half. Figures are bytes of plain data a second unless they say otherwise.
"""

import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nodectl.content.frame import LEVEL_FAST, FrameCodec
from nodectl.content.workers import worker_count
from nodectl.errors import NoSpace, PathMissing
from nodectl.events import Observer, step
from nodectl.trust.keys import ContentKeys
from nodectl.units import MIB, format_size

_CHUNK = MIB
_DISK_BYTES = 512 * MIB
_DISK_PIECE = 16 * MIB  # made durable, and then the next
_DISK_LEAST = 64 * MIB
_DISK_SHARE = 8  # at most this part of what is free
_SYNC_BYTES = 4096
_WORDS = b"the of node disk image swarm chunk frame store kernel boot module library system "


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """Where, and for how long each."""

    folder: Path  # on the disk to measure
    seconds: float = 1.5  # of each figure; the disk's get four times as long


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """Bytes a second, unless another unit is named."""

    cores: int
    hash_one: float  # BLAKE3, one core
    hash_all: float
    compress_one: float  # zstd -3
    seal_one: float  # compress, AES-256-GCM, BLAKE3: what a capture does with a chunk
    seal_all: float
    open_one: float  # check, decrypt, decompress, check: what a restore does with a frame
    open_all: float
    disk_write: float  # durable, in large pieces
    disk_read: float  # of what was just written, not from memory
    disk_sync_ms: float  # milliseconds until 4 KiB are durable, median
    loopback: float  # one TCP connection of this machine to itself
    links: dict[str, int]  # network card: bits a second, as the kernel says
    folder: str

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {
            name: int(value) if isinstance(value, float) and name != "disk_sync_ms" else value
            for name, value in asdict(self).items()
        }


def run_bench(options: BenchOptions, observer: Observer) -> BenchResult:
    """Measure everything, one after the other.

    Raises:
        PathMissing: there is no such folder.
        NoSpace: too little is free in it.
    """
    if not options.folder.is_dir():
        raise PathMissing(f"there is no directory {options.folder}", hint="name one with --work")
    size = _disk_bytes(options.folder)
    codec, plain, cores = FrameCodec(_keys(), level=LEVEL_FAST), _made_up(), worker_count()
    frame = codec.seal(plain, codec.chunk_id(plain))

    def rate(work: Callable[[], object], threads: int = 1) -> float:
        return _rate(work, len(plain), threads, options.seconds)

    def seal() -> object:
        return codec.seal(plain, codec.chunk_id(plain))

    with step(observer, "hash"):
        hash_one, hash_all = (rate(lambda: codec.chunk_id(plain), n) for n in (1, cores))
    with step(observer, "compress and seal"):
        compress_one = rate(lambda: codec.compress(plain))
        seal_one, seal_all = (rate(seal, n) for n in (1, cores))
    with step(observer, "open"):
        open_one, open_all = (
            rate(lambda: codec.open(frame.sealed, frame.ref), n) for n in (1, cores)
        )
    with step(observer, "disk"):
        disk_write, disk_read, disk_sync_ms = _disk(options, size, plain)
    with step(observer, "loopback"):
        loopback = _loopback(options.seconds)
    return BenchResult(
        cores=cores,
        hash_one=hash_one,
        hash_all=hash_all,
        compress_one=compress_one,
        seal_one=seal_one,
        seal_all=seal_all,
        open_one=open_one,
        open_all=open_all,
        disk_write=disk_write,
        disk_read=disk_read,
        disk_sync_ms=disk_sync_ms,
        loopback=loopback,
        links=_links(Path("/sys/class/net")),
        folder=str(options.folder),
    )


def _keys() -> ContentKeys:
    return ContentKeys(chunk_id=os.urandom(32), seal=os.urandom(32), nonce=os.urandom(32))


def _made_up() -> bytes:
    """Return one chunk."""
    words = (_WORDS * (4096 // len(_WORDS) + 1))[:4096]
    return b"".join(os.urandom(4096) + words for _ in range(_CHUNK // 8192))


def _rate(work: Callable[[], object], size: int, threads: int, seconds: float) -> float:
    """Return how many bytes a second `work`, which does `size` of them, does on some threads."""
    work()  # what is made once is made before
    began = time.perf_counter()
    until = began + seconds

    def again() -> int:
        times = 0
        while not times or time.perf_counter() < until:
            work()
            times += 1
        return times

    with ThreadPoolExecutor(threads) as pool:
        times = sum(one.result() for one in [pool.submit(again) for _ in range(threads)])
    return times * size / (time.perf_counter() - began)


# ---------------------------------------------------------------- disk


def _disk_bytes(folder: Path) -> int:
    """Return how much may be written."""
    free = os.statvfs(folder)
    size = min(_DISK_BYTES, free.f_bavail * free.f_frsize // _DISK_SHARE)
    if size < _DISK_LEAST:
        raise NoSpace(
            f"measuring the disk of {folder} needs {format_size(_DISK_LEAST * _DISK_SHARE)} free",
            hint="name a folder on another disk with --work",
        )
    return size


def _disk(options: BenchOptions, size: int, plain: bytes) -> tuple[float, float, float]:
    """Return bytes/s written durably, bytes/s read back, and ms until 4 KiB are durable."""
    seconds = 4 * options.seconds
    with tempfile.TemporaryFile(dir=options.folder, buffering=0) as file:
        fd = file.fileno()
        began = time.perf_counter()
        for written in _pieces(size, began + seconds):
            for at in range(written, written + _DISK_PIECE, len(plain)):
                os.pwrite(fd, plain, at)
            os.fdatasync(fd)
        size = os.fstat(fd).st_size
        write = size / (time.perf_counter() - began)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        began = time.perf_counter()
        done = 0
        for at in _pieces(size, began + seconds):
            done += sum(
                len(os.pread(fd, _CHUNK, at + one)) for one in range(0, _DISK_PIECE, _CHUNK)
            )
        read = done / (time.perf_counter() - began)
        return write, read, _sync_ms(fd, options.seconds)


def _pieces(size: int, until: float) -> Iterator[int]:
    """Yield where each piece begins, as long as there is time; at least one."""
    for at in range(0, size - _DISK_PIECE + 1, _DISK_PIECE):
        yield at
        if time.perf_counter() >= until:
            return


def _sync_ms(fd: int, seconds: float) -> float:
    times: list[float] = []
    until = time.perf_counter() + seconds
    while not times or time.perf_counter() < until:
        began = time.perf_counter()
        os.pwrite(fd, bytes([len(times) % 251]) * _SYNC_BYTES, 0)
        os.fdatasync(fd)
        times.append(1000 * (time.perf_counter() - began))
    return sorted(times)[len(times) // 2]


# ---------------------------------------------------------------- network


def _loopback(seconds: float) -> float:
    """Return the bytes/s of one TCP connection from this process to itself."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        sender = threading.Thread(target=_send, args=(server.getsockname(), seconds))
        sender.start()
        server.settimeout(10.0)
        connection, _ = server.accept()
        with closing(connection):
            connection.settimeout(10.0)
            began = time.perf_counter()
            buffer, done = bytearray(_CHUNK), 0
            while got := connection.recv_into(buffer):
                done += got
            taken = time.perf_counter() - began
        sender.join()
    return done / taken


def _send(address: tuple[str, int], seconds: float) -> None:
    data = bytes(_CHUNK)
    until = time.perf_counter() + seconds
    with socket.create_connection(address, timeout=10.0) as connection, suppress(OSError):
        connection.sendall(data)  # once, however busy the machine is
        while time.perf_counter() < until:
            connection.sendall(data)


def _links(folder: Path) -> dict[str, int]:
    """Return the network cards that are up, with the bits a second that they are set to."""
    found = {}
    for card in sorted(folder.glob("*")):
        with suppress(OSError, ValueError):  # virtual ones have no speed, those that are down none
            speed = int((card / "speed").read_text())
            if speed > 0 and (card / "operstate").read_text().strip() == "up":
                found[card.name] = speed * 10**6
    return found


# ---------------------------------------------------------------- what it means


def advice(result: BenchResult) -> tuple[str, ...]:
    """Return what bounds a capture and a restore on this machine, one sentence each. Pure."""
    restore = {
        f"its disk, writing {_rate_text(result.disk_write)}": result.disk_write,
        f"opening frames on {result.cores} cores, {_rate_text(result.open_all)}": result.open_all,
    }
    capture = {
        f"its disk, reading {_rate_text(result.disk_read)}": result.disk_read,
        f"sealing on {result.cores} cores, {_rate_text(result.seal_all)}": result.seal_all,
    }
    slowest = min(restore.values())
    lines = [
        f"a capture here is bound by {min(capture, key=lambda one: capture[one])}",
        f"a restore here is bound by {min(restore, key=lambda one: restore[one])}",
    ]
    if not result.links:
        lines.append(
            f"a network of more than {slowest * 8 / 1e9:.1f} Gbit/s to this node gains nothing "
            "(what travels is compressed: less may do)"
        )
    for card, bits in result.links.items():
        which = "the network" if bits / 8 < slowest else "this machine"
        lines.append(f"of {card} ({bits / 1e9:g} Gbit/s) and this machine, {which} is the slower")
    return tuple(lines)


def _rate_text(rate: float) -> str:
    return f"{format_size(int(rate))}/s"
