"""Joining a realm, making one, and leaving one.

A machine that joins looks at the certificate chain of the controller first, on a connection on
which it sends nothing. Only when the chain holds the CA whose fingerprint is in the token, and a
second connection was verified against that CA, does the token's secret leave this machine.
"""

import asyncio
import contextlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from nodectl.errors import (
    AlreadyThere,
    ControllerUnreachable,
    NodectlError,
    PathUnreadable,
    TokenRefused,
)
from nodectl.listen import CONTROL_PORT, parse_url
from nodectl.node.client import (
    ControlClient,
    Limits,
    read_answer,
    read_bounded,
    reason,
    unreachable,
)
from nodectl.node.state import VERSION, Membership, StateFolder
from nodectl.trust.ca import (
    CONTROLLER_NAME,
    client_context,
    fingerprint,
    presented_chain,
    unverified_context,
)
from nodectl.trust.certificate import make_request
from nodectl.trust.keys import KEY_BYTES
from nodectl.trust.mac import TIME_HEADER, Signed, sign_request
from nodectl.trust.token import Token

_JOIN_PATH = "/v1/join"
_MACS_MAX = 256


async def join(
    state: StateFolder,
    token: Token,
    *,
    name: str,
    url: str = "",
    force: bool = False,
    limits: Limits | None = None,
) -> Membership:
    """Join the realm of a token, and write this machine's membership.

    Args:
        state: where; must not be a member already, unless `force`.
        token: as issued by the controller.
        name: of this node, unique in the realm.
        url: of the controller, in place of those in the token.
        force: join again; with the same name only while the old membership is still valid.
        limits: how long to wait.

    Raises:
        AlreadyThere: this machine is a member, and `force` was not given.
        TokenRefused: the token is wrong, used, expired, of another realm, or what answers is not
            the controller that it names.
        NameTaken: another node has the name.
        ControllerUnreachable: no controller answers.
        PathUnreadable: the state folder cannot be written.
    """
    old = _old_membership(state, force=force)
    _check_writable(state.folder)
    urls = (parse_url(url, scheme="https", default_port=CONTROL_PORT),) if url else token.urls
    secret = secrets.token_bytes(KEY_BYTES)
    request, key = make_request(name)
    body = json.dumps(
        {
            "realm_id": token.realm_id,
            "token_id": token.token_id,
            "token_secret": token.secret.hex(),
            "name": name,
            "node_secret": secret.hex(),
            "macs": mac_addresses(),
            "request": request.decode("ascii"),
        }
    ).encode()
    failures = []
    for one in urls:
        try:
            ca_pem = await _pinned_ca(one, token, limits or Limits())
            answer = await _send_join(one, ca_pem, body, old, limits or Limits())
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            failures.append(f"{one}: {reason(exc)}")
            continue
        controllers = (one, *(u for u in token.urls if u != one))
        secrets_here = {"secret": secret.hex(), "certificate_key": key.decode("ascii")}
        membership = _membership(answer, secrets_here, controllers)
        await _write(state, membership)
        return membership
    raise unreachable(failures)


async def _write(state: StateFolder, membership: Membership) -> None:
    """Write the membership; where that fails, the controller is to forget this node again."""
    try:
        state.write_membership(membership)
    except OSError:
        with contextlib.suppress(NodectlError):
            async with ControlClient(membership) as client:
                await client.remove_node(membership.node)
        raise


def mac_addresses(sys_net: Path = Path("/sys/class/net")) -> list[str]:
    """Return the MAC addresses of this machine's network cards."""
    found = set()
    for card in sys_net.glob("*/address"):
        with contextlib.suppress(OSError):
            found.add(card.read_text("ascii").strip().lower())
    return sorted(found - {"", "00:00:00:00:00:00"})[:_MACS_MAX]


def _old_membership(state: StateFolder, *, force: bool) -> Membership | None:
    if not state.is_member():
        return None
    old = state.membership()
    if state.realm.exists():
        raise AlreadyThere(f"{state.folder} is the controller of {old.realm_name}: it cannot join")
    if not force:
        raise AlreadyThere(
            f"this machine is {old.node} of the realm {old.realm_name} already",
            hint="nodectl leave first, or --force to join again",
        )
    return old


def _check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written, before the token is spent."""
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise PathUnreadable(
            f"the state folder {folder} cannot be written: nothing was sent",
            hint="run as root, or name another folder with --state",
        )


async def _pinned_ca(url: str, token: Token, limits: Limits) -> bytes:
    """Return the CA certificate (PEM) that the controller presents, if the token names it."""
    parts = urlsplit(url)
    async with asyncio.timeout(limits.connect_s):
        _, writer = await asyncio.open_connection(
            parts.hostname,
            parts.port or CONTROL_PORT,
            ssl=unverified_context(),
            server_hostname=CONTROLLER_NAME,
        )
        try:
            chain = presented_chain(writer.get_extra_info("ssl_object"))
        finally:
            writer.transport.abort()  # nothing was sent, and nothing is waited for
    for certificate in chain:
        if fingerprint(certificate) == token.ca_sha256:
            return certificate
    raise TokenRefused(
        f"{url} is not the controller that the token was made for (its CA is another one); "
        "the token was not sent",
        hint="check the URL, or make the token on that controller: nodectl token create",
    )


async def _send_join(
    url: str, ca_pem: bytes, body: bytes, old: Membership | None, limits: Limits
) -> dict[str, Any]:
    """Send the secret to a controller that proves to hold a certificate of the pinned CA."""
    offset_ms: int | None = None
    timeout = aiohttp.ClientTimeout(
        total=limits.connect_s + limits.answer_s, sock_connect=limits.connect_s
    )
    connector = aiohttp.TCPConnector(ssl=client_context(ca_pem))
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, auto_decompress=False
    ) as session:
        if old is not None:
            # The proof that this is the old node carries a time: learn the controller's first.
            async with session.get(f"{url}/v1/work", server_hostname=CONTROLLER_NAME) as response:
                offset_ms = _time_of(response.headers)
        async with session.post(
            url + _JOIN_PATH,
            data=body,
            headers=_proof(old, body, offset_ms),
            server_hostname=CONTROLLER_NAME,
            allow_redirects=False,
        ) as response:
            return read_answer(response.status, await read_bounded(response))


def _time_of(headers: Mapping[str, str]) -> int | None:
    text = headers.get(TIME_HEADER, "")
    return int(text) if text.isascii() and text.isdigit() else None


def _proof(old: Membership | None, body: bytes, unix_ms: int | None) -> dict[str, str]:
    """Return the header that proves that this machine is the node it was."""
    if old is None or unix_ms is None:
        return {}
    request = Signed("POST", _JOIN_PATH, body)
    return {
        "Authorization": sign_request(request, client=old.node, key=old.secret, unix_ms=unix_ms)
    }


def _membership(
    answer: Mapping[str, Any], secrets_here: Mapping[str, str], controllers: tuple[str, ...]
) -> Membership:
    document = {
        **answer,
        **secrets_here,
        "version": VERSION,
        "controllers": list(controllers),
    }
    try:
        return Membership.from_json(document)
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise ControllerUnreachable(f"the controller's answer is no membership: {exc}") from exc
