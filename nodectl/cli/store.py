"""`nodectl store status|gc|scrub|repair|verify`."""

import asyncio
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nodectl.cli.membership import JsonOption, StateOption, ask, open_state, size_option
from nodectl.cli.progress import observer_for
from nodectl.cli.releases import local_releases

if TYPE_CHECKING:
    from nodectl.catalog.records import ReleaseRecord
    from nodectl.ids import Root
    from nodectl.node.state import HeldRoot, StateFolder
    from nodectl.node.storelife import KnownRoot
    from nodectl.store.gc import GcPlan, GcReport
    from nodectl.store.scrub import ScrubState

_SHOWN = 20  # frames listed for people; --json has all

store_app = typer.Typer(
    help="Look after this machine's store.", no_args_is_help=True, rich_markup_mode=None
)


def register(app: typer.Typer) -> None:
    """Add `nodectl store` to the command line."""
    app.add_typer(store_app, name="store")


@store_app.command()
def status(state: StateOption = None, json_output: JsonOption = False) -> None:
    """Show what the store holds, who works on it, and what the last scrub and gc found.

    Exit codes: 24 the last scrub found damage that is still missing, 26 the store cannot be used.
    """
    from nodectl.errors import VerifyFailed
    from nodectl.ids import FrameId
    from nodectl.store.disk import DiskStore
    from nodectl.store.gc import last_gc
    from nodectl.store.lease import living_leases
    from nodectl.store.scrub import last_scrub

    folder = open_state(state)
    scrubbed = last_scrub(folder.store)
    with DiskStore(folder.store) as store:
        found = store.statistics()
        damaged = [] if scrubbed is None else [bytes.fromhex(one) for one in scrubbed.damaged]
        missing = [one.hex() for one in store.missing(FrameId(one) for one in damaged)]
    document = {
        "folder": str(folder.store),
        "frames": found.frames,
        "sealed_bytes": found.sealed_bytes,
        "packs": found.packs,
        "images": [
            {"name": one.name, "generation": one.generation, "complete": one.complete}
            for one in folder.held_roots()
        ],
        "at_work": list(living_leases(folder.store)),
        "scrub": None if scrubbed is None else scrubbed.to_json(),
        "gc": last_gc(folder.store) or None,
        "damaged_and_missing": missing,
    }
    print(json.dumps(document) if json_output else _status_text(document, scrubbed))
    if missing:
        raise VerifyFailed(
            f"{len(missing)} frames that scrub found damaged are still missing",
            hint="nodectl store repair brings them back from the swarm",
        )


def _status_text(document: dict[str, Any], scrubbed: "ScrubState | None") -> str:
    from nodectl.units import format_size

    size = format_size(document["sealed_bytes"])
    lines = [
        f"{document['folder']}: {document['frames']} frames, {size} in {document['packs']} packs"
    ]
    for one in document["images"]:
        rest = "" if one["complete"] else " (not complete)"
        lines.append(f"  holds {one['name']} generation {one['generation']}{rest}")
    if document["at_work"]:
        lines.append(f"  {len(document['at_work'])} captures, fetches or restores are at work")
    lines.append(f"  scrub: {_scrub_text(scrubbed)}")
    collected = document["gc"]
    if collected:
        freed = format_size(max(0, collected["freed_bytes"]))
        lines.append(f"  gc: {_ago(collected['at'])}, {freed} freed")
    return "\n".join(lines)


def _scrub_text(scrubbed: "ScrubState | None") -> str:
    from nodectl.units import format_size

    if scrubbed is None:
        return "never (nodectl serve does it in the background, nodectl store scrub now)"
    when = _ago(scrubbed.ended) if scrubbed.ended else f"under way since {_ago(scrubbed.began)}"
    checked = f"{scrubbed.frames} frames ({format_size(scrubbed.checked_bytes)}) read back"
    return f"{when}, {checked}, {len(scrubbed.damaged)} damaged"


def _ago(at: float) -> str:
    from nodectl.units import format_duration

    return f"{format_duration(max(0.0, time.time() - at))} ago"


# ---------------------------------------------------------------- gc


@store_app.command()
def gc(
    keep_last: Annotated[
        int | None,
        typer.Option("--keep-last", min=1, help="Keep the newest N generations of each name."),
    ] = None,
    keep_days: Annotated[
        float | None,
        typer.Option("--keep-days", min=0, help="Keep generations of the last D days."),
    ] = None,
    grace: Annotated[
        float, typer.Option("--grace", min=0, metavar="HOURS", help="Spare what is younger.")
    ] = 24.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be deleted, and stop.")
    ] = False,
    state: StateOption = None,
    json_output: JsonOption = False,
) -> None:
    """Delete from the store what no image needs; with --keep-last or --keep-days old images first.

    On the controller old releases are deleted, but never the newest of a name, one of a job under
    way, or one that a node runs. Elsewhere this machine lets go of old generations, and of those
    that the controller has deleted. Without these options no image is dropped.

    Captures, fetches and restores may run meanwhile: what they might rely on is kept, and the next
    gc deletes it.

    Exit codes: 12 no space to copy what is needed, 14 a wrong value, 20-21 an image's manifest is
    missing or damaged (nothing was deleted), 25 another gc runs, 40 no member, 42 no controller.
    """
    from nodectl.content.frame import FrameCodec
    from nodectl.node.storelife import frames_needed
    from nodectl.store.disk import DiskStore
    from nodectl.store.gc import GcOptions, collect, plan_gc

    folder = open_state(state)
    codec = FrameCodec(folder.membership().content_keys)
    released, held = _retain(state, folder, keep_last, keep_days, dry_run=dry_run)
    without = {one.root for one in held} if dry_run else set()
    gone = {(one.signed.release.name, one.signed.release.generation) for one in released}
    options = GcOptions(grace_s=grace * 3600)
    with DiskStore(folder.store) as store:

        def live() -> Any:  # noqa: ANN401 - an iterator of FrameIds, whose import is heavy
            roots = _roots(folder)
            kept = [
                one
                for one in roots
                if one.root not in without and (one.name, one.generation) not in gone
            ]
            return frames_needed(kept, store, codec)

        if dry_run:
            done: GcPlan | GcReport = plan_gc(store, live, options)
        else:
            done = collect(store, live, options)
    document = _gc_document(done, released, held, dry_run=dry_run)
    print(json.dumps(document) if json_output else _gc_text(document, dry_run=dry_run))


def _roots(folder: "StateFolder") -> "list[KnownRoot]":
    """Return every root that must stay whole here."""
    from nodectl.ids import Root
    from nodectl.node.storelife import KnownRoot, held_roots

    found = list(held_roots(folder))
    known = {one.root for one in found}
    with _catalog(folder) as catalog:
        if catalog is None:
            return found
        from nodectl.controller.retention import roots_in_use

        for root, block, name, generation in roots_in_use(catalog):
            if root not in known:
                found.append(
                    KnownRoot(
                        root=Root(root),
                        root_block=block,
                        name=name,
                        generation=generation,
                        complete=False,
                    )
                )
    return found


def _catalog(folder: "StateFolder") -> Any:  # noqa: ANN401 - a context; its module is heavy
    """Open the catalog of this machine, if it is the controller's; yields None elsewhere."""
    import contextlib

    if not folder.realm.exists():
        return contextlib.nullcontext(None)
    from nodectl.catalog.sqlite import SqliteCatalog

    return SqliteCatalog(folder.catalog)


def _retain(
    state: Path | None,
    folder: "StateFolder",
    keep_last: int | None,
    keep_days: float | None,
    *,
    dry_run: bool,
) -> "tuple[tuple[ReleaseRecord, ...], list[HeldRoot]]":
    """Drop old releases, and the roots that this machine holds of them; return both."""
    if keep_last is None and keep_days is None:
        return (), []
    with _catalog(folder) as catalog:
        if catalog is not None:
            from nodectl.controller.retention import Retention, retain

            retention = Retention(keep_last=keep_last, keep_days=keep_days)
            released = retain(catalog, retention, now=time.time(), dry_run=dry_run)
            deleted = {one.signed.release.root for one in released}
            with local_releases(folder) as releases:
                left = (
                    set()
                    if releases is None
                    else {one.signed.release.root for one in releases.list()}
                )
            if dry_run:
                left -= deleted
            held = [one for one in folder.held_roots() if one.root not in left]
        else:
            released = ()
            held = _superseded(state, folder, keep_last, keep_days)
    if not dry_run:
        folder.let_go(one.root for one in held)
    return released, held


def _superseded(
    state: Path | None, folder: "StateFolder", keep_last: int | None, keep_days: float | None
) -> "list[HeldRoot]":
    from nodectl.node.storelife import held_roots, superseded

    if keep_days is not None and keep_last is None:
        from nodectl.errors import InvalidInput

        raise InvalidInput(
            "--keep-days counts from when a release was made, which the controller knows",
            hint="run it on the controller; here use --keep-last",
        )
    all_held = held_roots(folder)
    dropped: set[Root] = {one.root for one in superseded(all_held, keep_last or 1)}
    released = {one.signed.release.root for one in ask(state, lambda client: client.releases(""))}
    dropped |= {one.root for one in all_held if one.root not in released}
    return [one for one in folder.held_roots() if one.root in dropped]


def _gc_document(
    done: "GcPlan | GcReport",
    released: "tuple[ReleaseRecord, ...]",
    held: "list[HeldRoot]",
    *,
    dry_run: bool,
) -> dict[str, Any]:
    from dataclasses import asdict

    plan = done if dry_run else getattr(done, "plan")  # noqa: B009 - which of the two it is
    rest = {} if dry_run else {k: v for k, v in asdict(done).items() if k != "plan"}
    return {
        "dry_run": dry_run,
        "plan": asdict(plan),
        **rest,
        "releases_deleted": [
            f"{one.signed.release.name}@{one.signed.release.generation}" for one in released
        ],
        "images_let_go": [f"{one.name}@{one.generation}" for one in held],
    }


def _gc_text(document: dict[str, Any], *, dry_run: bool) -> str:
    from nodectl.units import format_size

    plan = document["plan"]
    lines = []
    for title, key in (("release", "releases_deleted"), ("held here", "images_let_go")):
        word = "would be dropped" if dry_run else "dropped"
        lines += [f"{title} {one}: {word}" for one in document[key]]
    size = format_size(plan["dead_bytes"])
    if dry_run:
        lines.append(
            f"{plan['dead_frames']} frames ({size}) in {len(plan['packs'])} packs would go"
        )
    elif document["waits_for"]:
        names = ", ".join(one.partition("-")[0] for one in document["waits_for"])
        lines.append(
            f"{size} wait for work that is under way (processes {names}): run gc again later"
        )
    else:
        freed = format_size(max(0, document["freed_bytes"]))
        lines.append(f"{freed} freed: {document['deleted_packs']} packs deleted")
    spared = plan["young_bytes"]
    if spared:
        lines.append(f"  {format_size(spared)} more are needed by nothing, but too young yet")
    if plan["thin_bytes"]:
        lines.append(f"  {format_size(plan['thin_bytes'])} more lie between what is needed")
    return "\n".join(lines)


# ---------------------------------------------------------------- scrub, verify, repair


@store_app.command()
def scrub(
    rate: Annotated[
        str, typer.Option("--rate", help="Bytes a second, 0: as fast as it goes.")
    ] = "0",
    restart: Annotated[
        bool, typer.Option("--restart", help="From the beginning, not from where it stopped.")
    ] = False,
    state: StateOption = None,
    json_output: JsonOption = False,
) -> None:
    """Read the whole store back and take out what is damaged; goes on where it was stopped.

    Exit codes: 24 something was damaged (it counts as missing now), 25 another scrub runs.
    """
    from nodectl.errors import VerifyFailed
    from nodectl.events import StepProgress, step
    from nodectl.node.storelife import pacing
    from nodectl.store.disk import DiskStore
    from nodectl.store.scrub import scrub as scrub_store

    folder = open_state(state)
    bytes_a_second = size_option(rate, "--rate")
    observer = observer_for(json_lines=json_output)
    with DiskStore(folder.store) as store, step(observer, "scrub"):
        done = scrub_store(
            store,
            pacing(bytes_a_second),
            restart=restart,
            on_bytes=lambda size: observer.on(StepProgress(step="scrub", done=size)),
        )
    if json_output:
        print(json.dumps(done.to_json()))
    else:
        print(_scrub_text(done))
        for frame in done.damaged[:_SHOWN]:
            print(f"  {frame}")
    if done.damaged:
        raise VerifyFailed(
            f"{len(done.damaged)} frames were damaged and are taken out",
            hint="nodectl store repair brings them back from the swarm",
        )


@store_app.command()
def verify(
    image: Annotated[str, typer.Argument(help="Name of an image; without it all.")] = "",
    state: StateOption = None,
    json_output: JsonOption = False,
) -> None:
    """Open every frame of the images that this machine holds, down to the plain bytes.

    Exit codes: 21 an image's manifest is invalid, 24 something is missing or damaged, 28 no such
    image here, 40 no member.
    """
    from nodectl.content.frame import FrameCodec
    from nodectl.errors import UnknownImage, VerifyFailed
    from nodectl.events import step
    from nodectl.node.storelife import VERIFY_STEP, held_roots, verify_root
    from nodectl.store.disk import DiskStore
    from nodectl.store.lease import lease

    folder = open_state(state)
    codec = FrameCodec(folder.membership().content_keys)
    observer = observer_for(json_lines=json_output)
    roots = [one for one in held_roots(folder) if one.complete and image in ("", one.name)]
    if image and not roots:
        raise UnknownImage(f"this machine holds no image {image}", hint="nodectl store status")
    with lease(folder.store), DiskStore(folder.store) as store, step(observer, VERIFY_STEP):
        checks = [verify_root(one, store, codec, observer) for one in roots]
    bad = [one for one in checks if not one.whole]
    if json_output:
        from dataclasses import asdict

        print(json.dumps({"whole": not bad, "images": [asdict(one) for one in checks]}))
    else:
        for one in checks:
            what = f"{one.missing} missing, {len(one.damaged)} damaged" if one in bad else "whole"
            print(f"{one.name} generation {one.generation}: {one.frames} frames, {what}")
    if bad:
        raise VerifyFailed(
            f"{len(bad)} of {len(checks)} images are not whole here",
            hint="nodectl store scrub takes out what is damaged, nodectl store repair refetches it",
        )


@store_app.command()
def repair(
    image: Annotated[str, typer.Argument(help="Name of an image; without it all.")] = "",
    state: StateOption = None,
    json_output: JsonOption = False,
) -> None:
    """Bring back from the swarm what is missing of the images that this machine holds.

    What is damaged counts as missing once nodectl store scrub has read it.

    Exit codes: 28 no such image here, 31 something could not be brought back, 40 no member.
    """
    from nodectl.errors import NodesFailed, UnknownImage
    from nodectl.node.storelife import repair as repair_store
    from nodectl.store.disk import DiskStore
    from nodectl.store.lease import lease

    folder = open_state(state)
    observer = observer_for(json_lines=json_output)
    held = [one for one in folder.held_roots() if one.complete and image in ("", one.name)]
    if image and not held:
        raise UnknownImage(f"this machine holds no image {image}", hint="nodectl store status")
    with lease(folder.store), DiskStore(folder.store) as store:
        done = asyncio.run(repair_store(folder, store, held, observer))
    failed = [one for one in done if one.problem]
    if json_output:
        print(json.dumps({"whole": not failed, "images": [one.to_json() for one in done]}))
    else:
        from nodectl.units import format_size

        for one in done:
            what = one.problem or f"{format_size(one.fetched_bytes)} brought back; whole"
            print(f"{one.name} generation {one.generation}: {what}")
    if failed:
        raise NodesFailed(
            f"{len(failed)} of {len(done)} images could not be brought back",
            hint="start a node that has them, or capture them again",
        )
