"""`nodectl store status|gc|scrub|repair|verify`."""

import asyncio
import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nodectl.cli.membership import JsonOption, StateOption, open_state, size_option
from nodectl.cli.progress import observer_for
from nodectl.cli.store_gc import gc

if TYPE_CHECKING:
    from nodectl.node.storelife import Repaired
    from nodectl.store.scrub import ScrubState

_SHOWN = 20  # frames listed for people; --json has all

store_app = typer.Typer(
    help="Look after this machine's store.", no_args_is_help=True, rich_markup_mode=None
)


def register(app: typer.Typer) -> None:
    """Add `nodectl store` to the command line."""
    store_app.command()(gc)
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
    from nodectl.store.lease import reading_lease

    folder = open_state(state)
    codec = FrameCodec(folder.membership().content_keys)
    observer = observer_for(json_lines=json_output)
    roots = [one for one in held_roots(folder) if one.complete and image in ("", one.name)]
    if image and not roots:
        raise UnknownImage(f"this machine holds no image {image}", hint="nodectl store status")
    with reading_lease(folder.store), DiskStore(folder.store) as store, step(observer, VERIFY_STEP):
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
            if one.problem:
                print(_lack_text(one))
    if failed:
        raise NodesFailed(
            f"{len(failed)} of {len(done)} images could not be brought back",
            hint="start a node that has them, or capture them again",
        )


def _lack_text(one: "Repaired") -> str:
    from nodectl.units import format_size

    size = format_size(one.missing_bytes)
    lines = [f"  {len(one.missing)} of {one.frames} frames ({size}) are still missing"]
    if one.missing_parts:
        lines.append(
            f"  {one.missing_parts} of them are of the manifest: what they name is unknown"
        )
    lines += [f"  lacks something: {what}" for what in one.hit[:_SHOWN]]
    if len(one.hit) > _SHOWN:
        lines.append(f"  and {len(one.hit) - _SHOWN} more; --json has all")
    return "\n".join(line.encode(errors="backslashreplace").decode() for line in lines)
