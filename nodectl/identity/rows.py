"""The table of everything that makes a node itself. A new item is a new row here.

`sealed` is what a capture of a system's root leaves out (the manifest records the list, and a
restore in place neither writes nor removes it); `kept` is what a clone takes over from the system
that stood on the disk. What is written at apply is decided in `plan.py`, by item.
"""

from nodectl.content.excludes import KERNEL, OWN, TRANSIENT
from nodectl.identity.model import Row, Way

HOSTNAME = "hostname"
MACHINE_ID = "machine-id"
SSH_HOST_KEYS = "SSH host keys"
NETWORK = "network configuration"
INTERFACE_NAMES = "names of network cards"
RANDOM_SEED = "random seed"
ISCSI = "iSCSI initiator name"
NVME = "NVMe host NQN and id"
FSTAB = "fstab"
HOSTS = "hosts file"
SECRETS = "secrets of a group"
SITE_FILES = "site files"
KEPT_ENROLMENT = "enrolment with other services"

ROWS: tuple[Row, ...] = (
    Row(item=HOSTNAME, way=Way.INVENTORY, sealed=("/etc/hostname",)),
    Row(
        item=MACHINE_ID,
        way=Way.DERIVED,
        sealed=("/etc/machine-id", "/var/lib/dbus/machine-id"),
        why="written, never only deleted: without the file Ubuntu's first boot breaks",
    ),
    Row(
        item=SSH_HOST_KEYS,
        way=Way.KEPT,
        sealed=("/etc/ssh/ssh_host_*",),
        kept=("etc/ssh/ssh_host_*",),
        why="another key is an alarm in every known_hosts",
    ),
    Row(
        item=NETWORK,
        way=Way.INVENTORY,
        why="an image may carry what fits all nodes (DHCP); with interfaces in the inventory, what "
        "the image has is removed",
    ),
    Row(
        item=INTERFACE_NAMES,
        way=Way.INVENTORY,
        sealed=(
            "/etc/udev/rules.d/70-persistent-net.rules",
            "/etc/udev/rules.d/75-persistent-net*.rules",
            "/etc/udev/rules.d/z25_persistent-net.rules",
            "/etc/udev/rules.d/70-persistent-cd.rules",
            "/etc/udev/rules.d/75-cd-aliases-generator.rules",
            "/etc/udev/rules.d/z45_persistent-cd.rules",
        ),
    ),
    Row(
        item="DHCP leases and client ids",
        way=Way.BY_ITSELF,
        sealed=(
            "/var/lib/dhcp/*",
            "/var/lib/dhclient/*",
            "/var/lib/dhcpcd/*",
            "/etc/dhcpcd.duid",
            "/etc/dhcpcd.secret",
            "/var/lib/NetworkManager/*",
            "/var/lib/systemd/network/*",
            "/var/lib/wicked/*",
        ),
        why="the ids follow the machine-id: the same one is the same lease",
    ),
    Row(
        item="ids of filesystems, partitions, md, LVM and LUKS",
        way=Way.MADE,
        why="made when the disk is",
    ),
    Row(
        item=FSTAB,
        way=Way.MADE,
        sealed=("/etc/lvm/devices/system.devices", "/etc/lvm/devices/backup/*", "/etc/blkid.tab"),
        why="RHEL 9 sees no volume group whose device is not in its list",
    ),
    Row(item="boot loader and its entries", way=Way.MADE, why="from the layout, by boot/"),
    Row(item="initramfs", way=Way.MADE, why="checked or rebuilt for the target, by boot/"),
    Row(
        item=RANDOM_SEED,
        way=Way.FRESH,
        sealed=(
            "/var/lib/systemd/random-seed",
            "/var/lib/urandom/random-seed",
            "/boot/efi/loader/random-seed",
            "/boot/loader/random-seed",
            "/efi/loader/random-seed",
        ),
    ),
    Row(
        item="credential secret of systemd",
        way=Way.BY_ITSELF,
        sealed=("/var/lib/systemd/credential.secret",),
    ),
    Row(item=ISCSI, way=Way.DERIVED, sealed=("/etc/iscsi/initiatorname.iscsi",)),
    Row(
        item=NVME,
        way=Way.DERIVED,
        sealed=("/etc/nvme/hostnqn", "/etc/nvme/hostid"),
        why="two hosts with one NQN corrupt each other's data; NQN and id are a pair",
    ),
    Row(
        item="InfiniBand node description, IPoIB client id",
        way=Way.BY_ITSELF,
        why="follow the hostname (rdma-ndd) and the port's GUID",
    ),
    Row(
        item="BMC, RAID controller and firmware settings",
        way=Way.INVENTORY,
        why="not in a file of the system; the address of the BMC stands in the inventory",
    ),
    Row(item=HOSTS, way=Way.INVENTORY, why="the site's part is kept"),
    Row(
        item=SECRETS,
        way=Way.SHARED,
        sealed=("/etc/munge/munge.key",),
        why="an image is read by more people than a key",
    ),
    Row(item=SITE_FILES, way=Way.INVENTORY, why="templates, filled in for each node"),
    Row(
        item=KEPT_ENROLMENT,
        way=Way.KEPT,
        sealed=(
            "/etc/krb5.keytab",
            "/var/lib/samba/private/*",
            "/etc/puppet/ssl/*",
            "/etc/puppetlabs/puppet/ssl/*",
            "/var/lib/puppet/ssl/*",
            "/etc/salt/minion_id",
            "/etc/salt/pki/minion/*",
            "/var/cfengine/ppkeys/localhost.*",
            "/var/rudder/cfengine-community/ppkeys/localhost.*",
            "/opt/rudder/etc/uuid.hive",
            "/etc/chef/client.pem",
            "/var/lib/kubelet/pki/*",
        ),
        kept=(
            "etc/krb5.keytab",
            "etc/salt/minion_id",
            "etc/salt/pki/minion/*",
            "var/cfengine/ppkeys/localhost.*",
            "var/rudder/cfengine-community/ppkeys/localhost.*",
            "opt/rudder/etc/uuid.hive",
            "etc/chef/client.pem",
            "etc/puppetlabs/puppet/ssl/*/*.pem",
        ),
        why="where nothing is kept, the node enrols again",
    ),
    Row(
        item="ids of telemetry and of overlay networks",
        way=Way.BY_ITSELF,
        sealed=(
            "/var/lib/tailscale/*",
            "/var/lib/zerotier-one/identity.*",
            "/etc/docker/key.json",
            "/var/lib/docker/engine-id",
            "/var/lib/swtpm-localca/*",
            "/var/lib/libvirt/swtpm/*",
            "/etc/iscsi/nodes/*",
            "/var/lib/iscsi/nodes/*",
        ),
    ),
    Row(
        item="subscription ids",
        way=Way.BY_ITSELF,
        sealed=(
            "/etc/pki/consumer/*",
            "/etc/pki/entitlement/*",
            "/etc/sysconfig/rhn/systemid",
            "/etc/zypp/credentials.d/SCCcredentials",
            "/etc/SUSEConnect",
            "/var/lib/ubuntu-advantage/private/*",
        ),
        why="registered again, not shared",
    ),
    Row(item="cloud-init's instance", way=Way.BY_ITSELF, sealed=("/var/lib/cloud/*",)),
    Row(
        item="logs, mail and histories",
        way=Way.BY_ITSELF,
        sealed=(
            "/var/log/journal/*",
            "/var/log/wtmp",
            "/var/log/btmp",
            "/var/log/lastlog",
            "/var/log/faillog",
            "/var/log/wtmp.db",
            "/var/lib/wtmpdb/*",
            "/var/lib/lastlog/*",
            "/var/spool/mail/*",
            "/var/mail/*",
            "/var/account/pacct",
            "/root/.bash_history",
            "/home/*/.bash_history",
            "/etc/.pwd.lock",
        ),
    ),
    Row(item="time zone, locale, console", way=Way.IMAGE),
    Row(
        item="SELinux labels",
        way=Way.IMAGE,
        why="restored with the files; files that are written get the type of their kind",
    ),
    Row(item="capabilities, ACLs, attributes, hard links, holes", way=Way.IMAGE),
)


def sealed_patterns() -> tuple[str, ...]:
    """Return what a capture of a system's root leaves out, in the order of the table."""
    return tuple(dict.fromkeys(pattern for row in ROWS for pattern in row.sealed))


def for_system_root() -> tuple[str, ...]:
    """Return all that a capture of a system's root leaves out by default."""
    return (*KERNEL, *TRANSIENT, *sealed_patterns(), *OWN)


def kept_patterns() -> tuple[tuple[str, str], ...]:
    """Return what is taken over from an old disk: (pattern, item)."""
    return tuple((pattern, row.item) for row in ROWS for pattern in row.kept)
