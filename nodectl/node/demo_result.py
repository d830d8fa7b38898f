"""What the demo was asked, and what it found: values, and the object that `--json` prints."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """What to try."""

    nodes: int = 4
    tree: Path | None = None  # None: a good part of this system
    work: Path = Path("/var/tmp")  # noqa: S108 - a private folder is made in it
    disks: bool = True  # as root: clone onto loop disks


@dataclass(slots=True)
class NodeResult:
    """What became of one peer."""

    node: str
    target: str = ""
    swarm_s: float = 0.0
    restore_s: float = 0.0
    bytes_from: dict[str, int] = field(default_factory=dict)
    update_bytes: int = 0
    verified: bool = False  # the tree
    block_verified: bool = False  # the disk image
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockResult:
    """What became of the disk image."""

    size: int  # bytes, holes included
    plain_bytes: int
    seconds: float  # from the capture until the last copy was compared


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """What the demo found."""

    tree: str
    files: int
    plain_bytes: int
    sealed_bytes: int
    capture_s: float
    swarm_s: float
    restore_s: float  # until the last copy was restored and compared
    seeder_copies: float
    update_bytes: int  # that the peer that needed most fetched for the second generation
    update_s: float
    block: BlockResult
    nodes: tuple[NodeResult, ...]

    @property
    def ok(self) -> bool:
        """Whether every peer has both generations and the disk image, compared byte for byte."""
        return all(
            node.verified and node.block_verified and not node.problem for node in self.nodes
        )

    def to_json(self) -> dict[str, Any]:
        """Return the object that `--json` prints."""
        return {
            "ok": self.ok,
            "nodes": len(self.nodes),
            "tree": self.tree,
            "files": self.files,
            "plain_bytes": self.plain_bytes,
            "sealed_bytes": self.sealed_bytes,
            "capture_s": round(self.capture_s, 3),
            "swarm_s": round(self.swarm_s, 3),
            "restore_s": round(self.restore_s, 3),
            "update_s": round(self.update_s, 3),
            "seeder_copies": round(self.seeder_copies, 3),
            "update_bytes": self.update_bytes,
            "verified": all(node.verified for node in self.nodes),
            "block": {
                "size": self.block.size,
                "plain_bytes": self.block.plain_bytes,
                "seconds": round(self.block.seconds, 3),
                "verified": all(node.block_verified for node in self.nodes),
            },
            "each": [
                {
                    "node": node.node,
                    "target": node.target,
                    "swarm_s": round(node.swarm_s, 3),
                    "restore_s": round(node.restore_s, 3),
                    "from": node.bytes_from,
                    "update_bytes": node.update_bytes,
                    "verified": node.verified,
                    "block_verified": node.block_verified,
                    "problem": node.problem,
                }
                for node in self.nodes
            ],
        }
