"""What an installer is: a kernel and a first root that clones a machine; and what is said of it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from nodectl.errors import InstallerUnfit

KERNEL = "vmlinuz"
INITRD = "initrd.img"
DETAILS = "installer.json"
SIZE_MAX = 80 << 20  # bytes of the first root: what a machine with 1 GiB can unpack and work beside
_FORM = 1
_AGAIN = "make it again: nodectl cloner make-installer --overwrite"


@dataclass(frozen=True, slots=True, kw_only=True)
class Installer:
    """What is said of an installer, beside its two files."""

    nodectl: str  # version and build of the nodectl in it
    build_id: str
    machine: str  # "x86_64", "aarch64"
    kernel: str  # version, as of uname -r
    python: str  # "3.11"
    made_on: str  # PRETTY_NAME of the system that it was taken from
    blake3: Mapping[str, str]  # file name: hexadecimal digits
    sizes: Mapping[str, int]  # file name: bytes
    unpacked: int  # bytes of the first root in memory
    lacks: tuple[str, ...] = ()  # programs without which some layouts cannot be made

    def to_json(self) -> dict[str, Any]:
        """Return the document."""
        return {"form": _FORM, **asdict(self), "lacks": list(self.lacks)}

    def text(self) -> str:
        """Return the document as it stands in a file."""
        return json.dumps(self.to_json(), indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Return what `to_json` wrote.

        Raises:
            InstallerUnfit: it is no such document, or of another form.
        """
        if document.get("form") != _FORM:
            raise InstallerUnfit(
                "the installer was made by another version of nodectl", hint=_AGAIN
            )
        fields = {name: value for name, value in document.items() if name != "form"}
        try:
            return cls(**{**fields, "lacks": tuple(fields["lacks"])})
        except (KeyError, TypeError, ValueError) as exc:
            raise InstallerUnfit(
                f"what is said of the installer cannot be read: {exc}",
                hint=_AGAIN,
            ) from exc


def check_same(installer: Installer, build_id: str, version: str) -> None:
    """Refuse an installer with another nodectl than the controller's.

    Raises:
        InstallerUnfit: so it is.
    """
    if (installer.nodectl, installer.build_id) != (version, build_id):
        raise InstallerUnfit(
            f"the installer holds nodectl {installer.nodectl} ({installer.build_id[:8]}), and this "
            f"is {version} ({build_id[:8]})",
            hint=_AGAIN,
        )
