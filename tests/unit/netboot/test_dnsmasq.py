"""The configuration of dnsmasq, judged by dnsmasq itself where it is here."""

import shutil
import subprocess
from pathlib import Path

import pytest

from nodectl.errors import InvalidInput
from nodectl.netboot.dnsmasq import DnsmasqWish, dnsmasq_text

URL = "http://10.0.0.1:7445"


def wish(**more: str) -> DnsmasqWish:
    return DnsmasqWish(**{"interface": "eth0", "boot_url": URL, "tftp": "/usr/lib/ipxe", **more})


OWN = wish(first="10.0.0.100", last="10.0.0.200", gateway="10.0.0.254")
PROXY = wish(network="10.0.0.0")


def test_firmware_gets_ipxe_and_ipxe_its_script() -> None:
    lines = dnsmasq_text(OWN).splitlines()
    assert "dhcp-range=10.0.0.100,10.0.0.200,1h" in lines
    assert "dhcp-option=option:router,10.0.0.254" in lines
    assert "dhcp-boot=tag:!ipxe,tag:bios,undionly.kpxe" in lines
    assert "dhcp-boot=tag:!ipxe,tag:uefi,snponly.efi" in lines
    assert "dhcp-boot=tag:!ipxe,tag:arm,snponly-arm64.efi" in lines
    script = f"{URL}/ipxe/${{netX/mac:hexhyp}}?arch=${{buildarch}}"
    assert f"dhcp-boot=tag:ipxe,{script}" in lines


def test_a_proxy_gives_no_address() -> None:
    lines = dnsmasq_text(PROXY).splitlines()
    assert [line for line in lines if line.startswith("dhcp-range")] == [
        "dhcp-range=10.0.0.0,proxy"
    ]
    assert not [line for line in lines if "router" in line]


@pytest.mark.parametrize("wanted", [OWN, PROXY], ids=["own", "proxy"])
def test_dnsmasq_takes_it(wanted: DnsmasqWish, tmp_path: Path) -> None:
    program = shutil.which("dnsmasq", path="/usr/sbin:/usr/bin:/sbin:/bin")
    if program is None:
        pytest.skip("dnsmasq (dnsmasq-base) is not here")
    (tmp_path / "conf").write_text(dnsmasq_text(wanted))
    done = subprocess.run(
        [program, "--test", f"--conf-file={tmp_path / 'conf'}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"first": "10.0.0.1"},
        {"first": "10.0.0.9", "last": "10.0.0.1"},
        {"first": "10.0.0.1", "last": "x"},
        {"network": "10.0.0.0", "first": "10.0.0.1", "last": "10.0.0.2"},
        {"network": "10.0.0.0\nconf-file=/etc/shadow"},
        {"network": "10.0.0.0", "interface": "eth0\nuser=root"},
        {"network": "10.0.0.0", "tftp": "/a b"},
        {"network": "10.0.0.0", "tftp": "relative"},
        {"first": "10.0.0.1", "last": "10.0.0.2", "gateway": "nowhere"},
    ],
)
def test_a_wrong_field_is_refused(more: dict[str, str]) -> None:
    with pytest.raises(InvalidInput):
        wish(**more)
