"""What an installer carries besides the kernel's modules: programs, Python, udev, small files.

Where the families of distributions differ, every place that is known is tried. What must be there
is named with the package that brings it, for Debian and for RHEL-like systems.
"""

from dataclasses import dataclass

SEARCH_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program that is looked for on the search path."""

    name: str
    debian: str  # the package that brings it
    redhat: str
    required: bool = True  # False: without it some layouts cannot be made
    links: tuple[str, ...] = ()  # other names of the same file, taken where they are there


def _util_linux(*names: str) -> tuple[Program, ...]:
    return tuple(Program(name=each, debian="util-linux", redhat="util-linux") for each in names)


PROGRAMS: tuple[Program, ...] = (
    Program(name="busybox", debian="busybox-static", redhat="busybox"),
    Program(name="kmod", debian="kmod", redhat="kmod", links=("modprobe", "insmod", "lsmod")),
    Program(name="udevadm", debian="udev", redhat="systemd-udev"),
    *_util_linux(
        "partx", "lsblk", "blkid", "wipefs", "mkswap", "findmnt",
        "nsenter", "setpriv", "unshare", "swapon", "swapoff", "blkdiscard",
    ),
    Program(name="sfdisk", debian="fdisk", redhat="util-linux"),
    Program(name="losetup", debian="mount", redhat="util-linux"),
    Program(name="mount", debian="mount", redhat="util-linux"),
    Program(name="umount", debian="mount", redhat="util-linux"),
    Program(name="chroot", debian="coreutils", redhat="coreutils"),
    Program(name="cat", debian="coreutils", redhat="coreutils"),
    Program(name="sync", debian="coreutils", redhat="coreutils"),
    Program(name="mke2fs", debian="e2fsprogs", redhat="e2fsprogs",
            links=("mkfs.ext4", "mkfs.ext3", "mkfs.ext2")),
    Program(name="dumpe2fs", debian="e2fsprogs", redhat="e2fsprogs"),
    Program(name="tune2fs", debian="e2fsprogs", redhat="e2fsprogs"),
    Program(name="mkfs.vfat", debian="dosfstools", redhat="dosfstools", links=("mkfs.fat",)),
    Program(name="mkfs.xfs", debian="xfsprogs", redhat="xfsprogs", required=False),
    Program(name="xfs_logprint", debian="xfsprogs", redhat="xfsprogs", required=False),
    Program(name="mkfs.btrfs", debian="btrfs-progs", redhat="btrfs-progs", required=False),
    Program(name="btrfs", debian="btrfs-progs", redhat="btrfs-progs", required=False),
    Program(name="mdadm", debian="mdadm", redhat="mdadm", required=False),
    Program(name="lvm", debian="lvm2", redhat="lvm2", required=False, links=(
        "pvcreate", "pvremove", "pvs", "vgcreate", "vgchange", "vgs", "vgremove",
        "lvcreate", "lvs", "lvchange", "lvremove",
    )),
    Program(name="dmsetup", debian="dmsetup", redhat="device-mapper", required=False),
    Program(name="cryptsetup", debian="cryptsetup-bin", redhat="cryptsetup", required=False),
    Program(name="thin_check", debian="thin-provisioning-tools",
            redhat="device-mapper-persistent-data", required=False, links=("pdata_tools",)),
    Program(name="kpartx", debian="kpartx", redhat="kpartx", required=False),
    Program(name="efibootmgr", debian="efibootmgr", redhat="efibootmgr", required=False),
)  # fmt: skip

UDEVD = (  # the first that is there
    "/usr/lib/systemd/systemd-udevd", "/lib/systemd/systemd-udevd", "/usr/sbin/udevd",
    "/sbin/udevd",
)  # fmt: skip
UDEV_FOLDERS = ("/usr/lib/udev", "/lib/udev")
UDEV_PROGRAMS = ("ata_id", "scsi_id", "cdrom_id", "dmi_memory_id", "mtd_probe")
# Not the rules that assemble arrays or activate volumes: what stands on the disks is left alone
# until a plan says what becomes of it.
UDEV_RULES = (
    "50-udev-default.rules", "55-dm.rules", "60-block.rules", "60-persistent-storage.rules",
    "60-persistent-storage-dm.rules", "60-cdrom_id.rules", "63-md-raid-arrays.rules",
    "64-btrfs.rules", "80-drivers.rules", "75-net-description.rules",
)  # fmt: skip

SMALL_FILES = (
    "/etc/mke2fs.conf", "/etc/lvm/lvm.conf", "/etc/os-release", "/usr/lib/os-release",
    "/etc/ld.so.conf",
)  # fmt: skip
# Loaded by name while a program runs, so that no list of needed libraries has them.
LOADED_LATER = ("libgcc_s.so.1", "libkmod.so.2", "libnss_files.so.2")
LOCALES = ("/usr/lib/locale/C.utf8", "/usr/lib/locale/C.UTF-8")
TOP_LINKS = ("/bin", "/sbin", "/lib", "/lib64")
FOLDERS = ("proc", "sys", "dev", "run", "tmp", "mnt", "root", "etc", "var/lib")

PYTHON_VERSIONS = ("3.14", "3.13", "3.12", "3.11")  # best first
PYTHON_FOLDERS = ("/usr/bin", "/usr/local/bin", "/usr/libexec", "/opt/python/bin")
# Parts of the standard library that only those need who write programs.
PYTHON_LEFT = (
    "__pycache__", "test", "tests", "idlelib", "tkinter", "turtledemo", "turtle.py", "lib2to3",
    "ensurepip", "distutils", "pydoc_data", "venv", "msilib", "site-packages", "dist-packages",
    "sitecustomize.py", "curses", "dbm", "wsgiref", "xmlrpc", "pydoc.py", "doctest.py",
    "__phello__", "antigravity.py", "this.py", "lib-dynload", "LICENSE.txt",
)  # fmt: skip
PYTHON_MODULES_LEFT = ("_test", "_xx", "xx", "_tkinter", "_curses", "_dbm", "_gdbm", "nis",
                       "ossaudiodev", "readline", "_ctypes_test")  # fmt: skip

# Process 1. It only prepares; what is to be done, and what becomes of a failure, says nodectl.
INIT = """#!{busybox} sh
# Process 1 of an installer made by nodectl.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root LANG=C.UTF-8 LC_ALL=C.UTF-8 NODECTL_STATE=/run/nodectl-installer
b={busybox}
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
$b mkdir -p /dev/pts /dev/shm
$b mount -t devpts devpts /dev/pts
$b mount -t tmpfs -o mode=1777 shm /dev/shm
$b mount -t tmpfs -o mode=0755 run /run
$b mount -t tmpfs -o mode=1777 tmp /tmp
exec </dev/console >/dev/console 2>&1
[ ! -d /sys/firmware/efi ] || modprobe -q efivarfs
[ ! -d /sys/firmware/efi ] || $b mount -t efivarfs efivarfs /sys/firmware/efi/efivars
$b ip link set lo up
{udevd} --daemon
udevadm trigger --type=subsystems --action=add
udevadm trigger --type=devices --action=add
udevadm settle --timeout=60
{python} -I /nodectl.pyz installer run
echo "nodectl: the machine starts again in {pause} seconds"
$b sleep {pause}
$b sync
$b reboot -f
"""
PAUSE_S = 10

# What busybox's DHCP client runs when it has an address; its variables are those of udhcpc.
DHCP_SCRIPT = """#!{busybox} sh
b={busybox}
case "$1" in bound|renew) ;; *) exit 0 ;; esac
$b ip addr flush dev "$interface"
$b ip addr add "$ip/$mask" dev "$interface"
[ -z "$mtu" ] || $b ip link set "$interface" mtu "$mtu"
for one in $router; do $b ip route add default via "$one" dev "$interface"; done
: >/etc/resolv.conf
for one in $dns; do echo "nameserver $one" >>/etc/resolv.conf; done
[ -z "$search$domain" ] || echo "search ${{search:-$domain}}" >>/etc/resolv.conf
echo "$ip/$mask" >"/run/nodectl-lease-$interface"
"""
DHCP_SCRIPT_PATH = "/usr/lib/nodectl/udhcpc"
DETAILS_PATH = "/etc/nodectl-installer.json"
