"""What makes a node itself: the ways it is made, and the file actions that make it. Pure.

Paths have no leading "/" and count from the root of the target tree.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from nodectl.catalog.inventory import NodeInventory
from nodectl.catalog.site_files import FilledFile


class Way(StrEnum):
    """Where a node gets an item of its identity from."""

    INVENTORY = "inventory"  # what the operator says of it
    KEPT = "kept"  # from the system that stood on its disk
    DERIVED = "derived"  # from realm and node name: always the same
    FRESH = "fresh"  # random, at each deployment
    SHARED = "shared"  # a secret of its group
    MADE = "made"  # by nodectl's disk or boot part, from the layout
    BY_ITSELF = "by itself"  # the system makes it at its first start, once the old one is gone
    IMAGE = "image"  # belongs to the image


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One item: what it is, what an image leaves out of it, and what is kept of it on a node."""

    item: str
    way: Way
    sealed: tuple[str, ...] = ()  # patterns of content/excludes.py: left out at capture
    kept: tuple[str, ...] = ()  # patterns, no leading "/": files taken over from the old disk
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteFile:
    """Make a regular file what it should be; its folder is made where it is absent."""

    path: str
    data: bytes = field(repr=False)
    item: str
    mode: int = 0o644
    uid: int = 0
    gid: int = 0

    def shown(self) -> str:
        """Return the line for people; never the content."""
        return f"write   /{self.path} ({self.item})"


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeLink:
    """Make a symbolic link."""

    path: str
    target: str
    item: str

    def shown(self) -> str:
        """Return the line for people."""
        return f"link    /{self.path} -> {self.target} ({self.item})"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveFile:
    """Remove a file or link of the image that another machine owned."""

    path: str
    item: str

    def shown(self) -> str:
        """Return the line for people."""
        return f"remove  /{self.path} ({self.item})"


FileAction = WriteFile | MakeLink | RemoveFile


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityPlan:
    """What is done to a tree, each path at most once."""

    machine_id: str
    actions: tuple[FileAction, ...]
    notes: tuple[str, ...] = ()  # what a person should know
    host_keys: tuple[str, ...] = ()  # "ED25519 SHA256:... (kept)"

    def __post_init__(self) -> None:
        """Refuse a plan that says two things about one path."""
        paths = [action.path for action in self.actions]
        if len(set(paths)) != len(paths):
            twice = sorted({path for path in paths if paths.count(path) > 1})
            raise ValueError(f"two actions for {', '.join(twice)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptFile:
    """A file of the old disk."""

    data: bytes = field(repr=False)
    mode: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeFacts:
    """What the plan must know of the target tree, as the image left it."""

    texts: Mapping[str, str] = field(default_factory=dict)  # of the files that matter and are there
    folders: frozenset[str] = frozenset()  # of those that matter, which are there
    files: frozenset[str] = frozenset()  # files and links that may have to go
    configuration: frozenset[str] = frozenset()  # of the network, of every kind
    naming: frozenset[str] = frozenset()  # what gives network cards their names
    programs: frozenset[str] = frozenset()  # of network/plan.py's PROGRAMS, which are installed
    enabled: frozenset[str] = frozenset()  # of its UNITS, which are enabled


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """Who the node is. Random values come in here; the plan makes none."""

    realm_id: str
    name: str
    inventory: NodeInventory | None = None  # None: nothing is said of it
    kept: Mapping[str, KeptFile] = field(default_factory=dict, repr=False)  # path -> file
    fresh_host_keys: Mapping[str, bytes] = field(default_factory=dict, repr=False)  # type -> PEM
    random_seed: bytes = field(default=b"", repr=False)
    files: tuple[FilledFile, ...] = ()  # of the site, templates filled in already
