"""A node that was removed from the realm: out of the control plane at once, of the swarm soon."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from controlling import ROOT, ROOT_BLOCK, new_controller, run_async, running
from swarm_lab import KEY, Lab, lab, make_frames, make_task

from nodectl.errors import NotAllowed, SwarmStalled
from nodectl.node.client import ControlClient
from nodectl.store.model import StoredFrame
from nodectl.swarm.keys import OVERLAP_S, SwarmKeys
from nodectl.swarm.limits import Limits
from nodectl.swarm.share import SwarmTask

NEW = b"n" * 32
BRIEF = Limits(
    store_gap_s=0.01,
    have_gap_s=0.02,
    dead_first_s=0.1,
    ask_first_s=0.1,
    progress_s=1.0,
    stall_s=2.0,
)


def test_a_removal_changes_the_keys_of_the_swarms_for_those_who_stay(tmp_path: Path) -> None:
    async def main() -> None:
        state = new_controller(tmp_path / "c")
        async with running(state) as controller:
            stays = await controller.member(tmp_path / "n1", "n1")
            goes = await controller.member(tmp_path / "n2", "n2")
            async with (
                controller.operator() as operator,
                ControlClient(stays) as one,
                ControlClient(goes) as two,
            ):
                await operator.publish("golden", ROOT, ROOT_BLOCK, kind="tree", totals={})
                before = (await one.ticket(ROOT)).swarm_key
                assert (await two.ticket(ROOT)).swarm_key == before
                told = await one.announce(ROOT, url="http://h:1", have_bytes=0, complete=False)
                assert told.swarm_key == before
                await operator.remove_node("n2")
                with pytest.raises(NotAllowed):
                    await two.announce(ROOT, url="http://h:2", have_bytes=0, complete=False)
                told = await one.announce(ROOT, url="http://h:1", have_bytes=0, complete=False)
                assert told.swarm_key != before
                assert (await one.ticket(ROOT)).swarm_key == told.swarm_key
        async with running(state) as controller, controller.operator() as operator:
            assert (await operator.ticket(ROOT)).swarm_key == told.swarm_key  # over a restart

    run_async(main())


async def _add(
    made: Lab, task: SwarmTask, keys: SwarmKeys, name: str, frames: Sequence[StoredFrame]
) -> None:
    made.task = dataclasses.replace(task, keys=keys)
    await made.add(name, frames)


def test_the_old_key_opens_nothing_after_the_overlap() -> None:
    frames = make_frames(8, 1000)
    task = make_task(frames, 2)
    now = [time.monotonic()]

    async def main() -> None:
        async with lab(task, limits=BRIEF) as made:
            served = SwarmKeys(KEY, lambda: now[0])
            await _add(made, task, served, "seeder", frames)
            served.change(NEW)
            await _add(made, task, SwarmKeys(KEY), "early", [])
            await made.peers["early"].fetch(limits=BRIEF)
            assert made.peers["early"].share.complete
            now[0] += OVERLAP_S
            del made.tracker.known["early"]
            await _add(made, task, SwarmKeys(KEY), "late", [])
            with pytest.raises(SwarmStalled):
                await made.peers["late"].fetch(limits=BRIEF)
            assert made.peers["late"].share.held_bytes == 0

    run_async(main())


def test_who_heard_of_the_new_key_first_is_served_by_who_has_not() -> None:
    frames = make_frames(8, 1000)
    task = make_task(frames, 2)

    async def main() -> None:
        async with lab(task) as made:
            await _add(made, task, SwarmKeys(KEY), "seeder", frames)
            ahead = SwarmKeys(KEY)
            ahead.change(NEW)
            await _add(made, task, ahead, "ahead", [])
            await made.peers["ahead"].fetch()
            assert made.peers["ahead"].share.complete

    run_async(main())
