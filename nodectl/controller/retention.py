"""Retention: which releases are deleted. `plan_retention` is pure, `apply_retention` deletes.

Never deleted: the newest release of a name, one that a job under way names, and one that a node
runs: the last of a name that it fetched or restored with success.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from nodectl.catalog.model import Catalog
from nodectl.catalog.records import (
    FINAL,
    Job,
    ReleaseRecord,
    Task,
    Work,
    WorkState,
    release_key,
    root_key,
)

_DAY_S = 24 * 3600

Generation = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """What to keep of each name; a release stays if either says so."""

    keep_last: int | None = None  # generations
    keep_days: float | None = None

    @property
    def wanted(self) -> bool:
        """Whether anything may be deleted at all."""
        return self.keep_last is not None or self.keep_days is not None


def in_use(jobs: Iterable[Job], works: Iterable[Work]) -> frozenset[Generation]:
    """Return the generations that jobs under way name, or that nodes run. Pure."""
    by_id = {job.job_id: job for job in jobs}
    used: set[Generation] = set()
    runs: dict[tuple[str, str], Job] = {}
    for work in works:
        job = by_id.get(work.job_id)
        if job is None:
            continue
        if work.state not in FINAL:
            used.add((job.name, job.generation))
        elif work.state is WorkState.DONE and work.task is not Task.SEED:
            key = (work.node, job.name)
            if key not in runs or runs[key].job_id < job.job_id:
                runs[key] = job
    return frozenset(used | {(job.name, job.generation) for job in runs.values()})


def plan_retention(
    records: Iterable[ReleaseRecord],
    retention: Retention,
    *,
    used: frozenset[Generation],
    now: float,
) -> tuple[ReleaseRecord, ...]:
    """Return the releases to delete, sorted by name and generation."""
    if not retention.wanted:
        return ()
    names: dict[str, list[ReleaseRecord]] = {}
    for record in records:
        names.setdefault(record.signed.release.name, []).append(record)
    oldest = None if retention.keep_days is None else now - retention.keep_days * _DAY_S
    dropped = []
    for _, group in sorted(names.items()):
        group.sort(key=lambda record: record.signed.release.generation)
        keep_last = max(1, retention.keep_last or 1)
        for record in group[:-keep_last]:
            release = record.signed.release
            young = oldest is not None and release.created >= oldest
            if not young and (release.name, release.generation) not in used:
                dropped.append(record)
    return tuple(dropped)


def retain(
    catalog: Catalog, retention: Retention, *, now: float, dry_run: bool = False
) -> tuple[ReleaseRecord, ...]:
    """Delete the releases beyond retention and return them; a dry run only returns them."""
    records = [ReleaseRecord.from_json(doc.value) for doc in catalog.list("releases/")]
    members = {doc.value["name"] for doc in catalog.list("nodes/")}
    works = (Work.from_json(doc.value) for doc in catalog.list("work/"))
    used = in_use(
        (Job.from_json(doc.value) for doc in catalog.list("jobs/")),
        (work for work in works if work.node in members),  # what a removed node had is nobody's
    )
    dropped = plan_retention(records, retention, used=used, now=now)
    if not dry_run:
        apply_retention(catalog, dropped)
    return dropped


def apply_retention(catalog: Catalog, dropped: Iterable[ReleaseRecord]) -> None:
    """Delete releases, and what is known of a root that no release has any more.

    Raises:
        WriteConflict: somebody changed the catalog in between; what is left is valid.
    """
    for record in dropped:
        release = record.signed.release
        key = release_key(release.name, release.generation)
        document = catalog.get(key)
        if document is not None:
            catalog.delete(key, expected=document.revision)
    left = {
        (release.name, release.generation): release.root
        for doc in catalog.list("releases/")
        for release in (ReleaseRecord.from_json(doc.value).signed.release,)
    }
    for root in {record.signed.release.root for record in dropped}:
        document = catalog.get(root_key(root))
        others = [key for key, other in left.items() if other == root]
        if document is None:
            continue
        if not others:
            catalog.delete(root_key(root), expected=document.revision)
        elif (document.value["name"], document.value["generation"]) not in left:
            name, generation = max(others, key=lambda key: key[1])
            value = {**document.value, "name": name, "generation": generation}
            catalog.put(root_key(root), value, expected=document.revision)


def roots_in_use(catalog: Catalog) -> tuple[tuple[bytes, bytes, str, int], ...]:
    """Return (root, root block, name, generation) of every root that the catalog knows."""
    found = []
    for doc in catalog.list("roots/"):
        value = doc.value
        root = bytes.fromhex(doc.key.removeprefix("roots/"))
        block = bytes.fromhex(value["root_block"])
        found.append((root, block, value["name"], value["generation"]))
    return tuple(found)
