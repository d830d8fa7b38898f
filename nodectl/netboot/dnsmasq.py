"""The configuration of dnsmasq for a network that machines boot from; pure.

Two ways: dnsmasq is the DHCP server of that network, or it stands beside one that is there already
and only says how to boot (proxy DHCP). A machine asks at least twice: its firmware first, which
gets iPXE by TFTP, then iPXE, which is known by its option 175 (or its user class) and gets the URL
of its script. Without that difference it would load itself for ever.

Sources: dnsmasq(8); client architectures: RFC 4578, section 2.1, and its registry at IANA
(0 BIOS, 7 and 9 UEFI x86-64, 11 UEFI arm64); https://ipxe.org/howto/dhcpd.
"""

import ipaddress
import re
from dataclasses import dataclass

from nodectl.errors import InvalidInput
from nodectl.netboot.scripts import MAC_WORD

BIOS_LOADER = "undionly.kpxe"
UEFI_LOADER = "snponly.efi"
ARM_LOADER = "snponly-arm64.efi"
_INTERFACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,14}")
_LEASE = "1h"


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsmasqWish:
    """What is asked for."""

    interface: str
    boot_url: str  # of the controller's boot service, without path
    tftp: str  # folder with the loaders
    first: str = ""  # addresses to give away; both empty: proxy
    last: str = ""
    network: str = ""  # proxy: the network's address, such as 10.0.0.0
    gateway: str = ""

    def __post_init__(self) -> None:
        """Refuse what dnsmasq would read as something else.

        Raises:
            InvalidInput: a field is wrong; it is named.
        """
        if not _INTERFACE.fullmatch(self.interface):
            raise InvalidInput(f"--interface: {self.interface[:40]!r} is no network interface")
        if bool(self.first) != bool(self.last) or bool(self.first) == bool(self.network):
            raise InvalidInput(
                "either --range FIRST,LAST (dnsmasq gives addresses) or --proxy NETWORK (another "
                "DHCP server does)"
            )
        for text in (self.first, self.last, self.network, self.gateway):
            if text:
                _checked(text)
        if self.first and int(ipaddress.ip_address(self.first)) > int(
            ipaddress.ip_address(self.last)
        ):
            raise InvalidInput(f"--range: {self.first} comes after {self.last}")
        if not self.tftp.startswith("/") or re.search(r"[\s,]", self.tftp):
            raise InvalidInput(f"--tftp: {self.tftp[:80]!r} is no absolute path that dnsmasq takes")


def script_url(boot_url: str) -> str:
    """Return where a machine finds its script, in words of iPXE."""
    return f"{boot_url}/ipxe/{MAC_WORD}?arch=${{buildarch}}"


def dnsmasq_text(wish: DnsmasqWish) -> str:
    """Return the configuration."""
    lines = [
        "# Made by `nodectl netboot dnsmasq`; run: dnsmasq --keep-in-foreground --conf-file=THIS",
        "port=0",  # no DNS
        f"interface={wish.interface}",
        "bind-interfaces",
        "enable-tftp",
        f"tftp-root={wish.tftp}",
        "dhcp-match=set:ipxe,175",
        "dhcp-userclass=set:ipxe,iPXE",
    ]
    if wish.network:
        lines += _proxy(wish)
    else:
        lines += _own(wish)
    return "\n".join(lines) + "\n"


def _own(wish: DnsmasqWish) -> list[str]:
    lines = [f"dhcp-range={wish.first},{wish.last},{_LEASE}", "dhcp-authoritative"]
    # Without an own word dnsmasq would name itself, which leads nowhere on a network of its own.
    lines.append(f"dhcp-option=option:router,{wish.gateway}" if wish.gateway else "dhcp-option=3")
    return [
        *lines,
        "dhcp-match=set:bios,option:client-arch,0",
        "dhcp-match=set:uefi,option:client-arch,7",
        "dhcp-match=set:uefi,option:client-arch,9",
        "dhcp-match=set:arm,option:client-arch,11",
        f"dhcp-boot=tag:!ipxe,tag:bios,{BIOS_LOADER}",
        f"dhcp-boot=tag:!ipxe,tag:uefi,{UEFI_LOADER}",
        f"dhcp-boot=tag:!ipxe,tag:arm,{ARM_LOADER}",
        f"dhcp-boot=tag:ipxe,{script_url(wish.boot_url)}",
    ]


def _proxy(wish: DnsmasqWish) -> list[str]:
    return [
        f"dhcp-range={wish.network},proxy",
        f'pxe-service=tag:!ipxe,x86PC,"nodectl",{BIOS_LOADER}',
        f'pxe-service=tag:!ipxe,X86-64_EFI,"nodectl",{UEFI_LOADER}',
        f'pxe-service=tag:!ipxe,BC_EFI,"nodectl",{UEFI_LOADER}',
        f'pxe-service=tag:!ipxe,ARM64_EFI,"nodectl",{ARM_LOADER}',
        f"dhcp-boot=tag:ipxe,{script_url(wish.boot_url)}",
    ]


def _checked(text: str) -> None:
    try:
        ipaddress.ip_address(text)
    except ValueError as exc:
        raise InvalidInput(f"{text[:40]!r} is no address") from exc
