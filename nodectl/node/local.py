"""What a running `nodectl serve` takes from commands on its own machine: a socket in its state.

HTTP over the Unix socket `serve.sock`. Who may open the state folder (0700, the user who serves)
may use it; there is no other check. Strict JSON, as everywhere.

    GET  /v1/swarm    the limits, and what is sent and waited for
    POST /v1/limits   {"upload_rate": bytes/s or null, "download_rate": ...}; absent: as it was
"""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from nodectl.errors import InvalidInput, NotServing
from nodectl.node.swarming import NodeSwarm

SOCKET = "serve.sock"
_RATES = ("upload_rate", "download_rate")
_ANSWER_S = 10.0
_BODY_MAX = 64 * 1024


class _Control:
    """The handlers."""

    def __init__(self, swarm: NodeSwarm) -> None:
        self._swarm = swarm

    def app(self) -> web.Application:
        app = web.Application(client_max_size=_BODY_MAX)
        app.add_routes([web.get("/v1/swarm", self._show), web.post("/v1/limits", self._limit)])
        return app

    async def _show(self, _request: web.Request) -> web.Response:
        tasks = len(asyncio.all_tasks())  # what grows from day to day is a leak
        return web.json_response({**self._swarm.status(), "tasks": tasks})

    async def _limit(self, request: web.Request) -> web.Response:
        try:
            rates = checked_rates(json.loads(await request.read()))
        except (ValueError, InvalidInput) as exc:
            raise web.HTTPBadRequest(text=str(exc)) from None
        for limiter, name in zip((self._swarm.upload, self._swarm.download), _RATES, strict=True):
            if name in rates:
                limiter.change(rates[name])
        return web.json_response(self._swarm.status())


def checked_rates(document: object) -> Mapping[str, int | None]:
    """Return the rates of a request.

    Raises:
        InvalidInput: other keys, or rates that are no whole numbers of bytes from 1 on.
    """
    if not isinstance(document, dict) or set(document) - set(_RATES):
        raise InvalidInput(f"limits: only {' and '.join(_RATES)} can be set")
    for name, rate in document.items():
        if rate is not None and (type(rate) is not int or rate < 1):
            raise InvalidInput(f"limits: {name} is not a number of bytes from 1 on, nor null")
    return document


@contextlib.contextmanager
def _reachable(folder: Path) -> Iterator[str]:
    """Yield a path of the socket that is short enough for any folder (108 bytes, unix(7))."""
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{SOCKET}"
    finally:
        os.close(fd)


@contextlib.asynccontextmanager
async def local_control(folder: Path, swarm: NodeSwarm) -> AsyncIterator[None]:
    """Take commands while the context lasts; the caller is the one process that serves `folder`."""
    runner = web.AppRunner(_Control(swarm).app(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        with _reachable(folder) as path:
            (folder / SOCKET).unlink(missing_ok=True)  # of a process that was killed
            await web.UnixSite(runner, path).start()
            (folder / SOCKET).chmod(0o600)
            yield
    finally:
        await runner.cleanup()
        (folder / SOCKET).unlink(missing_ok=True)


async def ask_local(
    folder: Path, path: str, body: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Ask the process that serves this state; with a body it is a POST.

    Raises:
        NotServing: there is none.
        InvalidInput: it refuses what was asked.
    """
    method, data = ("GET", None) if body is None else ("POST", json.dumps(body))
    timeout = aiohttp.ClientTimeout(total=_ANSWER_S)
    with _reachable(folder) as socket:
        connector = aiohttp.UnixConnector(socket)
        try:
            async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
                url = f"http://nodectl{path}"
                response = await session.request(method, url, data=data)
                text = await response.text()
        except (aiohttp.ClientError, OSError) as exc:
            raise NotServing(
                f"no nodectl serves the state in {folder}",
                hint="start it: nodectl serve; or name its state with --state",
            ) from exc
    if response.status != 200:  # noqa: PLR2004
        raise InvalidInput(text)
    answer: dict[str, Any] = json.loads(text)
    return answer
