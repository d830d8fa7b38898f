import asyncio
import shutil
import socket
import subprocess
import sys

import pytest
from aiohttp import web

from nodectl.errors import InvalidInput, PortInUse
from nodectl.listen import Address, listening, own_address, parse_address, parse_url


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0.0.0.0:7443", Address("0.0.0.0", 7443)),
        ("10.0.0.1", Address("10.0.0.1", 1)),
        (":80", Address("0.0.0.0", 80)),
        ("[::1]:0", Address("::1", 0)),
        ("node.example:7", Address("node.example", 7)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert parse_address(text, default_port=1) == address


@pytest.mark.parametrize(
    "text", ["x:port", "x:70000", "x:-1", "a/b", "a?b", "u@h:1", "[::1", "http://x:1"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_address(text, default_port=1)


def test_urls() -> None:
    assert parse_url("https://c:1/", scheme="https", default_port=7) == "https://c:1"
    assert parse_url("c", scheme="https", default_port=7) == "https://c:7"
    assert parse_url("[::1]", scheme="https", default_port=7) == "https://[::1]:7"
    for wrong in ("http://c", "https://", "", "https://c/path", "0.0.0.0:1"):
        with pytest.raises(InvalidInput):
            parse_url(wrong, scheme="https", default_port=7)


def test_the_address_for_others() -> None:
    assert own_address(Address("10.9.8.7", 1)) == "10.9.8.7"
    assert own_address(Address("0.0.0.0", 1), towards="127.0.0.1") == "127.0.0.1"


@pytest.mark.netns
@pytest.mark.skipif(shutil.which("ip") is None, reason="needs iproute2")
def test_a_network_without_a_default_route() -> None:
    code = "from nodectl.listen import *; print(own_address(Address('0.0.0.0', 1)))"
    script = (
        "ip link add v0 type veth peer name v1 && ip link set v0 up && ip link set v1 up && "
        f'ip addr add 10.9.8.7/24 dev v0 && exec "$0" -c "{code}"'
    )
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", script, sys.executable],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout == "10.9.8.7\n"


def test_listening_tells_its_port_and_a_taken_one() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(PortInUse, match=f"the peer cannot listen on 127.0.0.1:{port}"):
                async with listening(
                    web.Application(), Address("127.0.0.1", port), what="the peer"
                ):
                    pass
        with pytest.raises(InvalidInput, match="cannot listen"):
            async with listening(web.Application(), Address("192.0.2.9", 0), what="the peer"):
                pass
        async with listening(web.Application(), Address("127.0.0.1", 0), what="it") as bound:
            _, writer = await asyncio.open_connection(bound.host, bound.port)
            writer.close()

    asyncio.run(main())
