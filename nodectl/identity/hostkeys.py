"""SSH host keys: where sshd looks for them, and what is planned for each. Pure.

Source: sshd_config(5), HostKey: where no line names one, sshd takes the files ssh_host_TYPE_key in
/etc/ssh, of the types rsa, ecdsa and ed25519. What type a key is its file's name says.
"""

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from nodectl.identity.model import KeptFile, NodeFacts, TreeFacts, WriteFile
from nodectl.identity.rows import SSH_HOST_KEYS

KEY_TYPES = ("ed25519", "ecdsa", "rsa")
CONFIG = "etc/ssh/sshd_config"
CONFIG_FOLDER = "etc/ssh/sshd_config.d"
_DEFAULTS = {f"etc/ssh/ssh_host_{kind}_key": kind for kind in KEY_TYPES}
_HOST_KEY = re.compile(r"^\s*HostKey(?:\s+|\s*=\s*)\"?([^\"\s]+)\"?", re.IGNORECASE | re.MULTILINE)
_PRIVATE, _PUBLIC = 0o600, 0o644


@dataclass(frozen=True, slots=True, kw_only=True)
class HostKeys:
    """What is planned."""

    files: tuple[WriteFile, ...]
    shown: tuple[str, ...]  # "ED25519 SHA256:... (kept)"
    notes: tuple[str, ...]


def configured_paths(texts: Mapping[str, str]) -> tuple[str, ...]:
    """Return the paths (no leading "/") of HostKey lines in a tree's sshd_config files."""
    found = [
        match[1].lstrip("/")
        for path, text in sorted(texts.items())
        if path == CONFIG or path.startswith(f"{CONFIG_FOLDER}/")
        for match in _HOST_KEY.finditer(text)
    ]
    return tuple(path for path in dict.fromkeys(found) if ".." not in path.split("/"))


def has_sshd(tree: TreeFacts) -> bool:
    """Say whether a tree has a server that needs host keys."""
    return CONFIG in tree.texts


def plan_host_keys(tree: TreeFacts, node: NodeFacts) -> HostKeys:
    """Keep the keys of the old disk; where there are none, take fresh ones."""
    explicit = configured_paths(tree.texts)
    kept = {path: file for path, file in node.kept.items() if _is_key(path, explicit)}
    files = [_kept_file(path, file) for path, file in sorted(kept.items())]
    shown = [f"{one} (kept)" for one in _fingerprints(files)]
    notes = []
    if not has_sshd(tree):
        return HostKeys(files=tuple(files), shown=tuple(shown), notes=())
    wanted: Mapping[str, str] = {path: _type_of(path) for path in explicit}
    if not wanted and not kept:
        wanted = _DEFAULTS
    for path, kind in wanted.items():
        if path in kept:
            continue
        made = list(_moved(path, kind, kept) or _fresh(path, kind, node.fresh_host_keys))
        if not made:
            notes.append(f"sshd_config names the host key /{path}, of a type that is not made here")
        files += made
        word = "kept" if any(kind and kind in old for old in kept) else "fresh"
        shown += [f"{one} ({word})" for one in _fingerprints(made)]
    return HostKeys(files=tuple(files), shown=tuple(shown), notes=tuple(notes))


def fingerprint(public_line: str) -> str:
    """Return "ED25519 SHA256:..." of a public key's line, as ssh-keygen -l shows it."""
    kind, encoded = public_line.split()[:2]
    digest = hashlib.sha256(base64.b64decode(encoded)).digest()
    short = kind.removeprefix("ssh-").removeprefix("ecdsa-sha2-")
    name = "ECDSA" if short.startswith("nistp") else short.upper()
    return f"{name} SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def _is_key(path: str, explicit: tuple[str, ...]) -> bool:
    base = path.removesuffix(".pub")
    return base in explicit or base.startswith("etc/ssh/ssh_host_")


def _type_of(path: str) -> str:
    name = path.rsplit("/", 1)[-1]
    return next((kind for kind in KEY_TYPES if kind in name), "")


def _kept_file(path: str, file: KeptFile) -> WriteFile:
    # Ids of groups (RHEL's ssh_keys) may differ in the new system: root alone may read a secret.
    mode = _PUBLIC if path.endswith(".pub") else _PRIVATE
    return WriteFile(path=path, data=file.data, item=SSH_HOST_KEYS, mode=mode)


def _moved(path: str, kind: str, kept: Mapping[str, KeptFile]) -> Iterator[WriteFile] | None:
    """Return the kept key of a type for a path where the old system did not have it."""
    for old in kept:
        if kind and _type_of(old) == kind and not old.endswith(".pub"):
            pair = [(path, kept[old]), (f"{path}.pub", kept.get(f"{old}.pub"))]
            return (_kept_file(name, file) for name, file in pair if file is not None)
    return None


def _fresh(path: str, kind: str, fresh: Mapping[str, bytes]) -> Iterator[WriteFile]:
    for suffix, mode in (("", _PRIVATE), (".pub", _PUBLIC)):
        data = fresh.get(kind + suffix)
        if kind and data is not None:
            yield WriteFile(path=path + suffix, data=data, item=SSH_HOST_KEYS, mode=mode)


def _fingerprints(files: list[WriteFile]) -> Iterator[str]:
    for file in files:
        if file.path.endswith(".pub"):
            try:
                yield fingerprint(file.data.decode("ascii", "replace"))
            except (ValueError, IndexError):
                yield f"/{file.path}: damaged"
