"""What the kernel's command line tells an installer, and what becomes of it."""

import pytest

from nodectl.errors import InvalidInput
from nodectl.installer.cmdline import (
    Bond,
    Card,
    Command,
    Setting,
    Static,
    Vlan,
    candidates,
    is_complete,
    link_steps,
    parse_words,
)

ETH0 = Card(name="eth0", mac="52:54:00:00:00:01")
ETH1 = Card(name="eth1", mac="52:54:00:00:00:02")
VIRTUAL = Card(name="dummy0", mac="52:54:00:00:00:03", physical=False)


def test_a_machine_that_ipxe_started_uses_the_card_it_booted_from() -> None:
    words = parse_words(
        "quiet initrd=x nodectl.name=node01 nodectl.ticket=nodectl1.abc "
        "BOOTIF=01-52-54-00-00-00-02 root=/dev/sda1"
    )
    assert (words.name, words.ticket, words.mac) == ("node01", "nodectl1.abc", ETH1.mac)
    assert words.static is None
    assert not is_complete(words, (ETH0,))
    assert is_complete(words, (ETH0, ETH1))
    assert candidates(words, (ETH0, ETH1)) == ("eth1",)


def test_without_a_word_every_physical_card_is_tried() -> None:
    words = parse_words("")
    assert candidates(words, (ETH0, ETH1, VIRTUAL)) == ("eth0", "eth1")
    assert not is_complete(words, ())


def test_the_ticket_is_in_no_representation() -> None:
    assert "secret" not in repr(parse_words("nodectl.ticket=secret"))


@pytest.mark.parametrize(
    ("text", "card", "static"),
    [
        ("ip=dhcp", "", None),
        ("ip=eth1:dhcp", "eth1", None),
        (
            "ip=10.0.0.7::10.0.0.1:255.255.255.0::eth0:none",
            "eth0",
            Static(address="10.0.0.7/24", gateway="10.0.0.1"),
        ),
        ("ip=10.0.0.7:::16:::off", "", Static(address="10.0.0.7/16")),
    ],
)
def test_addresses_as_dracut_writes_them(text: str, card: str, static: Static | None) -> None:
    words = parse_words(text)
    assert (words.card, words.static) == (card, static)


def test_a_static_address_is_set_with_its_route() -> None:
    words = parse_words("ip=10.0.0.7::10.0.0.1:24::eth0:none")
    argvs = [each.argv for each in link_steps(words, (ETH0,)) if isinstance(each, Command)]
    assert argvs == [
        ("busybox", "ip", "link", "set", "eth0", "up"),
        ("busybox", "ip", "addr", "add", "10.0.0.7/24", "dev", "eth0"),
        ("busybox", "ip", "route", "add", "default", "via", "10.0.0.1", "dev", "eth0"),
    ]


def test_a_vlan_on_a_bond_has_its_mode_before_its_members() -> None:
    words = parse_words("bond=bond0:eth0,eth1:miimon=100,mode=802.3ad vlan=bond0.20:bond0")
    assert words.bond == Bond(
        name="bond0", members=("eth0", "eth1"), options=(("miimon", "100"), ("mode", "802.3ad"))
    )
    assert words.vlan == Vlan(name="bond0.20", link="bond0", id=20)
    assert not is_complete(words, (ETH0,))
    assert is_complete(words, (ETH0, ETH1))
    assert candidates(words, (ETH0, ETH1)) == ("bond0.20",)
    folder = "/sys/class/net/bond0/bonding"
    steps = link_steps(words, (ETH0, ETH1))
    settings = [each for each in steps if isinstance(each, Setting)]
    assert settings == [
        Setting(path="/sys/class/net/bonding_masters", text="+bond0"),
        Setting(path=f"{folder}/mode", text="802.3ad"),
        Setting(path=f"{folder}/miimon", text="100"),
        Setting(path=f"{folder}/slaves", text="+eth0"),
        Setting(path=f"{folder}/slaves", text="+eth1"),
    ]
    assert steps[-1] == Command(argv=("busybox", "ip", "link", "set", "bond0.20", "up"))


@pytest.mark.parametrize(
    "text",
    [
        "BOOTIF=01-52-54",
        "nodectl.name=../x",
        "ip=10.0.0.7",
        "ip=eth0:static",
        "ip=10.0.0.700::10.0.0.1:24::eth0:none",
        "ip=10.0.0.7::10.0.0.1:24::a/b:none",
        "bond=bond0:eth0:mode",
        "bond=bond0:eth0:../mode=1",
        "bond=../x:eth0",
        "vlan=bond0.5000:bond0",
        "vlan=mine:bond0",
        "nameserver=example",
    ],
)
def test_a_wrong_word_is_named(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"command line|not a MAC"):
        parse_words(text)
