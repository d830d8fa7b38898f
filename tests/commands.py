"""nodectl as a user starts it: real processes, free ports, every one of them ended."""

import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

WAIT_S = 60


class Commands:
    """Runs nodectl commands; ends what still runs when the test is over."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.prefix: dict[str, list[str]] = {}  # node: how its network namespace is entered
        self._started: list[subprocess.Popen[str]] = []

    def _argv(self, node: str, *words: str) -> list[str]:
        return [*self.prefix.get(node, []), sys.executable, "-m", "nodectl", *words]

    def run(self, node: str, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end with the state folder of one node."""
        environment = {**os.environ, "NODECTL_STATE": str(self.folder / node)}
        return subprocess.run(
            self._argv(node, *words),
            env=environment,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )

    def ok(self, node: str, *words: str) -> str:
        """Run a command that must succeed; return what it printed."""
        done = self.run(node, *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def fails(self, node: str, status: int, *words: str) -> str:
        """Run a command that must fail with one status; return its story."""
        done = self.run(node, *words)
        assert done.returncode == status, (done.returncode, done.stderr)
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        assert done.stderr.startswith("nodectl: ")
        return done.stderr

    def start(self, node: str, *words: str) -> "subprocess.Popen[str]":
        """Start a command that goes on."""
        process = subprocess.Popen(
            self._argv(node, *words),
            env={**os.environ, "NODECTL_STATE": str(self.folder / node)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def serve(self, node: str, *words: str) -> "tuple[subprocess.Popen[str], dict[str, Any]]":
        """Start `serve` and wait until it is ready."""
        process = self.start(node, "serve", "--peer-listen", "127.0.0.1:0", "--json", *words)
        return process, json.loads(first_line(process))

    def end(self) -> None:
        """End every process, and read their pipes to the end."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.communicate(timeout=WAIT_S)


def first_line(process: "subprocess.Popen[str]") -> str:
    """Return the first line of a process's output, within the time limit."""
    stream = process.stdout
    assert stream is not None
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=lambda: lines.put(stream.readline()), daemon=True).start()
    line = lines.get(timeout=WAIT_S)
    assert line, process.communicate(timeout=WAIT_S)
    return line


def stop(process: "subprocess.Popen[str]", number: int) -> str:
    """Send a signal; the process must end well, and soon. Return its story."""
    process.send_signal(number)
    _, story = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, story
    return story
