"""Which kernel modules an installer carries: what it takes to reach the network and any disk.

Chosen by where a module stands in the kernel's tree, which is the same for every distribution;
what those need comes along by modules.dep. Left out by intent: wireless, mobile and virtual
networks, sound, graphics, and what only a running system uses.

Names of modules carry .ko, .ko.xz, .ko.gz or .ko.zst (kmod reads them all).
"""

import re
from collections.abc import Iterable, Mapping, Sequence

# Folders beneath kernel/; a module in one of them is taken.
_TAKEN = (
    "arch", "crypto", "lib",
    "block", "drivers/block", "drivers/ata", "drivers/scsi", "drivers/nvme/host",
    "drivers/nvme/common",
    "drivers/md", "drivers/bcache",
    "drivers/message/fusion", "drivers/mmc", "drivers/memstick",
    "drivers/virtio", "drivers/hv", "drivers/xen", "drivers/nvdimm", "drivers/dax",
    "drivers/firmware",
    "drivers/pci", "drivers/dma", "drivers/phy", "drivers/regulator",
    "drivers/usb/common", "drivers/usb/core", "drivers/usb/host", "drivers/usb/storage",
    "drivers/usb/dwc2", "drivers/usb/dwc3", "drivers/usb/roles",
    "drivers/hid/hid-generic", "drivers/hid/usbhid", "drivers/hid/hid", "drivers/hid/hid-hyperv",
    "drivers/input/serio", "drivers/input/keyboard", "drivers/tty",
    "drivers/char/hw_random", "drivers/char/ipmi", "drivers/char/virtio_console",
    "drivers/platform/x86/wmi",
    "drivers/net/ethernet", "drivers/net/phy", "drivers/net/mdio",
    "drivers/net/pcs", "drivers/net/usb",
    "drivers/net/bonding", "drivers/net/hyperv", "drivers/net/vmxnet3", "drivers/net/virtio_net",
    "drivers/net/net_failover", "drivers/net/xen-netfront", "drivers/net/mii",
    "drivers/net/sungem_phy",
    "drivers/net/team", "drivers/net/macvlan", "drivers/ptp",
    "net/core", "net/802", "net/8021q", "net/llc", "net/packet",
    "fs/ext4", "fs/jbd2", "fs/mbcache", "fs/xfs", "fs/btrfs", "fs/fat", "fs/nls", "fs/efivarfs",
    "fs/squashfs", "fs/overlayfs", "fs/fscache", "fs/exportfs", "fs/crypto",
)  # fmt: skip
_LEFT = (
    "drivers/block/drbd", "drivers/block/floppy", "drivers/block/rbd", "drivers/block/aoe",
    "drivers/block/null_blk", "drivers/block/zram", "drivers/block/nbd", "drivers/block/rnbd",
    "drivers/block/pktcdvd", "drivers/block/paride", "drivers/block/ublk_drv",
    "drivers/ata/pata_legacy", "drivers/scsi/pcmcia", "drivers/scsi/scsi_debug",
    "drivers/scsi/bnx2fc",
    "drivers/scsi/osd", "drivers/md/dm-vdo", "drivers/hv/hv_balloon", "drivers/xen/xen-gntalloc",
    "drivers/net/ethernet/mellanox/mlxsw", "drivers/net/ethernet/netronome", "drivers/net/usb/hso",
    "drivers/net/usb/sierra_net", "drivers/net/usb/cdc_mbim", "drivers/net/usb/qmi_wwan",
    "drivers/net/ethernet/chelsio/inline_crypto", "drivers/net/ethernet/8390/pcnet_cs",
    "arch/x86/kvm", "drivers/vfio/pci/mlx5", "drivers/tty/n_gsm", "drivers/pci/hotplug",
    "drivers/usb/host/u132-hcd", "drivers/mmc/host/vub300",
)  # fmt: skip
_TESTS = ("test_", "tcrypt")
_SUFFIX = re.compile(r"\.ko(\.(xz|gz|zst))?$")
# For the network or a disk to be found, whatever the machine is.
_NETWORK = ("drivers/net/",)
_DISK = ("drivers/ata/", "drivers/scsi/", "drivers/nvme/", "drivers/block/", "drivers/virtio/")


def parse_dep(text: str) -> dict[str, tuple[str, ...]]:
    """Return each module of modules.dep with what it needs: paths beneath the kernel's folder."""
    found = {}
    for line in text.splitlines():
        path, colon, words = line.partition(":")
        if colon:
            found[path] = tuple(words.split())
    return found


def module_name(path: str) -> str:
    """Return the name by which modprobe knows the module at a path."""
    return _SUFFIX.sub("", path.rpartition("/")[2]).replace("-", "_")


def chosen_modules(needs: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return the paths of the modules that an installer carries, sorted."""
    taken = {
        path
        for path in needs
        if _within(path, _TAKEN)
        and not _within(path, _LEFT)
        and not module_name(path).startswith(_TESTS)
    }
    for path in tuple(taken):
        taken |= set(needs[path])  # modules.dep lists what is needed at any depth
    return tuple(sorted(taken))


def without_hardware(chosen: Iterable[str], builtin: str) -> list[str]:
    """Return what an installer with these modules could not reach: the network, disks, or both.

    `builtin` is the text of modules.builtin: what stands in the kernel itself counts.
    """
    paths = [*chosen, *builtin.split()]
    found = [path.partition("kernel/")[2] for path in paths]
    wants = {"network cards": _NETWORK, "disks": _DISK}
    return [what for what, places in wants.items() if not any(p.startswith(places) for p in found)]


def wanted_firmware(module: bytes) -> tuple[str, ...]:
    """Return the firmware files that a module (not compressed) says it may ask for."""
    marks = re.findall(rb"\0firmware=([\x21-\x7e]{1,200})(?=\0)", module)
    return tuple(sorted({mark.decode("ascii") for mark in marks}))


def _within(path: str, places: Iterable[str]) -> bool:
    inner = _SUFFIX.sub("", path.partition("kernel/")[2])
    return any(inner == place or inner.startswith(f"{place}/") for place in places)
