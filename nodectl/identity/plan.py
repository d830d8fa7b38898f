"""What is done to a restored tree so that it is this node and no other. Pure.

Look (`probe.py`), decide (here), do and read back (`apply.py`). The items and where each comes from
stand in `rows.py`; there is a function for each item that files are made for.
"""

import re
from collections.abc import Iterator, Sequence

from nodectl.identity.derived import derive, derive_machine_id, derive_uuid
from nodectl.identity.hostkeys import plan_host_keys
from nodectl.identity.hosts import own_hosts
from nodectl.identity.model import (
    FileAction,
    IdentityPlan,
    MakeLink,
    NodeFacts,
    RemoveFile,
    TreeFacts,
    WriteFile,
)
from nodectl.identity.network.plan import plan_network
from nodectl.identity.rows import (
    HOSTNAME,
    HOSTS,
    ISCSI,
    KEPT_ENROLMENT,
    MACHINE_ID,
    NVME,
    RANDOM_SEED,
    SSH_HOST_KEYS,
)
from nodectl.identity.site import plan_site_files

_HOSTNAME_LINE = re.compile(r"^(\s*(?:HOSTNAME|hostname)=).*$", re.MULTILINE)
_HOSTNAME_FILES = ("etc/sysconfig/network", "etc/conf.d/hostname")
_ISCSI_BYTES = 6
_PRIVATE, _READ_ONLY = 0o600, 0o444
# The naming authority that each distribution's own tool writes; the last one where none is known.
_IQN = {
    "debian": "iqn.1993-08.org.debian:01:",
    "suse": "iqn.1996-04.de.suse:01:",
    "rhel": "iqn.1994-05.com.redhat:",
    "": "iqn.2005-03.org.open-iscsi:",
}


def plan_identity(
    tree: TreeFacts, node: NodeFacts, more: Sequence[FileAction] = ()
) -> IdentityPlan:
    """Return the plan; `more` are files that other parts made for this node (fstab)."""
    keys, network = plan_host_keys(tree, node), plan_network(tree, node)
    site = plan_site_files(tree, node.files)
    actions: list[FileAction] = [
        *more,
        *_hostname(tree, node),
        *_machine_id(tree, node),
        *_hosts(tree, node),
        *_random_seed(tree, node),
        *_iscsi(tree, node),
        *_nvme(tree, node),
        *keys.files,
        *network.actions,
        *_enrolment(node),
    ]
    # What the site says of a file counts, whoever else would write it.
    given = {file.path for file in site.files}
    actions = [*(action for action in actions if action.path not in given), *site.files]
    planned = {action.path for action in actions}
    actions += [action for action in _foreign(tree) if action.path not in planned]
    return IdentityPlan(
        machine_id=derive_machine_id(node.realm_id, node.name),
        actions=tuple(actions),
        notes=(*keys.notes, *network.notes, *site.notes),
        host_keys=keys.shown,
    )


def _hostname(tree: TreeFacts, node: NodeFacts) -> Iterator[FileAction]:
    data = f"{node.name}\n".encode()
    yield WriteFile(path="etc/hostname", data=data, item=HOSTNAME)
    if "etc/HOSTNAME" in tree.texts:  # SLES
        yield WriteFile(path="etc/HOSTNAME", data=data, item=HOSTNAME)
    for path in _HOSTNAME_FILES:  # RHEL to version 6, Gentoo
        text = tree.texts.get(path, "")
        changed = _HOSTNAME_LINE.sub(lambda found: f'{found[1]}"{node.name}"', text)
        if changed != text:
            yield WriteFile(path=path, data=_bytes(changed), item=HOSTNAME)


def _machine_id(tree: TreeFacts, node: NodeFacts) -> Iterator[FileAction]:
    data = f"{derive_machine_id(node.realm_id, node.name)}\n".encode()
    yield WriteFile(path="etc/machine-id", data=data, item=MACHINE_ID, mode=_READ_ONLY)
    if "var/lib/dbus" in tree.folders:
        yield MakeLink(path="var/lib/dbus/machine-id", target="/etc/machine-id", item=MACHINE_ID)


def _hosts(tree: TreeFacts, node: NodeFacts) -> Iterator[FileAction]:
    old = tree.texts.get("etc/hosts", "")
    addresses = tuple(node.inventory.all_addresses()) if node.inventory else ()
    new = own_hosts(old, node.name, addresses)
    if new != old:
        yield WriteFile(path="etc/hosts", data=_bytes(new), item=HOSTS)


def _random_seed(tree: TreeFacts, node: NodeFacts) -> Iterator[FileAction]:
    if "var/lib/systemd" in tree.folders and node.random_seed:
        yield WriteFile(
            path="var/lib/systemd/random-seed",
            data=node.random_seed,
            item=RANDOM_SEED,
            mode=_PRIVATE,
        )


def _iscsi(tree: TreeFacts, node: NodeFacts) -> Iterator[FileAction]:
    if "etc/iscsi" not in tree.folders:
        return
    family = _family(tree)
    unique = derive("iscsi initiator", node.realm_id, node.name, length=_ISCSI_BYTES).hex()
    data = f"InitiatorName={_IQN[family]}{unique}\n".encode()
    yield WriteFile(path="etc/iscsi/initiatorname.iscsi", data=data, item=ISCSI, mode=_PRIVATE)


def _family(tree: TreeFacts) -> str:
    """Return the family of distributions that a tree is of, as os-release(5) says."""
    text = tree.texts.get("etc/os-release") or tree.texts.get("usr/lib/os-release", "")
    lines = re.findall(r"^ID(?:_LIKE)?=(.*)$", text, re.MULTILINE)
    words = set(re.findall(r"[a-z]+", " ".join(lines)))
    if words & {"debian", "ubuntu"}:
        return "debian"
    if words & {"suse", "sles", "opensuse"}:
        return "suse"
    return "rhel" if words & {"rhel", "fedora", "centos"} else ""


def _nvme(tree: TreeFacts, node: NodeFacts) -> Iterator[FileAction]:
    if "etc/nvme" not in tree.folders:
        return
    host = derive_uuid("nvme host", node.realm_id, node.name)
    nqn = f"nqn.2014-08.org.nvmexpress:uuid:{host}\n"
    yield WriteFile(path="etc/nvme/hostnqn", data=nqn.encode(), item=NVME)
    yield WriteFile(path="etc/nvme/hostid", data=f"{host}\n".encode(), item=NVME)


def _enrolment(node: NodeFacts) -> Iterator[FileAction]:
    for path, file in sorted(node.kept.items()):
        if not path.startswith("etc/ssh/") and "ssh_host" not in path:
            yield WriteFile(
                path=path, data=file.data, item=KEPT_ENROLMENT,
                mode=file.mode, uid=file.uid, gid=file.gid,
            )  # fmt: skip


def _foreign(tree: TreeFacts) -> Iterator[FileAction]:
    """Yield the removal of what an image that was not sealed has of another machine."""
    for path in sorted(tree.files):
        if path.startswith("etc/ssh/ssh_host_"):
            yield RemoveFile(path=path, item=SSH_HOST_KEYS)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
