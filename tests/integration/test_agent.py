"""The agent of a node against a real controller; the swarm and the restore are stand-ins."""

import asyncio
import contextlib
import dataclasses
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from controlling import (
    LIMITS,
    ROOT,
    ROOT_BLOCK,
    Controller,
    FakeSwarm,
    Recorder,
    new_controller,
    run_async,
    running,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nodectl.background import background
from nodectl.catalog.records import Job, JobKind, JobState, WorkState
from nodectl.catalog.sqlite import SqliteCatalog
from nodectl.controller.jobs import Patience
from nodectl.controller.retention import Retention, retain
from nodectl.errors import NodesFailed, SwarmStalled
from nodectl.events import Note, StepFinished, StepProgress
from nodectl.ids import Root
from nodectl.node.agent import Agent
from nodectl.node.client import ControlClient, JobView, Peers
from nodectl.node.report import Pace
from nodectl.node.state import HeldRoot, Membership, StateFolder
from nodectl.node.watch import check_all_done, watch_job
from nodectl.trust.order import sign_order

PACE = Pace(
    interval_s=0.02,
    still_here_s=0.5,
    retry_first_s=0.05,
    retry_most_s=0.2,
    seeder_within_s=0.05,
)
BLOCK_2 = b"the root block of generation 2"
ROOT_2 = Root(blake3(BLOCK_2).digest())

CHILD = """
import json, sys
print(json.dumps({"event": "StepStarted", "step": "restore", "total": 10, "node": ""}), file=sys.stderr)
print("a word by the way", file=sys.stderr)
if sys.argv[1] == "/bad":
    print("nodectl: no space left on /bad", file=sys.stderr)
    sys.exit(12)
print(json.dumps({"written_bytes": 7, "path": sys.argv[1]}))
"""  # noqa: E501 - a program


def _argv(job: Job, _state: StateFolder) -> Sequence[str]:
    return [sys.executable, "-c", CHILD, str(job.options["path"])]


@dataclass(slots=True)
class Node:
    """A node of the test: its state, its membership, its swarm."""

    state: StateFolder
    membership: Membership
    swarm: FakeSwarm

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Run its agent."""
        async with ControlClient(self.membership, limits=LIMITS) as client:
            agent = Agent(
                self.state,
                client,
                self.swarm,
                peer_url=f"http://{self.membership.node}.example:1",
                restore_argv=_argv,
                pace=PACE,
            )
            async with background(agent.run()):
                yield


class Lab:
    """A controller `c` and its nodes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = new_controller(folder / "c")

    async def node(self, controller: Controller, name: str) -> Node:
        """Let a node join; `c` is the controller's own."""
        state = self.state if name == "c" else StateFolder(self.folder / name)
        if name != "c":
            await controller.member(state.folder, name)
        membership = dataclasses.replace(state.membership(), controllers=(controller.url,))
        node = Node(state, membership, FakeSwarm())
        if name == "c":
            node.swarm.stored |= {ROOT, ROOT_2}
        return node


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


async def _publish(client: ControlClient, root: Root = ROOT, block: bytes = ROOT_BLOCK) -> None:
    await client.publish("golden", root, block, kind="tree", totals={"files": 1})


async def _until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Wait for a condition of another task; the test's time limit bounds it."""
    while True:
        outcome = condition()
        if outcome is True or (not isinstance(outcome, bool) and await outcome):
            return
        await asyncio.sleep(0.02)


async def _end(client: ControlClient, view: JobView) -> JobView:
    return await watch_job(client, view.job.job_id, Recorder())


def _row(view: JobView, node: str) -> tuple[WorkState, str, str]:
    (work,) = (row.work for row in view.rows if row.work.node == node)
    return work.state, work.step, work.sentence


def test_nodes_fetch_and_the_origin_seeds(lab: Lab) -> None:
    async def main() -> None:
        async with running(lab.state) as controller, controller.operator() as operator:
            c, n1, n2 = [await lab.node(controller, name) for name in ("c", "n1", "n2")]
            n1.swarm.gate.clear()
            n2.swarm.gate.clear()
            await _publish(operator)
            async with c.serving(), n1.serving(), n2.serving():
                view = await operator.create_job(JobKind.FETCH, "golden", ["n1", "n2"])
                await _until(lambda: _met(n1, {"c", "n2"}) and _met(n2, {"c", "n1"}))
                n1.swarm.gate.set()
                n2.swarm.gate.set()
                view = await _end(operator, view)
            assert view.state is JobState.OK
            check_all_done(view)
            receipt = next(r.work.receipt for r in view.rows if r.work.node == "n1")
            assert receipt["sealed_bytes"] == 10
            assert (receipt["root"], receipt["generation"]) == (ROOT.hex(), 1)
            assert [h.complete for h in n1.state.held_roots()] == [True]
            assert n1.state.seen_generation("golden") == 1

    run_async(main())


def _met(node: Node, names: set[str]) -> bool:
    return names <= {peer.node for peer in node.swarm.met}


def test_one_bad_node_does_not_hide(lab: Lab) -> None:
    async def main() -> None:
        async with running(lab.state) as controller, controller.operator() as operator:
            n1, n2 = [await lab.node(controller, name) for name in ("n1", "n2")]
            n2.swarm.error = SwarmStalled("no peer sent anything", hint="look at the seeder")
            await _publish(operator)
            async with n1.serving(), n2.serving():
                view = await operator.create_job(JobKind.FETCH, "golden", ["n1", "n2"])
                view = await _end(operator, view)
            assert view.state is JobState.FAILED
            assert _row(view, "n1")[0] is WorkState.DONE
            sentence = "no peer sent anything (look at the seeder)"
            assert _row(view, "n2") == (WorkState.FAILED, "fetch", sentence)
            with pytest.raises(NodesFailed, match="1 of 2 nodes failed: n2 at step fetch: no peer"):
                check_all_done(view)

    run_async(main())


def test_an_unforeseen_error_fails_the_job_and_not_the_agent(lab: Lab) -> None:
    async def main() -> None:
        async with running(lab.state) as controller, controller.operator() as operator:
            n1 = await lab.node(controller, "n1")
            await _publish(operator)
            async with n1.serving():
                n1.swarm.error = ZeroDivisionError("odd")
                view = await operator.create_job(JobKind.FETCH, "golden", ["n1"])
                view = await _end(operator, view)
                assert "ZeroDivisionError" in _row(view, "n1")[2]
                assert any("ZeroDivisionError" in line for line in view.rows[1].work.lines)
                n1.swarm.error = OSError(28, "No space left on device", "/var/x")
                view = await operator.create_job(JobKind.FETCH, "golden", ["n1"])
                view = await _end(operator, view)
                assert _row(view, "n1")[2] == "No space left on device: /var/x"
                n1.swarm.error = None
                view = await operator.create_job(JobKind.FETCH, "golden", ["n1"])
                assert (await _end(operator, view)).state is JobState.OK

    run_async(main())


def test_the_controller_may_die_meanwhile(lab: Lab) -> None:
    async def main() -> None:
        recorder = Recorder()
        async with asyncio.TaskGroup() as group, contextlib.AsyncExitStack() as stack:
            async with running(lab.state) as controller, controller.operator() as operator:
                n1 = await lab.node(controller, "n1")
                n1.swarm.gate.clear()
                await _publish(operator)
                await stack.enter_async_context(n1.serving())
                view = await operator.create_job(JobKind.FETCH, "golden", ["n1"])
                client = await stack.enter_async_context(controller.operator())
                watch = group.create_task(watch_job(client, view.job.job_id, recorder))
                await _until(lambda: _at_step(operator, view, "fetch"))
            n1.swarm.gate.set()  # nobody is there to be told
            await _until(lambda: _fetched(n1))
            async with running(lab.state, port=controller.port):
                final = await watch
                assert final.state is JobState.OK
        assert any(isinstance(e, Note) and "the nodes go on" in e.text for e in recorder.events)

    run_async(main())


async def _at_step(client: ControlClient, view: JobView, step: str) -> bool:
    rows = (await client.job(view.job.job_id)).rows
    return any(row.work.step == step and row.done == 5 for row in rows)


def _fetched(node: Node) -> bool:
    return bool(node.swarm.fetched)


def test_a_node_goes_on_with_its_job_after_its_own_restart(lab: Lab) -> None:
    async def main() -> None:
        async with running(lab.state) as controller, controller.operator() as operator:
            n1 = await lab.node(controller, "n1")
            n1.swarm.gate.clear()
            await _publish(operator)
            view = await operator.create_job(JobKind.FETCH, "golden", ["n1"])
            async with n1.serving():
                await _until(lambda: _at_step(operator, view, "fetch"))
            assert [h.complete for h in n1.state.held_roots()] == [False]
            n1.swarm = FakeSwarm()
            async with n1.serving():
                assert (await _end(operator, view)).state is JobState.OK
            n1.swarm.stored.add(ROOT)
            async with n1.serving():
                await _until(lambda: _announced(operator, "n1"))
            assert list(n1.swarm.roots) == [ROOT]

    run_async(main())


def test_a_root_whose_release_was_deleted_is_kept_and_announced_no_more(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced: Counter[Root] = Counter()
    announce = ControlClient.announce

    async def counted(self: ControlClient, root: Root, **what: Any) -> Peers:  # noqa: ANN401
        announced[root] += "n1" in what["url"]
        return await announce(self, root, **what)

    monkeypatch.setattr(ControlClient, "announce", counted)
    monkeypatch.setattr("nodectl.node.agent._ANNOUNCE_S", 0.02)

    async def main() -> None:
        async with running(lab.state) as controller, controller.operator() as operator:
            c, n1 = [await lab.node(controller, name) for name in ("c", "n1")]
            async with c.serving(), n1.serving():
                for root, block in ((ROOT, ROOT_BLOCK), (ROOT_2, BLOCK_2)):
                    await _publish(operator, root, block)
                    view = await operator.create_job(JobKind.FETCH, "golden", ["n1"])
                    assert (await _end(operator, view)).state is JobState.OK
                with SqliteCatalog(lab.state.catalog) as catalog:
                    assert len(retain(catalog, Retention(keep_last=1), now=0.0)) == 1
                for _ in range(2):  # one of them may be under way
                    announced.clear()
                    await _until(lambda: announced[ROOT_2] > 5)
                assert announced[ROOT] == 0
                assert {held.root for held in n1.state.held_roots()} == {ROOT, ROOT_2}
                assert n1.swarm.holding(ROOT).complete
            # Released again, it is offered again; not only after a restart.
            monkeypatch.setattr("nodectl.node.agent._FORGOTTEN_S", 0.05)
            async with n1.serving():
                await _until(lambda: announced[ROOT] > 2)
                await _publish(operator)
                await _until(lambda: _announced(operator, "n1"))

    run_async(main())


def test_what_newer_generations_replaced_is_served_no_more(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that runs for months holds in memory what its state holds, not all that ever was."""
    monkeypatch.setattr("nodectl.node.agent._ANNOUNCE_S", 0.02)
    blocks = [b"the root block of generation %d" % number for number in range(1, 6)]
    roots = [Root(blake3(block).digest()) for block in blocks]

    async def main() -> None:
        async with running(lab.state) as controller, controller.operator() as operator:
            n1 = await lab.node(controller, "n1")
            async with n1.serving():
                for root, block in zip(roots, blocks, strict=True):
                    await _publish(operator, root, block)
                    view = await operator.create_job(JobKind.FETCH, "golden", ["n1"])
                    assert (await _end(operator, view)).state is JobState.OK
                await _until(lambda: set(n1.swarm.roots) == set(roots[2:]))
            assert {held.root for held in n1.state.held_roots()} == set(roots[2:])

    run_async(main())


def test_of_what_was_captured_here_the_last_generations_are_served(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are kept for good; one that a job names is offered again, and an older one goes."""
    monkeypatch.setattr("nodectl.node.agent._ANNOUNCE_S", 0.02)
    monkeypatch.setattr("nodectl.node.agent._OFFERED_MAX", 2)
    blocks = [b"the root block of generation %d" % number for number in range(1, 5)]
    roots = [Root(blake3(block).digest()) for block in blocks]

    async def main() -> None:
        async with running(lab.state) as controller, controller.operator() as operator:
            c, n1 = [await lab.node(controller, name) for name in ("c", "n1")]
            c.swarm.stored |= set(roots)

            async def capture(number: int) -> None:
                root, block = roots[number - 1], blocks[number - 1]
                await _publish(operator, root, block)
                ticket = await operator.ticket(root)
                c.state.hold_root(HeldRoot(
                    root=root, swarm_key=ticket.swarm_key, name="golden", generation=number,
                    root_block=block, complete=True, own=True,
                ))  # fmt: skip

            for number in (1, 2, 3):
                await capture(number)
            async with c.serving(), n1.serving():
                await _until(lambda: set(c.swarm.roots) == set(roots[1:3]))
                await capture(4)  # while it serves: nobody has to name it first
                await _until(lambda: set(c.swarm.roots) == set(roots[2:]))
                job = await operator.create_job(
                    JobKind.FETCH, "golden", ["n1"], generation=1, options={"allow_rollback": True}
                )
                assert (await _end(operator, job)).state is JobState.OK
                await _until(lambda: set(c.swarm.roots) == {roots[0], roots[3]})
            assert len(c.state.held_roots()) == 4

    run_async(main())


async def _announced(client: ControlClient, name: str) -> bool:
    peers = (await client.ticket(ROOT)).peers
    return [(p.node, p.url, p.complete) for p in peers] == [
        (name, f"http://{name}.example:1", True)
    ]


def test_a_release_that_is_not_signed_by_the_publisher_is_refused(lab: Lab) -> None:
    async def main() -> None:
        async with running(lab.state) as controller, controller.operator() as operator:
            n1 = await lab.node(controller, "n1")
            (own,) = n1.membership.publishers
            # The node knows that the key was revoked; what it is told now is older.
            n1.state.pin_publishers((dataclasses.replace(own, revoked=True),))
            await _publish(operator)
            async with n1.serving():
                view = await operator.create_job(JobKind.FETCH, "golden", ["n1"])
                view = await _end(operator, view)
            state, step, sentence = _row(view, "n1")
            assert (state, step) == (WorkState.FAILED, "ticket")
            assert "unknown publisher" in sentence
            assert n1.swarm.fetched == []

    run_async(main())


def test_an_older_generation_needs_leave(lab: Lab) -> None:
    async def main() -> None:
        async with running(lab.state) as controller, controller.operator() as operator:
            n1 = await lab.node(controller, "n1")
            await _publish(operator)
            await _publish(operator, ROOT_2, BLOCK_2)
            async with n1.serving():
                last = await operator.create_job(JobKind.FETCH, "golden", ["n1"])
                assert (await _end(operator, last)).state is JobState.OK
                first = await operator.create_job(JobKind.FETCH, "golden", ["n1"], generation=1)
                refused = await _end(operator, first)
                assert "generation 1 of golden is older than 2" in _row(refused, "n1")[2]
                first = await operator.create_job(
                    JobKind.FETCH, "golden", ["n1"], generation=1, options={"allow_rollback": True}
                )
                assert (await _end(operator, first)).state is JobState.OK
            assert n1.swarm.fetched == ["golden 2", "golden 1"]

    run_async(main())


def test_a_restore_is_a_child_whose_words_are_heard(lab: Lab) -> None:
    async def main() -> None:
        async with running(lab.state) as controller, controller.operator() as operator:
            n1 = await lab.node(controller, "n1")
            await _publish(operator)
            async with n1.serving():
                good = await operator.create_job(
                    JobKind.RESTORE, "golden", ["n1"], options={"path": "/good"}
                )
                good = await _end(operator, good)
                bad = await operator.create_job(
                    JobKind.RESTORE, "golden", ["n1"], options={"path": "/bad"}
                )
                bad = await _end(operator, bad)
            receipt = next(r.work.receipt for r in good.rows if r.work.node == "n1")
            assert receipt["restore"] == {"written_bytes": 7, "path": "/good"}
            assert _row(bad, "n1") == (WorkState.FAILED, "restore", "no space left on /bad")
            lines = next(r.work.lines for r in bad.rows if r.work.node == "n1")
            assert lines == ("a word by the way", "nodectl: no space left on /bad")

    run_async(main())


def test_a_node_that_is_off_is_named(lab: Lab) -> None:
    async def main() -> None:
        patience = Patience(take_within_s=0.1)
        async with (
            running(lab.state, patience=patience) as controller,
            controller.operator() as operator,
        ):
            await lab.node(controller, "n1")
            await _publish(operator)
            view = await operator.create_job(JobKind.FETCH, "golden", ["n1"])
            view = await _end(operator, view)
            state, step, sentence = _row(view, "n1")
            assert (state, step) == (WorkState.FAILED, "take")
            assert sentence.startswith("n1 did not take the job")

    run_async(main())


def test_watching_tells_the_progress_of_each_node(lab: Lab) -> None:
    async def main() -> None:
        recorder = Recorder()
        async with running(lab.state) as controller, controller.operator() as operator:
            n1 = await lab.node(controller, "n1")
            n1.swarm.gate.clear()
            await _publish(operator)
            async with n1.serving(), asyncio.TaskGroup() as group:
                view = await operator.create_job(JobKind.FETCH, "golden", ["n1"])
                group.create_task(watch_job(operator, view.job.job_id, recorder))
                progress = StepProgress(step="fetch", done=5, total=10, node="n1")
                await _until(lambda: _heard(recorder, progress))
                n1.swarm.gate.set()
        finished = [(e.step, e.node) for e in recorder.events if isinstance(e, StepFinished)]
        assert ("fetch", "n1") in finished
        assert json.dumps([type(e).__name__ for e in recorder.events])

    run_async(main())


def _heard(recorder: Recorder, event: object) -> bool:
    return event in recorder.events


def test_work_without_the_controllers_order_is_not_done(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Who can make the API say something, but has not the job key, restores nothing."""
    forger = Ed25519PrivateKey.generate()
    monkeypatch.setattr(
        "nodectl.controller.api.sign_order", lambda order, _: sign_order(order, forger)
    )

    async def main() -> None:
        async with running(lab.state) as controller, controller.operator() as operator:
            c, n1 = [await lab.node(controller, name) for name in ("c", "n1")]
            await _publish(operator)
            async with c.serving(), n1.serving():
                view = await operator.create_job(
                    JobKind.RESTORE, "golden", ["n1"], options={"path": str(tmp_path / "t")}
                )
                view = await _end(operator, view)
            state, _, sentence = _row(view, "n1")
            assert state is WorkState.FAILED
            assert "another key than the controller's" in sentence
            assert n1.swarm.fetched == []

    run_async(main())
