"""Which kernel modules an installer carries."""

from nodectl.installer.drivers import (
    chosen_modules,
    module_name,
    parse_dep,
    wanted_firmware,
    without_hardware,
)

DEP = """\
kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko
kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko
kernel/net/core/failover.ko:
kernel/drivers/net/ethernet/mellanox/mlx5/core/mlx5_core.ko.xz: kernel/drivers/ib/ib.ko.xz
kernel/drivers/ib/ib.ko.xz:
kernel/drivers/net/ethernet/mellanox/mlxsw/mlxsw_core.ko:
kernel/drivers/net/wireless/ath/ath9k.ko:
kernel/drivers/nvme/host/nvme.ko.zst: kernel/drivers/nvme/host/nvme-core.ko.zst
kernel/drivers/nvme/host/nvme-core.ko.zst:
kernel/drivers/gpu/drm/drm.ko:
kernel/sound/soundcore.ko:
kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko
kernel/fs/jbd2/jbd2.ko:
kernel/fs/nfs/nfs.ko:
"""


def test_network_and_disks_come_with_what_they_need_and_nothing_else_does() -> None:
    chosen = {module_name(path) for path in chosen_modules(parse_dep(DEP))}
    assert chosen == {
        "virtio_net", "net_failover", "failover", "mlx5_core", "ib", "nvme", "nvme_core", "ext4",
        "jbd2",
    }  # fmt: skip


def test_what_could_not_be_reached_is_named_and_what_is_built_in_counts() -> None:
    assert without_hardware((), "") == ["network cards", "disks"]
    assert without_hardware(("kernel/drivers/net/virtio_net.ko",), "") == ["disks"]
    builtin = "kernel/drivers/ata/ahci.ko\nkernel/drivers/net/ethernet/intel/e1000/e1000.ko\n"
    assert without_hardware((), builtin) == []


def test_a_module_says_which_firmware_it_asks_for() -> None:
    module = b"\x7fELF..\0license=GPL\0firmware=bnx2/a.fw\0firmware=bnx2/b.fw\0firmware=bnx2/a.fw\0"
    assert wanted_firmware(module) == ("bnx2/a.fw", "bnx2/b.fw")
