"""A tree becomes a node: real trees, real keys, read back and told apart."""

import os
import subprocess
from pathlib import Path

import pytest

from nodectl.catalog.inventory import Interface, NodeInventory
from nodectl.content.excludes import KERNEL, OWN, Excludes
from nodectl.content.own_files import OWN_FILES
from nodectl.errors import ReadBackFailed, UnsafePath
from nodectl.identity.apply import AppliedIdentity, apply_identity, check_identity
from nodectl.identity.derived import derive, derive_machine_id, derive_uuid
from nodectl.identity.hostkeys import fingerprint
from nodectl.identity.model import IdentityPlan, Way, WriteFile
from nodectl.identity.old_root import OldRoot, OldSystem, choose_old_root, read_old_root
from nodectl.identity.own import Owner, plan_own
from nodectl.identity.probe import opened, sealed_of
from nodectl.identity.rows import ROWS, for_system_root, kept_patterns, sealed_patterns

KEYS = [
    f"etc/ssh/ssh_host_{kind}_key{end}"
    for kind in ("ecdsa", "ed25519", "rsa")
    for end in ("", ".pub")
]
DIFFERS = (
    "etc/hostname",
    "etc/machine-id",
    "etc/iscsi/initiatorname.iscsi",
    "etc/nvme/hostnqn",
    "etc/nvme/hostid",
    "etc/hosts",
    "var/lib/systemd/random-seed",
    *KEYS,
)


def make_golden(root: Path) -> Path:
    """Make a system that somebody configured, and that nobody sealed."""
    for folder in ("etc/ssh/sshd_config.d", "etc/iscsi", "etc/nvme", "var/lib/dbus"):
        (root / folder).mkdir(parents=True)
    (root / "var/lib/systemd").mkdir()
    (root / "etc/ssh/sshd_config").write_text("#HostKey /etc/ssh/other\nPort 22\n")
    (root / "etc/os-release").write_text('ID=debian\nNAME="Debian"\n')
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n127.0.1.1 gold.example.org gold\n")
    (root / "etc/hostname").write_text("gold\n")
    (root / "etc/machine-id").write_text("0" * 32 + "\n")
    (root / "var/lib/dbus/machine-id").write_text("0" * 32 + "\n")
    (root / "etc/iscsi/initiatorname.iscsi").write_text("InitiatorName=iqn.gold\n")
    (root / "etc/nvme/hostnqn").write_text("nqn.gold\n")
    (root / "etc/nvme/hostid").write_text("gold\n")
    (root / "var/lib/systemd/random-seed").write_bytes(b"gold")
    for kind in ("rsa", "dsa"):
        (root / f"etc/ssh/ssh_host_{kind}_key").write_text("gold\n")
    return root


def own(root: Path, name: str, **owner: object) -> tuple[IdentityPlan, AppliedIdentity]:
    plan = plan_own(root, Owner(realm_id="realm", name=name, **owner))  # type: ignore[arg-type]
    applied = apply_identity(root, plan)
    check_identity(root, plan)
    return plan, applied


def read(root: Path, paths: tuple[str, ...] = DIFFERS) -> dict[str, bytes]:
    return {path: (root / path).read_bytes() for path in paths}


def old_system(root: Path) -> OldSystem:
    fd = opened(root)
    try:
        found = read_old_root(fd)
    finally:
        os.close(fd)
    assert found is not None
    return found


def ssh_keygen(*words: str | Path) -> str:
    done = subprocess.run(
        ["ssh-keygen", *words], check=True, capture_output=True, text=True, timeout=30
    )
    return done.stdout


def test_two_clones_of_one_image_differ_in_everything_that_must_differ(tmp_path: Path) -> None:
    golden = read(make_golden(tmp_path / "gold"), ("etc/machine-id", "etc/nvme/hostnqn"))
    one, two = make_golden(tmp_path / "n1"), make_golden(tmp_path / "n2")
    own(one, "node01")
    own(two, "node02")
    first, second = read(one), read(two)
    assert {path for path in DIFFERS if first[path] == second[path]} == set()
    assert {path for path in golden if golden[path] in {first[path], second[path]}} == set()
    for root in (one, two):
        assert (root / "var/lib/dbus/machine-id").readlink() == Path("/etc/machine-id")
        assert not (root / "etc/ssh/ssh_host_dsa_key").exists()  # the golden machine's


def test_a_node_that_is_deployed_again_is_the_same_node(tmp_path: Path) -> None:
    """All but the random seed, from the old disk and by derivation."""
    before, after = make_golden(tmp_path / "before"), make_golden(tmp_path / "after")
    _, first = own(before, "node01")
    (before / "etc/krb5.keytab").write_bytes(b"keytab")
    (before / "etc/krb5.keytab").chmod(0o600)
    (before / "etc/ssh/ssh_host_key_notes").mkdir()
    old = choose_old_root([old_system(before)], [], realm_id="realm", name="node01")
    assert any("ssh_host_key_notes" in note for note in old.notes)
    _, second = own(after, "node01", old=old)
    assert read(after, DIFFERS[:6] + tuple(KEYS)) == read(before, DIFFERS[:6] + tuple(KEYS))
    assert (after / "etc/krb5.keytab").read_bytes() == b"keytab"
    assert (after / "etc/krb5.keytab").stat().st_mode & 0o777 == 0o600
    assert (after / "var/lib/systemd/random-seed").read_bytes() != (
        before / "var/lib/systemd/random-seed"
    ).read_bytes()
    assert {line.replace("(fresh)", "(kept)") for line in first.host_keys} == set(second.host_keys)


def test_host_keys_are_what_ssh_takes(tmp_path: Path) -> None:
    root = make_golden(tmp_path / "n")
    _, applied = own(root, "node01")
    shown = set()
    for kind in ("rsa", "ecdsa", "ed25519"):
        private = root / f"etc/ssh/ssh_host_{kind}_key"
        assert private.stat().st_mode & 0o777 == 0o600
        public = (root / f"etc/ssh/ssh_host_{kind}_key.pub").read_text()
        assert ssh_keygen("-y", "-f", private).split()[:2] == public.split()[:2]
        _, digest, comment, name = ssh_keygen("-l", "-f", f"{private}.pub").split()
        assert comment == "root@node01"
        assert f"{name.strip('()')} {digest}" == fingerprint(public)
        shown.add(f"{fingerprint(public)} (fresh)")
    assert set(applied.host_keys) == shown


def test_keys_stand_where_sshd_looks_for_them(tmp_path: Path) -> None:
    """HostKey lines count; a kept key moves to where the new system wants it."""
    old = make_golden(tmp_path / "old")
    own(old, "node01")
    kept = choose_old_root([old_system(old)], [], realm_id="realm", name="node01")
    root = make_golden(tmp_path / "new")
    extra = root / "etc/ssh/sshd_config.d/keys.conf"
    extra.write_text(
        'HostKey "/etc/keys/my_ed25519"\nhostkey=/etc/keys/my_rsa\nHostKey /etc/keys/odd\n'
        "HostKey /../out/my_rsa\n"
    )
    plan, applied = own(root, "node01", old=kept)
    for kind in ("ed25519", "rsa"):
        assert (root / f"etc/keys/my_{kind}").read_bytes() == (
            old / f"etc/ssh/ssh_host_{kind}_key"
        ).read_bytes()
    assert "etc/keys" in applied.made
    (note,) = plan.notes
    assert note.startswith("sshd_config names the host key /etc/keys/odd, of a type that is not")
    assert sealed_of(root)[:2] == ("/etc/keys/my_ed25519", "/etc/keys/my_ed25519.pub")
    # A node that had its keys in another place keeps them there.
    again = choose_old_root([old_system(root)], [], realm_id="realm", name="node01")
    assert "etc/keys/my_rsa" in again.files


def test_an_old_disk_of_another_machine_leaves_nothing() -> None:
    def system(hostname: str, machine_id: str = "0") -> OldSystem:
        return OldSystem(hostname=hostname, machine_id=machine_id, files={})

    def chosen(*found: OldSystem) -> OldRoot:
        return choose_old_root(list(found), ["n"], realm_id="realm", name="node07")

    mine = derive_machine_id("realm", "node07")
    assert chosen() == OldRoot(notes=("n",))
    assert chosen(system("node07.example.org")).notes == ("n",)
    assert chosen(system("other", mine)).notes == ("n",)
    assert chosen(system("node07"), system("node07", mine)).notes == ("n",)
    assert "was that of node05: nothing was kept" in chosen(system("node05")).notes[1]
    assert "a system without a name" in chosen(system("")).notes[1]
    assert (
        "2 systems on the old disk say that they are node07"
        in (chosen(system("node07"), system("NODE07.x")).notes[1])
    )


def test_a_tree_without_a_system_is_no_old_root(tmp_path: Path) -> None:
    fd = opened(tmp_path)
    try:
        assert read_old_root(fd) is None
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("os_release", "begins"),
    [
        ("ID=debian\n", "iqn.1993-08.org.debian:01:"),
        ("ID=ubuntu\nID_LIKE=debian\n", "iqn.1993-08.org.debian:01:"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "iqn.1994-05.com.redhat:"),
        ('ID="opensuse-leap"\n', "iqn.1996-04.de.suse:01:"),
        ("ID=arch\n", "iqn.2005-03.org.open-iscsi:"),
    ],
)
def test_the_initiator_has_its_distributions_form(
    tmp_path: Path, os_release: str, begins: str
) -> None:
    root = make_golden(tmp_path / "n")
    (root / "etc/os-release").write_text(os_release)
    own(root, "node01")
    text = (root / "etc/iscsi/initiatorname.iscsi").read_text()
    assert text.startswith(f"InitiatorName={begins}")
    assert len(text) == len(f"InitiatorName={begins}") + 13


def test_nqn_and_host_id_are_one_pair(tmp_path: Path) -> None:
    root = make_golden(tmp_path / "n")
    own(root, "node01")
    nqn = (root / "etc/nvme/hostnqn").read_text()
    host = (root / "etc/nvme/hostid").read_text()
    assert nqn == f"nqn.2014-08.org.nvmexpress:uuid:{host}"


def test_older_places_of_the_hostname_are_written_where_they_are(tmp_path: Path) -> None:
    root = make_golden(tmp_path / "n")
    (root / "etc/sysconfig").mkdir()
    (root / "etc/sysconfig/network").write_text("NETWORKING=yes\nHOSTNAME=gold\n")
    (root / "etc/HOSTNAME").write_text("gold\n")
    own(root, "node01")
    assert (root / "etc/sysconfig/network").read_text() == 'NETWORKING=yes\nHOSTNAME="node01"\n'
    assert (root / "etc/HOSTNAME").read_text() == "node01\n"
    assert not (root / "etc/conf.d").exists()


def test_what_was_written_is_recorded_and_read_back(tmp_path: Path) -> None:
    root = make_golden(tmp_path / "n")
    plan, applied = own(root, "node01")
    recorded = set((root / OWN_FILES).read_text().split())
    assert recorded == {action.path for action in plan.actions}
    assert applied.paths == recorded | {OWN_FILES}
    assert "etc/ssh/ssh_host_dsa_key" in recorded  # a restore must not bring it back
    for path, spoil in (
        ("etc/hostname", lambda file: file.write_text("gold\n")),
        ("etc/ssh/ssh_host_rsa_key", lambda file: file.chmod(0o644)),
        ("var/lib/dbus/machine-id", lambda file: (file.unlink(), file.write_text("x"))),
        ("etc/ssh/ssh_host_dsa_key", lambda file: file.write_text("gold\n")),
    ):
        apply_identity(root, plan)
        check_identity(root, plan)
        spoil(root / path)
        with pytest.raises(ReadBackFailed, match=f"/{path}"):
            check_identity(root, plan)


def test_a_tree_with_nothing_gets_what_every_node_has(tmp_path: Path) -> None:
    plan, applied = own(tmp_path, "n")
    assert applied.made == {"etc", "etc/nodectl"}
    assert applied.paths == {"etc/hostname", "etc/machine-id", OWN_FILES}
    assert plan.host_keys == ()


def test_an_etc_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root/etc").symlink_to("../outside")
    with pytest.raises(UnsafePath):
        own(tmp_path / "root", "n")
    assert list((tmp_path / "outside").iterdir()) == []


def test_folders_keep_their_times_and_secrets_are_never_shown(tmp_path: Path) -> None:
    root = make_golden(tmp_path / "n")
    os.utime(root / "etc/ssh", ns=(1, 1_600_000_000_123_456_789))
    plan, _ = own(root, "node01")
    assert (root / "etc/ssh").stat().st_mtime_ns == 1_600_000_000_123_456_789
    assert "PRIVATE KEY" not in repr(plan)
    assert not [action for action in plan.actions if "PRIVATE" in action.shown()]


def test_addresses_stand_in_the_hosts_file(tmp_path: Path) -> None:
    root = make_golden(tmp_path / "n")
    eth0 = Interface(name="eth0", addresses=("10.0.0.7/24",))
    own(root, "node01", inventory=NodeInventory(name="node01", interfaces=(eth0,)))
    assert (root / "etc/hosts").read_text() == (
        "127.0.0.1 localhost\n10.0.0.7\tnode01.example.org node01\t# nodectl: this node\n"
    )


def test_no_path_is_planned_twice() -> None:
    file = WriteFile(path="etc/x", data=b"", item="x")
    with pytest.raises(ValueError, match="etc/x"):
        IdentityPlan(machine_id="0", actions=(file, file))


# --- the table, derived values -----------------------------------------------------------------


def test_the_table_has_each_item_once_and_patterns_that_mean_something() -> None:
    items = [row.item for row in ROWS]
    assert len(set(items)) == len(items) >= 25
    assert {row.way for row in ROWS} == set(Way)
    assert all(pattern.startswith("/") for pattern in sealed_patterns())
    assert len(Excludes(sealed_patterns()).patterns) == sum(len(row.sealed) for row in ROWS)
    for pattern, item in kept_patterns():
        assert Excludes(sealed_patterns()).covers(pattern.replace("*", "x").encode()), item


def test_a_systems_root_leaves_out_what_makes_it_itself() -> None:
    patterns = for_system_root()
    assert set(KERNEL) | set(OWN) | set(sealed_patterns()) <= set(patterns)
    excludes = Excludes(patterns)
    for path in (
        b"proc/1", b"sys/kernel", b"dev/sda", b"run/lock", b"tmp/x", b"etc/machine-id",
        b"etc/ssh/ssh_host_ed25519_key", b"etc/ssh/ssh_host_rsa_key.pub", b"etc/hostname",
        b"var/lib/nodectl", b"home/anna/.bash_history", b"var/lib/systemd/random-seed",
        b"etc/munge/munge.key", b"etc/krb5.keytab", b"var/lib/tailscale/state",
    ):  # fmt: skip
        assert excludes.covers(path), path
    for path in (
        b"proc", b"sys", b"dev", b"run", b"tmp", b"etc/ssh/sshd_config", b"etc/passwd",
        b"etc/fstab", b"etc/munge", b"var/spool/cron/crontabs/root", b"etc/cron.d/x",
        b"home/proc/x", b"srv/etc/machine-id", b"home/anna/x/.bash_history", b"var/lib/dhcp",
    ):  # fmt: skip
        assert not excludes.covers(path), path


def test_derived_values_are_stable_and_nobody_elses() -> None:
    mine = derive_machine_id("realm", "node07")
    assert mine == derive_machine_id("realm", "node07")
    assert len(mine) == 32
    assert set(mine) <= set("0123456789abcdef")
    others = {derive_machine_id("realm", "node08"), derive_machine_id("other", "node07")}
    # the boundary between the two names counts, and the purpose does
    others.add(derive_machine_id("realmn", "ode07"))
    others.add(derive("other", "realm", "node07", length=16).hex())
    assert len(others | {mine}) == 5
    assert derive_uuid("x", "a")[14] == "5"
