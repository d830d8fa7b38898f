"""The main job on one machine: a controller and some peers as real processes, on loopback.

Capture, swarm, clone onto every peer (loop disks as root, else directories), compare, then a second
generation in place, and a disk image, block by block. All of it goes through the command line, as
an administrator would do it.
"""

import asyncio
import contextlib
import json
import os
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from nodectl.errors import CommandFailed, NodectlError, NoSpace, PathMissing
from nodectl.events import Event, Note, Observer, StepFinished, StepProgress, StepStarted, step
from nodectl.node.demo_result import BlockResult, DemoOptions, DemoResult, NodeResult
from nodectl.node.demo_tree import change_files, choose_tree, make_disk_image, tree_size
from nodectl.node.report import event_of
from nodectl.run import run, run_lines, running
from nodectl.units import MIB, format_size
from nodectl.zipapp.identity import self_command

IMAGE = "demo"
BLOCK_IMAGE = "demo-disk"
MASTER = "master"
_READY_S = 30.0
_COMMAND_S = 1800.0
_SWAP = 16 * MIB
_DISK_SPARE = 256 * MIB  # for the file system itself
_LAYOUT = """\
schema = 1
name = "demo"

[[disk]]
id = "disk"

[[partition]]
id = "swap"
disk = "disk"
type = "swap"
size = "16MiB"

[[partition]]
id = "root"
disk = "disk"
type = "linux"
size = "rest"

[[filesystem]]
volume = "swap"
type = "swap"

[[filesystem]]
volume = "root"
type = "ext4"
mount = "/"
"""


async def run_demo(options: DemoOptions, observer: Observer) -> DemoResult:
    """Run the whole demo; everything it made is gone when this returns or raises.

    A peer that fails is told in the result.

    Raises:
        PathMissing, NoSpace: the tree, or the space for its copies, is not there.
        CommandFailed: a step that concerns all peers failed.
    """
    tree = options.tree or choose_tree()
    if not tree.is_dir():
        raise PathMissing(f"there is no directory {tree}", hint="name one with --tree")
    if not options.work.is_dir():
        raise PathMissing(f"there is no directory {options.work}", hint="name one with --work")
    _check_space(options, tree)
    with _work_folder(options.work) as work:
        demo = _Demo(options, tree.resolve(), work, observer)
        async with demo.cluster():
            return await demo.run()


def _check_space(options: DemoOptions, tree: Path) -> None:
    size = tree_size(tree) or 0
    # A copy and at most as much again in the store, for each peer and the controller.
    needed = (options.nodes + 1) * (2 * size + _DISK_SPARE // 4)
    free = shutil.disk_usage(options.work).free
    if needed > free:
        raise NoSpace(
            f"the demo of {tree} needs up to {format_size(needed)} in {options.work}, "
            f"and {format_size(free)} is free",
            hint="take a smaller --tree, fewer --nodes, or another --work",
        )


@contextlib.contextmanager
def _work_folder(parent: Path) -> Iterator[Path]:
    """Make a private folder; at the end release what is mounted below it, and remove it."""
    work = parent / f"nodectl-demo-{os.getpid()}"
    try:
        work.mkdir(mode=0o700)
    except OSError as exc:
        raise PathMissing(
            f"cannot make a folder in {parent}: {exc.strerror}", hint="name another --work"
        ) from exc
    try:
        yield work
    finally:
        shutil.rmtree(work)


class _Demo:
    """One run: its processes, its folders, its peers."""

    def __init__(self, options: DemoOptions, tree: Path, work: Path, observer: Observer) -> None:
        self._options = options
        self._tree = tree
        self._work = work
        self._observer = observer
        self._nodes = [NodeResult(f"node{number}") for number in range(1, options.nodes + 1)]
        self._stack = contextlib.AsyncExitStack()
        self._on_disks = options.disks and os.geteuid() == 0

    @contextlib.asynccontextmanager
    async def cluster(self) -> AsyncIterator[None]:
        """Run the controller and the peers; at the end stop them and release all disks."""
        async with self._stack:
            with step(self._observer, f"start a controller and {len(self._nodes)} peers"):
                await self._start()
            yield

    async def run(self) -> DemoResult:
        """Do the main job, twice."""
        began = time.monotonic()
        captured = await self._capture(self._tree)
        capture_s = time.monotonic() - began
        pushed, swarm_s = await self._push()
        sealed_bytes = self._take_receipts(pushed)
        began = time.monotonic()
        with step(self._observer, "clone onto every peer"):
            await self._each(self._clone)
        restore_s = time.monotonic() - began
        began = time.monotonic()
        await self._update()
        update_s = time.monotonic() - began
        block = await self._block_image()
        copies = sum(node.bytes_from.get(MASTER, 0) for node in self._nodes) / max(sealed_bytes, 1)
        return DemoResult(
            tree=str(self._tree),
            files=captured["entries"],
            plain_bytes=captured["plain_bytes"],
            sealed_bytes=sealed_bytes,
            capture_s=capture_s,
            swarm_s=swarm_s,
            restore_s=restore_s,
            seeder_copies=copies,
            update_bytes=max((node.update_bytes for node in self._nodes), default=0),
            update_s=update_s,
            block=block,
            nodes=tuple(self._nodes),
        )

    # ------------------------------------------------------------ steps

    async def _start(self) -> None:
        master = self._state(MASTER)
        listen = ("--listen", "127.0.0.1:0")
        peer = ("--peer-listen", "127.0.0.1:0", "--json")
        await self._call(MASTER, "init", "--realm", IMAGE, "--node", MASTER, *listen, plain=True)
        words = (*self_command(), "serve", "--controller", *listen, *peer, "--state", master)
        await self._stack.enter_async_context(
            running(words, self._listener(MASTER), ready_timeout=_READY_S)
        )
        uses = str(len(self._nodes))
        token = (await self._call(MASTER, "token", "create", "--uses", uses))["token"]
        async with asyncio.TaskGroup() as group:
            for node in self._nodes:
                words = ("join", "--token", token, "--name", node.node)
                group.create_task(self._call(node.node, *words, plain=True))
        for node in self._nodes:
            words = (*self_command(), "serve", *peer, "--state", self._state(node.node))
            await self._stack.enter_async_context(
                running(words, self._listener(node.node), ready_timeout=_READY_S)
            )

    async def _capture(self, tree: Path) -> dict[str, Any]:
        words = ["image", "capture", IMAGE, "--tree", str(tree), "--skip-changing"]
        if os.geteuid() != 0:
            words.append("--skip-unreadable")
        captured = await self._call(MASTER, *words)
        for path in captured["skipped"]:
            self._observer.on(Note(text=f"left out: {path!r}"))
        return captured

    async def _push(self, *words: str, image: str = IMAGE) -> tuple[dict[str, Any], float]:
        """Push an image to all peers; return the job as it ended, and the seconds it took."""
        names = ",".join(node.node for node in self._nodes)
        began = time.monotonic()
        job = await self._call(MASTER, "swarm", "push", image, "--nodes", names, *words, ok=(0, 31))
        return job, time.monotonic() - began

    def _receipts(self, job: dict[str, Any]) -> Iterator[tuple[NodeResult, dict[str, Any]]]:
        """Yield each peer with its receipt; note the problem of one that has none."""
        rows = {row["node"]: row for row in job["nodes"]}
        for node in self._nodes:
            row = rows[node.node]
            if row["state"] == "done":
                yield node, row["receipt"]
            else:
                node.problem = node.problem or row["sentence"] or f"the job is {row['state']}"

    def _take_receipts(self, job: dict[str, Any]) -> int:
        sealed_bytes = 0
        for node, receipt in self._receipts(job):
            node.bytes_from = receipt["from"]
            node.swarm_s = receipt["seconds"]
            sealed_bytes = receipt["sealed_bytes"]
        return sealed_bytes

    async def _clone(self, node: NodeResult) -> None:
        began = time.monotonic()
        folder = self._work / node.node
        if self._on_disks:
            image = await asyncio.to_thread(self._make_disk, node)
            layout = folder / "layout.toml"
            layout.write_text(_LAYOUT)
            words = ("--disk", image, "--layout", str(layout), "--hostname", node.node, "--yes")
            await self._call(node.node, "clone", IMAGE, *words)
            await asyncio.to_thread(self._mount, node, image)
            node.target = f"{image}, GPT, swap and ext4"
        else:
            target = self._root(node)
            await self._call(node.node, "image", "restore", IMAGE, str(target))
            node.target = str(target)
        await self._verify(node)
        node.verified = True
        node.restore_s = time.monotonic() - began

    async def _verify(self, node: NodeResult) -> None:
        await self._call(node.node, "image", "verify", IMAGE, "--against", str(self._root(node)))

    async def _update(self) -> None:
        """Change some files of a copy, publish it, and bring the peers to it in place."""
        golden = self._work / "golden"
        await self._call(MASTER, "image", "restore", IMAGE, str(golden))
        with step(self._observer, "change files"):
            changed = await asyncio.to_thread(change_files, golden)
        await self._capture(golden)
        self._observer.on(Note(text=f"generation 2: {changed} entries changed, removed or added"))
        job, _ = await self._push("--restore", str(self._work / "{node}" / "root"))
        for node, receipt in self._receipts(job):
            node.update_bytes = receipt["fetched_bytes"]
        for node in self._nodes:
            node.verified = False
        with step(self._observer, "compare every peer with generation 2"):
            await self._each(self._verify_update)

    async def _verify_update(self, node: NodeResult) -> None:
        await self._verify(node)
        node.verified = True

    async def _block_image(self) -> BlockResult:
        """Capture a disk image, spread it, write it to a file on every peer, and compare."""
        image = self._work / "vm.img"
        with step(self._observer, "make a disk image"):
            await asyncio.to_thread(make_disk_image, image, self._tree)
        began = time.monotonic()
        words = ("image", "capture-block", BLOCK_IMAGE, "--device", str(image))
        captured = await self._call(MASTER, *words)
        job, _ = await self._push(image=BLOCK_IMAGE)
        for _ in self._receipts(job):
            pass  # only problems are of interest
        with step(self._observer, "write the disk image on every peer, and compare"):
            await self._each(self._write_block_image)
        return BlockResult(
            size=captured["size"],
            plain_bytes=captured["plain_bytes"],
            seconds=time.monotonic() - began,
        )

    async def _write_block_image(self, node: NodeResult) -> None:
        copy = str(self._work / node.node / "vm.img")
        await self._call(node.node, "image", "restore", BLOCK_IMAGE, copy)
        await self._call(node.node, "image", "verify", BLOCK_IMAGE, "--against", copy)
        node.block_verified = True

    async def _each(self, work: Callable[[NodeResult], Awaitable[None]]) -> None:
        """Do something for every peer that has no problem yet, all at the same time."""

        async def guarded(node: NodeResult) -> None:
            try:
                await work(node)
            except NodectlError as exc:
                node.problem = str(exc)
                self._observer.on(Note(text=f"failed: {exc}", node=node.node))

        async with asyncio.TaskGroup() as group:
            for node in self._nodes:
                if not node.problem:
                    group.create_task(guarded(node))

    # ------------------------------------------------------------ disks

    def _make_disk(self, node: NodeResult) -> str:
        """Make a sparse file of the right size and attach it as a disk."""
        file = self._work / node.node / "disk.img"
        size = (tree_size(self._tree) or 0) * 3 // 2 + _DISK_SPARE + _SWAP
        with file.open("wb") as image:
            image.truncate(size)
        loop = run(["losetup", "--find", "--show", file]).stdout.decode().strip()
        self._stack.callback(run, ["losetup", "--detach", loop])
        return loop

    def _mount(self, node: NodeResult, loop: str) -> None:
        """Mount the cloned root, so that it can be compared and updated as a running node's."""
        table = json.loads(run(["sfdisk", "--json", loop]).stdout)["partitiontable"]
        offset = table["partitions"][-1]["start"] * table["sectorsize"]
        root = self._root(node)
        root.mkdir()
        run(["mount", "-o", f"loop,offset={offset}", loop, root])
        self._stack.callback(run, ["umount", root])

    # ------------------------------------------------------------ commands

    def _state(self, node: str) -> str:
        return str(self._work / node / "state")

    def _root(self, node: NodeResult) -> Path:
        return self._work / node.node / "root"

    async def _call(
        self, node: str, *words: str, plain: bool = False, ok: tuple[int, ...] = (0,)
    ) -> dict[str, Any]:
        """Run one command of nodectl as `node` would; return its JSON result."""
        state = self._state(node)
        Path(state).parent.mkdir(exist_ok=True)
        argv = [*self_command(), *words, "--state", state, *([] if plain else ["--json"])]
        said: list[str] = []
        listen = self._listener(node, said)
        done = await run_lines(argv, listen, timeout=_COMMAND_S)
        if done.status not in ok:
            last = "\n".join(f"  {line}" for line in said[-6:])
            raise CommandFailed(f"nodectl {' '.join(words[:3])} ended with {done.status}:\n{last}")
        lines = done.stdout.decode("utf-8", "replace").strip().splitlines()
        result: dict[str, Any] = {} if plain else json.loads(lines[-1])
        return result

    def _listener(self, node: str, said: list[str] | None = None) -> Callable[[str], None]:
        """Return what takes the lines of a command: events go on, the rest is kept."""

        def heard(line: str) -> None:
            event = _event(line)
            if event is not None:
                self._observer.on(_of_node(event, node))
            elif said is not None:
                said.append(line)

        return heard


def _event(line: str) -> Event | None:
    if not line.startswith("{"):
        return None
    try:
        return event_of(json.loads(line))
    except ValueError:
        return None


def _of_node(event: Event, node: str) -> Event:
    """Return the event with the node's name, unless it carries one."""
    match event:
        case StepStarted(node=""):
            return StepStarted(step=event.step, total=event.total, node=node)
        case StepProgress(node=""):
            return StepProgress(step=event.step, done=event.done, total=event.total, node=node)
        case StepFinished(node=""):
            return StepFinished(step=event.step, seconds=event.seconds, node=node)
        case Note(node=""):
            return Note(text=event.text, node=node)
        case _:
            return event
