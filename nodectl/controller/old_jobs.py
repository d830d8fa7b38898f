"""What is left of jobs that were forgotten: which nodes they named, and rows to be deleted still.

Jobs that ended are forgotten, the oldest first, when they are more than `Keep` says. Which nodes
they named for which image is kept ("grants/IMAGE"), since that is what lets a node have the image.
When a job is forgotten is decided in `jobs.py`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from nodectl.catalog.model import ABSENT, Catalog
from nodectl.catalog.records import Job, job_key, work_key

_GRANTS = "grants/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """How many jobs that ended are kept: what a controller has in memory and on disk is bounded."""

    jobs: int = 1000
    rows: int = 200_000  # one for each node of a job: about 1 KiB each
    jobs_least: int = 20  # so many are kept however many rows they have
    swept_at_once: int = 100  # documents deleted in one go, each of them durably


class Forgotten:
    """The memory of jobs that are no more; one owner: `Jobs`."""

    def __init__(self, catalog: Catalog, keep: Keep) -> None:
        """Load which nodes forgotten jobs named."""
        self._catalog = catalog
        self._keep = keep
        self.litter: list[str] = []  # keys of rows without a job
        self._named = {
            document.key.removeprefix(_GRANTS): frozenset(document.value["nodes"])
            for document in catalog.list(_GRANTS)
        }

    def named(self, node: str, image: str) -> bool:
        """Say whether a job that was forgotten named a node for an image."""
        return node in self._named.get(image, ())

    def take(self, job: Job, nodes: Collection[str]) -> None:
        """Forget a job; the rows of its nodes go bit by bit: there may be ten thousand."""
        named = self._named.get(job.name, frozenset())
        if not named.issuperset(nodes):
            self._named[job.name] = named.union(nodes)
            self._write(_GRANTS + job.name, {"nodes": sorted(self._named[job.name])})
        self._delete(job_key(job.job_id))
        self.litter += [work_key(node, job.job_id) for node in nodes]

    def sweep(self) -> None:
        """Delete some of the rows that belong to no job any more."""
        for key in self.litter[: self._keep.swept_at_once]:
            self._delete(key)
        del self.litter[: self._keep.swept_at_once]

    def _write(self, key: str, value: Mapping[str, Any]) -> None:
        present = self._catalog.get(key)
        self._catalog.put(key, value, expected=ABSENT if present is None else present.revision)

    def _delete(self, key: str) -> None:
        present = self._catalog.get(key)
        if present is not None:
            self._catalog.delete(key, expected=present.revision)
