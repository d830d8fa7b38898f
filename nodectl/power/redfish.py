"""Power by Redfish (DMTF DSP0266): HTTPS and JSON."""

import asyncio
import json
import ssl
from pathlib import Path
from typing import Any, Self
from urllib.parse import urljoin, urlsplit

import aiohttp

from nodectl.errors import PowerFailed
from nodectl.power.config import Action, Bmc, Target

_ANSWER_MAX = 4 << 20  # bytes
_RESETS = {
    Action.ON: ("On", "ForceOn"),
    Action.OFF: ("ForceOff",),
    Action.RESET: ("ForceRestart", "PowerCycle"),
    Action.CYCLE: ("PowerCycle", "ForceRestart"),
}
_ON = {"on", "poweringon", "paused"}
_OFF = {"off", "poweringoff"}


class Redfish:
    """One machine's Redfish service; an async context manager."""

    def __init__(self, target: Target, *, timeout_s: float) -> None:
        """Prepare; nothing is opened yet."""
        host = f"[{target.address}]" if ":" in target.address else target.address
        self._base = target.bmc.url.replace("{bmc}", host)
        self._target = target
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None
        self._system = ""  # path of the machine

    async def __aenter__(self) -> Self:
        auth, tls = await asyncio.to_thread(_credentials, self._target.bmc)
        connector = aiohttp.TCPConnector(ssl=tls)
        self._session = aiohttp.ClientSession(auth=auth, connector=connector)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def is_on(self) -> bool:
        """Ask whether the machine has power.

        Raises:
            PowerFailed: the service does not answer, refuses, or has not exactly one machine.
        """
        state = str((await self._machine()).get("PowerState", "")).lower()
        if state in _ON | _OFF:
            return state in _ON
        raise PowerFailed(f"{self._base} says neither on nor off: {state[:40]!r}")

    async def switch(self, action: Action) -> None:
        """Ask the machine for something, in the words that it allows.

        Raises:
            PowerFailed: as `is_on`, or it has no such word.
        """
        machine = await self._machine()
        reset = machine.get("Actions", {}).get("#ComputerSystem.Reset", {})
        allowed = reset.get("ResetType@Redfish.AllowableValues", list(_RESETS[action]))
        word = next((word for word in _RESETS[action] if word in allowed), "")
        if not word or "target" not in reset:
            raise PowerFailed(f"{self._base} has no reset of type {' or '.join(_RESETS[action])}")
        await self._ask("POST", reset["target"], {"ResetType": word})

    async def _machine(self) -> dict[str, Any]:
        if not self._system:
            members = (await self._ask("GET", "/redfish/v1/Systems")).get("Members", [])
            paths = [str(one.get("@odata.id", "")) for one in members]
            if len(paths) != 1:
                raise PowerFailed(f"{self._base} stands for {len(paths)} machines, not for one")
            self._system = paths[0]
        return await self._ask("GET", self._system)

    async def _ask(
        self, method: str, path: str, body: dict[str, str] | None = None
    ) -> dict[str, Any]:
        if self._session is None:
            raise RuntimeError("the service is not open")
        url = urljoin(self._base, path)
        if urlsplit(url)[:2] != urlsplit(self._base)[:2]:
            raise PowerFailed(f"{self._base} leads to another machine: {url[:120]}")
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._session.request(method, url, json=body, allow_redirects=False) as response,
            ):
                data = await response.content.read(_ANSWER_MAX)
                status = response.status
        except TimeoutError as exc:
            raise PowerFailed(f"{self._base} does not answer") from exc
        except aiohttp.ClientError as exc:
            raise PowerFailed(f"{self._base} cannot be asked: {exc}") from exc
        if not 200 <= status < 300:  # noqa: PLR2004 - HTTP
            raise PowerFailed(f"{self._base} refuses {method} {path} with HTTP status {status}")
        try:
            document = json.loads(data) if data.strip() else {}
        except ValueError as exc:
            raise PowerFailed(f"{self._base} is no Redfish service") from exc
        return document if isinstance(document, dict) else {}


def _credentials(bmc: Bmc) -> tuple[aiohttp.BasicAuth, ssl.SSLContext]:
    """Read the password and the authorities.

    Raises:
        PowerFailed: they cannot be read.
    """
    try:
        password = Path(bmc.password_file).read_text().splitlines()[0]
        tls = ssl.create_default_context(cafile=bmc.ca_file or None)
    except (OSError, IndexError) as exc:
        what = exc if isinstance(exc, OSError) else f"{bmc.password_file} is empty"
        raise PowerFailed(f"the credentials cannot be read: {what}") from exc
    return aiohttp.BasicAuth(bmc.user, password, encoding="utf-8"), tls
