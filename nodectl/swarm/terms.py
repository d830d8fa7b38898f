"""How a swarm is to behave on every node: paused or not, how fast, how important. Pure."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

WEIGHT_MAX = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the operator said of one image's swarm; each node keeps to it by itself."""

    paused: bool = False
    upload_rate: int | None = None  # bytes/s that each node sends; None: no limit of its own
    download_rate: int | None = None  # bytes/s that each node fetches
    weight: int = 1  # its share of a node's upload slots beside other swarms

    def __post_init__(self) -> None:
        """Refuse what is no terms.

        Raises:
            ValueError: a rate or the weight is out of range.
        """
        for name in ("upload_rate", "download_rate"):
            rate = getattr(self, name)
            if rate is not None and (type(rate) is not int or rate < 1):
                raise ValueError(f"{name} is not a number of bytes from 1 on, nor null")
        if type(self.weight) is not int or not 1 <= self.weight <= WEIGHT_MAX:
            raise ValueError(f"weight is not a number from 1 to {WEIGHT_MAX}")
        if type(self.paused) is not bool:
            raise ValueError("paused is not true or false")

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: object) -> Self:
        """Return what `to_json` wrote.

        Raises:
            ValueError: it is something else.
        """
        if not isinstance(document, Mapping) or set(document) != set(cls.__slots__):
            raise ValueError(f"terms are exactly {', '.join(cls.__slots__)}")
        return cls(**document)
