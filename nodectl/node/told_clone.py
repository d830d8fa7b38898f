"""A clone that the controller follows: a job with its steps, and what will confirm its start.

The clone works on without a controller that answers; then nobody follows it, and that is said once.
What tells of the first start on the new disk gets a ticket that only this machine knows: the
controller is told its hash, together with what the new system has to be.
"""

import asyncio
import contextlib
import hashlib
import multiprocessing
import secrets
import signal
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Protocol, Self

from nodectl.boot.first_boot import FirstBoot
from nodectl.errors import NodectlError, RestoreFailed
from nodectl.events import Event, Note, Observer, StepProgress
from nodectl.ids import Root
from nodectl.node.client import ControlClient
from nodectl.node.clone import CloneReport, report_document
from nodectl.node.report import Reporter
from nodectl.node.state import Membership
from nodectl.trust.keys import KEY_BYTES

_LAST_WORD_S = 60.0  # for the controller to take the result
_PROGRESS_S = 0.5  # between two reports of progress
_STOPPED = "the clone was stopped on the node"
_KILLED = "the clone's process ended without a word: it was killed"


class Released(Protocol):
    """The release that is cloned."""

    @property
    def release(self) -> tuple[str, int, Root]:
        """Its name, generation and root."""


class ToldClone:
    """One clone; a context manager, and the observer that the clone tells its steps to."""

    def __init__(
        self,
        membership: Membership,
        image: Released,
        node: str,
        observer: Observer,
        *,
        ordered: int | None = None,
    ) -> None:
        """Follow the clone of `image` that will be `node`; nothing is told before `begin`.

        `ordered` is the job that the controller made for it; without one, a job is asked for.
        """
        self._membership = membership
        self._name, self._generation, self._root = image.release
        self._node = node
        self._observer = observer
        self._ticket = secrets.token_bytes(KEY_BYTES)
        self._voice: _Voice | None = None
        self._told = False
        self.awaits_start = False  # whether the job goes on until the new system has told
        self._ordered = ordered

    @property
    def job_id(self) -> int | None:
        """Return the job's id; None: no controller follows."""
        return None if self._voice is None else self._voice.job_id

    def on(self, event: Event) -> None:
        """Take one event: for whoever watches here, and for the job."""
        self._observer.on(event)
        if self._voice is not None:
            self._voice.on(event)

    def begin(self) -> FirstBoot | None:
        """Ask the controller for a job; return what the clone will carry, if there is one."""
        try:
            job_id = asyncio.run(self._ask_for_job())
        except NodectlError as exc:
            note = f"no job follows this clone, and its start will not be confirmed: {exc}"
            self._observer.on(Note(text=note))
            return None
        self._voice = _Voice(self._membership, self._node, job_id)
        self._observer.on(Note(text=f"job {job_id} follows this clone"))
        return FirstBoot(
            job_id=job_id,
            node=self._node,
            root=self._root.hex(),
            ticket=self._ticket,
            controllers=self._membership.controllers,
            ca_pem=self._membership.ca_pem,
        )

    async def _ask_for_job(self) -> int:
        if self._ordered is not None:
            return self._ordered
        async with ControlClient(self._membership) as client:
            body = {"image": self._name, "generation": self._generation}
            answer = await client.ask("POST", f"/v1/nodes/{self._node}/clones", body)
            return int(answer["job"]["job_id"])

    def applied(self, report: CloneReport) -> None:
        """Tell that the disk was written and read back, and what will come of it."""
        self._told = True
        if self._voice is None:
            return
        receipt: dict[str, object] = {
            "applied": report_document(report),
            "seconds": sum(report.seconds.values()),
        }
        voice, boot = self._voice, report.boot
        if boot is None:
            voice.say("succeed", receipt, step="applied", sentence="it boots nothing: it is data")
        elif boot.untold:
            sentence = f"boot not confirmed: {boot.untold}"
            voice.say("succeed", receipt, step="applied", sentence=sentence)
        else:
            voice.say("applied", receipt, self._awaited(report))
            self.awaits_start = True

    def _awaited(self, report: CloneReport) -> dict[str, str]:
        return {
            "ticket_sha256": hashlib.sha256(self._ticket).hexdigest(),
            "root": self._root.hex(),
            "root_uuid": report.filesystems["/"],
            "machine_id": report.machine_id,
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, exc: BaseException | None, __: TracebackType | None
    ) -> None:
        """Tell what went wrong, and wait until the controller has taken the last word."""
        if self._voice is None:
            return
        if not self._told:
            lines = exc.lines if isinstance(exc, RestoreFailed) else ()
            known = isinstance(exc, (NodectlError, OSError))
            self._voice.say("fail", str(exc) if known else _STOPPED, lines)
        if not self._voice.end(_LAST_WORD_S):
            note = f"the controller did not take the result of job {self._voice.job_id}"
            self._observer.on(Note(text=note))


async def tell_restart(membership: Membership, node: str, job_id: int) -> None:
    """Tell that the node goes down now, in order to start from its new disk.

    Raises:
        NodectlError: the controller does not answer, or does not take it.
    """
    async with ControlClient(membership) as client:
        await _ForNode(client, node).report(job_id, {"state": "rebooting", "step": "rebooting"})


class _ForNode:
    """Reports about a node by a client that may be another member's (an operator's)."""

    def __init__(self, client: ControlClient, node: str) -> None:
        self._client = client
        self._node = node

    async def report(self, job_id: int, body: Mapping[str, Any]) -> None:
        await self._client.ask("POST", f"/v1/jobs/{job_id}/nodes/{self._node}", body)


class _Voice:
    """The process that reports. The clone forks, so there may be no thread beside it."""

    def __init__(self, membership: Membership, node: str, job_id: int) -> None:
        self.job_id = job_id
        self._progress_at = 0.0
        context = multiprocessing.get_context("fork")
        heard, self._pipe = context.Pipe(duplex=False)
        words = (membership, node, job_id, heard, self._pipe)
        self._process = context.Process(target=_speak, args=words, daemon=True)
        self._process.start()
        heard.close()

    def on(self, event: Event) -> None:
        """Pass an event on; of progress only as much as anybody will read."""
        if isinstance(event, StepProgress):
            now = time.monotonic()
            if now - self._progress_at < _PROGRESS_S:
                return
            self._progress_at = now
        self.say("on", event)

    def say(self, method: str, *arguments: object, **named: object) -> None:
        """Call a method of the reporter; one that is gone hears nothing."""
        with contextlib.suppress(OSError):
            self._pipe.send((method, arguments, named))

    def end(self, within_s: float) -> bool:
        """Wait for the last word to be taken; say whether it was."""
        self._pipe.close()
        self._process.join(within_s)
        taken = self._process.exitcode == 0
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        return taken


def _speak(
    membership: Membership, node: str, job_id: int, heard: Connection, other_end: Connection
) -> None:
    """Report what comes through the pipe until the last word was taken; a process of its own."""
    other_end.close()  # else the clone's end would never be noticed
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # meant for the clone, which then says how it ended
    asyncio.run(_report(membership, node, job_id, heard))


async def _report(membership: Membership, node: str, job_id: int, heard: Connection) -> None:
    loop = asyncio.get_running_loop()
    async with ControlClient(membership) as client:
        reporter = Reporter(_ForNode(client, node), job_id)

        def listen() -> None:
            try:
                method, arguments, named = heard.recv()
            except EOFError:
                loop.remove_reader(heard.fileno())
                reporter.end(_KILLED)
            else:
                getattr(reporter, method)(*arguments, **named)

        loop.add_reader(heard.fileno(), listen)
        await reporter.run()
