"""Which network configuration a tree gets, and what of the image's goes: on real trees."""

from pathlib import Path

import pytest
from hypothesis import given
from inventory_samples import NODES, inventories

from nodectl.catalog.inventory import NodeInventory, Renderer
from nodectl.content.own_files import OWN_FILES
from nodectl.identity.apply import apply_identity, check_identity
from nodectl.identity.model import NodeFacts, TreeFacts, WriteFile
from nodectl.identity.network.plan import plan_network
from nodectl.identity.own import Owner, plan_own

STATIC = NODES["static"]
PROGRAM = {
    Renderer.NETPLAN: "usr/sbin/netplan",
    Renderer.NETWORKMANAGER: "usr/sbin/NetworkManager",
    Renderer.NETWORKD: "usr/lib/systemd/systemd-networkd",
    Renderer.IFUPDOWN: "sbin/ifup",
}
WRITTEN = {
    Renderer.NETPLAN: "etc/netplan/90-nodectl.yaml",
    Renderer.NETWORKMANAGER: "etc/NetworkManager/system-connections/nodectl-eth0.nmconnection",
    Renderer.NETWORKD: "etc/systemd/network/10-nodectl-eth0.network",
    Renderer.IFUPDOWN: "etc/network/interfaces",
}
GOLDEN = {
    "etc/NetworkManager/system-connections/lan.nmconnection": "[ethernet]\n",
    "etc/sysconfig/network-scripts/ifcfg-eth0": "HWADDR=52:54:00:aa:aa:aa\n",
    "etc/sysconfig/network-scripts/ifcfg-lo": "DEVICE=lo\n",
    "etc/systemd/network/20-lan.network": "[Match]\n",
    "etc/systemd/network/70-lan.link": "[Match]\nMACAddress=52:54:00:aa:aa:aa\n",
    "etc/systemd/network/99-default.link": "[Link]\nNamePolicy=keep\n",
    "etc/netplan/50-cloud-init.yaml": "network: {}\n",
    "etc/network/interfaces": "auto eth0\n",
    "etc/network/interfaces.d/50-cloud-init": "auto eth0\n",
    "etc/udev/rules.d/70-persistent-net.rules": 'ATTR{address}=="52:54:00:aa:aa:aa"\n',
}
STAYS = {"etc/sysconfig/network-scripts/ifcfg-lo", "etc/systemd/network/99-default.link"}


def put(root: Path, path: str, text: str = "") -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def enable(root: Path, unit: str) -> None:
    put(root, f"etc/systemd/system/multi-user.target.wants/{unit}")


def make(root: Path, inventory: NodeInventory | None = STATIC) -> tuple[str, ...]:
    plan = plan_own(root, Owner(realm_id="realm", name="node07", inventory=inventory))
    applied = apply_identity(root, plan)
    check_identity(root, plan)
    return applied.notes


def written(root: Path) -> set[Renderer]:
    return {
        each
        for each, path in WRITTEN.items()
        if (root / path).exists() and "nodectl" in (root / path).read_text()
    }


@pytest.mark.parametrize(
    ("programs", "units", "chosen"),
    [
        (list(Renderer), ["NetworkManager.service"], Renderer.NETPLAN),
        (list(Renderer)[1:], ["systemd-networkd.service"], Renderer.NETWORKD),
        (list(Renderer)[1:], ["networking.service"], Renderer.IFUPDOWN),
        (list(Renderer)[1:], [], Renderer.NETWORKMANAGER),
        ([Renderer.NETWORKD, Renderer.IFUPDOWN], [], Renderer.IFUPDOWN),
        ([Renderer.NETWORKD], [], Renderer.NETWORKD),
        ([Renderer.NETWORKD], ["NetworkManager.service"], Renderer.NETWORKD),
    ],
)
def test_what_the_image_has_is_configured(
    tmp_path: Path, programs: list[Renderer], units: list[str], chosen: Renderer
) -> None:
    for each in programs:
        put(tmp_path, PROGRAM[each])
    for unit in units:
        enable(tmp_path, unit)
    assert make(tmp_path) == ()
    assert written(tmp_path) == {chosen}
    link = tmp_path / "etc/systemd/system/multi-user.target.wants/systemd-networkd.service"
    if chosen is Renderer.NETWORKD and "systemd-networkd.service" not in units:
        assert link.is_symlink()


def test_an_attribute_asks_for_another(tmp_path: Path) -> None:
    put(tmp_path, PROGRAM[Renderer.NETPLAN])
    wish = NodeInventory(
        name="node07",
        interfaces=NODES["everything"].interfaces,
        attributes={"network-renderer": "ifupdown"},
    )
    notes = make(tmp_path, wish)
    assert written(tmp_path) == {Renderer.IFUPDOWN}
    assert [note.split(",")[0] for note in notes] == [
        "the image has no ifupdown",
        "the image has no ifenslave",
        "the image has no bridge-utils",
    ]


@pytest.mark.parametrize("renderer", list(Renderer))
def test_what_the_golden_machine_had_goes_and_stays_away(
    tmp_path: Path, renderer: Renderer
) -> None:
    for path, text in GOLDEN.items():
        put(tmp_path, path, text)
    put(tmp_path, PROGRAM[renderer])
    make(tmp_path)
    left = {path for path in GOLDEN if (tmp_path / path).exists()}
    assert left == STAYS | ({"etc/network/interfaces"} & {WRITTEN[renderer]})
    own = set((tmp_path / OWN_FILES).read_text().split())
    assert set(GOLDEN) - STAYS <= own


def test_without_interfaces_all_stays_and_what_is_bound_is_said(tmp_path: Path) -> None:
    for path, text in GOLDEN.items():
        put(tmp_path, path, text)
    put(tmp_path, PROGRAM[Renderer.NETWORKD])
    notes = make(tmp_path, None)
    assert {path: (tmp_path / path).read_text() for path in GOLDEN} == GOLDEN
    assert len(notes) == 3
    assert all("is for the network card 52:54:00:aa:aa:aa" in note for note in notes)


def test_an_image_without_any_is_left_and_it_is_said(tmp_path: Path) -> None:
    (note,) = make(tmp_path)
    assert "the interfaces of the inventory were not written" in note


@pytest.mark.parametrize(
    ("renderer", "more", "expected"),
    [
        (Renderer.NETWORKD, (), True),
        (Renderer.NETWORKD, ("etc/systemd/system/x.wants/systemd-resolved.service",), False),
        (Renderer.IFUPDOWN, (), True),
        (Renderer.IFUPDOWN, ("sbin/resolvconf",), False),
        (Renderer.NETWORKMANAGER, (), False),
    ],
)
def test_name_servers_reach_the_resolver(
    tmp_path: Path, renderer: Renderer, more: tuple[str, ...], *, expected: bool
) -> None:
    for path in (PROGRAM[renderer], *more):
        put(tmp_path, path)
    (tmp_path / "etc").mkdir(exist_ok=True)
    (tmp_path / "etc/resolv.conf").symlink_to("/run/nowhere")
    make(tmp_path)
    assert (tmp_path / "etc/resolv.conf").is_symlink() is not expected


def test_cloud_init_does_not_write_over_it(tmp_path: Path) -> None:
    for path in (PROGRAM[Renderer.NETPLAN], "usr/bin/cloud-init"):
        put(tmp_path, path)
    make(tmp_path)
    text = (tmp_path / "etc/cloud/cloud.cfg.d/99-nodectl-network.cfg").read_text()
    assert "network: {config: disabled}\n" in text


@given(inventories())
def test_every_valid_inventory_can_be_written_by_all(node: NodeInventory) -> None:
    for renderer in Renderer:
        tree = TreeFacts(programs=frozenset({renderer}))
        facts = NodeFacts(realm_id="r", name=node.name, inventory=node)
        texts = "".join(
            action.data.decode()
            for action in plan_network(tree, facts).actions
            if isinstance(action, WriteFile)
        )
        for address in node.all_addresses():
            assert address in texts
