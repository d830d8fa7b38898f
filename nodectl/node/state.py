"""The state folder: every path in it, and the files that say who this machine is.

    realm/           controller only: the realm's secrets (trust/realm.py)
    catalog.sqlite   controller only
    node.json        this machine's membership
    store/           frames
    roots.json       the roots that this node holds and serves, with their swarm keys
    seen.json        the highest generation seen of each release name
    cache/           may be deleted at any time
    installers/      controller only: ARCHITECTURE/, what machines start that clone themselves
    serve.lock       locked (flock) by the one process that serves

Folders have mode 0700 and files 0600. Every write replaces a whole file (`fsio.write_private`).
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from nodectl.errors import AlreadyThere, NoRealm, PathUnreadable, StoreBusy
from nodectl.fsio import (
    fsync_folder,
    make_private_folder,
    sole_holder,
    write_private,
)
from nodectl.ids import Root, checked_name, id_from_hex
from nodectl.trust.ca import Credential
from nodectl.trust.keys import ContentKeys
from nodectl.trust.publisher import Publisher, merged
from nodectl.trust.token import Role

VERSION = 2
_GENERATIONS_SERVED = 3  # of each name, the last ones


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """This machine's place in a realm: what `join` (or `init`) left here."""

    realm_id: str
    realm_name: str
    node: str
    role: Role
    controllers: tuple[str, ...]  # URLs, the first is tried first
    ca_pem: str
    secret: bytes = field(repr=False)  # 32 bytes, keys the MAC of requests to the controller
    content_keys: ContentKeys = field(repr=False)
    publishers: tuple[Publisher, ...]  # whose releases are taken
    job_keys: tuple[bytes, ...]  # raw Ed25519 public keys: who may order work
    identity: Credential = field(repr=False)  # certificate and key for TLS, see trust/certificate
    listen: str = ""  # controller only: where `serve --controller` listens by default

    def to_json(self) -> dict[str, Any]:
        """Return the document for node.json; it holds secrets."""
        return {
            "version": VERSION,
            "realm_id": self.realm_id,
            "realm_name": self.realm_name,
            "node": self.node,
            "role": self.role.value,
            "controllers": list(self.controllers),
            "ca_pem": self.ca_pem,
            "secret": self.secret.hex(),
            "content_keys": self.content_keys.to_hex(),
            "publishers": [one.to_json() for one in self.publishers],
            "job_keys": [key.hex() for key in self.job_keys],
            "certificate": self.identity.certificate.decode("ascii"),
            "certificate_key": self.identity.key.decode("ascii"),
            "listen": self.listen,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Return the membership that `to_json` wrote.

        Raises:
            ValueError, KeyError, TypeError: it is not one.
        """
        if document["version"] != VERSION:
            raise ValueError(f"version {document['version']} is not known")
        return cls(
            realm_id=str(document["realm_id"]),
            realm_name=str(document["realm_name"]),
            node=checked_name(document["node"]),
            role=Role(document["role"]),
            controllers=tuple(str(url) for url in document["controllers"]),
            ca_pem=str(document["ca_pem"]),
            secret=bytes.fromhex(document["secret"]),
            content_keys=ContentKeys.from_hex(document["content_keys"]),
            publishers=tuple(Publisher.from_json(one) for one in document["publishers"]),
            job_keys=tuple(bytes.fromhex(key) for key in document["job_keys"]),
            identity=Credential(
                certificate=document["certificate"].encode("ascii"),
                key=document["certificate_key"].encode("ascii"),
            ),
            listen=str(document.get("listen", "")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldRoot:
    """A root whose frames this node has, or is getting, and serves."""

    root: Root
    swarm_key: bytes = field(repr=False)  # 32 bytes
    name: str
    generation: int
    root_block: bytes = field(repr=False)
    complete: bool
    own: bool = False  # captured here: no other machine need have it


class StateFolder:
    """The paths below one state folder, and the small files in it."""

    def __init__(self, folder: Path) -> None:
        """Name the folder; it need not exist yet."""
        self.folder = folder
        self.realm = folder / "realm"
        self.catalog = folder / "catalog.sqlite"
        self.membership_file = folder / "node.json"
        self.store = folder / "store"
        self.cache = folder / "cache"
        self.installers = folder / "installers"
        self._roots = folder / "roots.json"
        self._seen = folder / "seen.json"

    def is_member(self) -> bool:
        """Say whether this machine belongs to a realm."""
        return self.membership_file.exists()

    def membership(self) -> Membership:
        """Read this machine's membership.

        Raises:
            NoRealm: it has none.
            PathUnreadable: node.json may not be read, or is damaged.
        """
        try:
            return Membership.from_json(json.loads(self.membership_file.read_bytes()))
        except FileNotFoundError as exc:
            raise NoRealm(
                f"this machine belongs to no realm (there is no {self.membership_file})",
                hint="nodectl init --realm NAME makes one, nodectl join --token T joins one",
            ) from exc
        except PermissionError as exc:
            raise PathUnreadable(
                f"{self.membership_file} may not be read by this user",
                hint="run as the user that made it (often root), or name another --state",
            ) from exc
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
            raise PathUnreadable(f"{self.membership_file} cannot be read: {exc}") from exc

    def write_membership(self, membership: Membership) -> None:
        """Write node.json at once; with it the machine is a member."""
        make_private_folder(self.folder)
        make_private_folder(self.store)
        write_private(self.membership_file, _json_bytes(membership.to_json()))

    def pin_publishers(self, told: tuple[Publisher, ...]) -> Membership:
        """Remember the publishers that the controller told; return the membership."""
        membership = self.membership()
        publishers = merged(membership.publishers, told)
        if publishers != membership.publishers:
            membership = dataclasses.replace(membership, publishers=publishers)
            self.write_membership(membership)
        return membership

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Be the one process that serves this state: two agents would do each job twice.

        Raises:
            StoreBusy: another one does.
        """
        busy = StoreBusy(
            f"another nodectl serve uses {self.folder}",
            hint="end it first, or name another --state",
        )
        with sole_holder(self.folder / "serve.lock", busy):
            yield

    def forget_membership(self) -> None:
        """Remove node.json and the keys of all swarms; the store's frames stay."""
        for path in (self._roots, self.membership_file):
            path.unlink(missing_ok=True)
        fsync_folder(self.folder)

    def held_roots(self) -> tuple[HeldRoot, ...]:
        """Return the roots that this node serves."""
        return tuple(
            HeldRoot(
                root=Root(id_from_hex(root)),
                swarm_key=bytes.fromhex(entry["swarm_key"]),
                name=entry["name"],
                generation=entry["generation"],
                root_block=bytes.fromhex(entry["root_block"]),
                complete=entry["complete"],
                own=entry.get("own", False),
            )
            for root, entry in self._read(self._roots).items()
        )

    def hold_root(self, held: HeldRoot) -> None:
        """Remember a root, so that it is served again after a restart, and never collected."""
        with self._changing_roots() as roots:
            roots[held.root.hex()] = {
                "swarm_key": held.swarm_key.hex(),
                "name": held.name,
                "generation": held.generation,
                "root_block": held.root_block.hex(),
                "complete": held.complete,
                "own": held.own or roots.get(held.root.hex(), {}).get("own", False),
            }
            for root in _outdated(roots, held):
                del roots[root]

    def let_go(self, dropped: Iterable[Root]) -> None:
        """Forget roots: they are not served after a restart, and gc may collect their frames."""
        with self._changing_roots() as roots:
            for root in dropped:
                roots.pop(root.hex(), None)

    @contextlib.contextmanager
    def _changing_roots(self) -> Iterator[dict[str, Any]]:
        """Yield the roots and write them back; `serve` and commands take turns."""
        lock = os.open(self.folder / "roots.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            roots = self._read(self._roots)
            yield roots
            write_private(self._roots, _json_bytes(roots))
        finally:
            os.close(lock)

    def rekey_root(self, root: Root, key: bytes) -> None:
        """Remember another swarm key for a root that is held."""
        with self._changing_roots() as roots:
            if root.hex() in roots:
                roots[root.hex()]["swarm_key"] = key.hex()

    def seen_generation(self, name: str) -> int:
        """Return the highest generation of a release name seen here, 0 for none."""
        return int(self._read(self._seen).get(name, 0))

    def see_generation(self, name: str, generation: int, *, allow_older: bool = False) -> None:
        """Remember a generation of a name; an older one only when it is allowed."""
        seen = self._read(self._seen)
        if allow_older or generation > int(seen.get(name, 0)):
            seen[name] = generation
            write_private(self._seen, _json_bytes(seen))

    @staticmethod
    def _read(path: Path) -> dict[str, Any]:
        try:
            document = json.loads(path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as exc:
            raise PathUnreadable(f"{path} cannot be read: {exc}") from exc
        if not isinstance(document, dict):
            raise PathUnreadable(f"{path} cannot be read: it is no JSON object")
        return document


def default_folder(environment: Mapping[str, str], *, root: bool) -> Path:
    """Return the state folder of a user who named none."""
    if root:
        return Path("/var/lib/nodectl")
    data = environment.get("XDG_DATA_HOME") or str(Path("~/.local/share").expanduser())
    return Path(data) / "nodectl"


def state_folder(given: Path | None) -> StateFolder:
    """Return the state folder for `--state`, else `NODECTL_STATE`, else the user's default."""
    named = given or os.environ.get("NODECTL_STATE") or None
    if named is None:
        named = default_folder(os.environ, root=os.geteuid() == 0)
    return StateFolder(Path(named).absolute())


@contextlib.contextmanager
def new_state_folder(target: Path) -> Iterator[StateFolder]:
    """Build a state folder under a temporary name; it appears whole, at the end, or not at all.

    Raises:
        AlreadyThere: `target` exists and is not empty.
    """
    _refuse_overwriting(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_remains(target)
    building = target.with_name(f".{target.name}.init-{os.getpid()}")
    building.mkdir(mode=0o700)
    try:
        yield StateFolder(building)
        fsync_folder(building)
        try:
            building.rename(target)  # takes the place of an empty folder, of nothing else
        except OSError as exc:
            raise AlreadyThere(
                f"{target} cannot be made: {exc.strerror}",
                hint="if it is a mount point, name a folder below it with --state",
            ) from exc
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    fsync_folder(target.parent)


def _refuse_overwriting(target: Path) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise AlreadyThere(f"{target} is there and no folder", hint="name another --state")
    entries = {entry.name for entry in target.iterdir()}
    if {"realm", "node.json"} & entries:
        raise AlreadyThere(
            f"{target} holds a realm's state already; nothing was changed",
            hint="use it (nodectl serve), or name another --state",
        )
    if entries:
        raise AlreadyThere(f"{target} is not empty", hint="name another --state")


def _remove_remains(target: Path) -> None:
    """Remove what an `init` that was killed left beside the target."""
    prefix = f".{target.name}.init-"
    for remains in target.parent.glob(f"{prefix}*"):
        pid = remains.name.removeprefix(prefix)
        if not Path("/proc", pid).exists():
            shutil.rmtree(remains, ignore_errors=True)


def _outdated(roots: Mapping[str, Any], held: HeldRoot) -> list[str]:
    """Return the roots of generations of the held name that nobody asks for any more.

    Not those captured here: this may be the only machine that has them.
    """
    same = [
        root
        for root, entry in roots.items()
        if entry["name"] == held.name and not entry.get("own", False)
    ]
    same.sort(key=lambda root: int(roots[root]["generation"]), reverse=True)
    return [root for root in same[_GENERATIONS_SERVED:] if root != held.root.hex()]


def _json_bytes(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=1).encode() + b"\n"
