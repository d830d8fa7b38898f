"""`nodectl store gc`: what is dropped, what is deleted, and how it is told."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nodectl.cli.membership import JsonOption, StateOption, ask, open_state
from nodectl.cli.releases import local_releases

if TYPE_CHECKING:
    from nodectl.catalog.records import ReleaseRecord
    from nodectl.node.client import ControlClient
    from nodectl.node.state import HeldRoot, StateFolder
    from nodectl.node.storelife import KnownRoot
    from nodectl.store.gc import GcPlan, GcReport


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
    way, or one that a node runs. Elsewhere this machine lets go of old generations, but never of
    the newest of a name, the one it runs, or one captured here; and of those that the controller
    has deleted. Without these options no image is dropped.

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
    """Return what a node that is no controller lets go of."""
    from nodectl.node.retention import Keep, to_let_go

    async def facts(client: "ControlClient") -> "tuple[list[ReleaseRecord], float]":
        return list(await client.releases("")), client.now_ms() / 1000

    records, now = ask(state, facts)
    releases = [one.signed.release for one in records]
    held = folder.held_roots()
    dropped = to_let_go(
        held,
        Keep(last=keep_last, days=keep_days),
        created={one.root: one.created for one in releases},
        runs={one.name: folder.seen_generation(one.name) for one in held},
        now=now,
    )
    return [one for one in held if one.root in dropped]


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
