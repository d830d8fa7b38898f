"""Block images through real commands: a realm of one, images to capture, what a command says."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import Commands

MIB = 1 << 20


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    made = Commands(tmp_path)
    made.ok("c", "init", "--realm", "lab", "--node", "c", "--listen", "127.0.0.1:0")
    yield made
    made.end()


def make_image(path: Path, *, seed: int = 1, size: int = 24 * MIB) -> bytes:
    """Write a sparse image: data, a hole, zeros, more data; return its bytes."""
    rng = random.Random(seed)
    with path.open("wb") as file:
        file.write(rng.randbytes(3 * MIB))
        file.seek(9 * MIB)
        file.write(bytes(MIB) + random.Random(0).randbytes(4 * MIB))
        file.truncate(size)
    return path.read_bytes()


def capture(commands: Commands, path: Path, *words: str) -> dict[str, Any]:
    said = commands.ok("c", "image", "capture-block", "vm", "--device", str(path), "--json", *words)
    return dict(json.loads(said))


def restore(commands: Commands, node: str, target: Path | str, *words: str) -> dict[str, Any]:
    said = commands.ok(node, "image", "restore", "vm", str(target), "--json", *words)
    return dict(json.loads(said))


def refused(commands: Commands, status: int, *words: str) -> str:
    """Run a command that must fail after it began to tell of its progress."""
    done = commands.run("c", *words)
    assert done.returncode == status, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stderr
