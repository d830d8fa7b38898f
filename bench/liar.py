"""nodectl whose peer server flips a bit in every span that it sends, for bench/swarm.py.

    liar.py COMMAND...

It announces what it has truthfully, and serves it wrongly: what a bad disk, bad memory or a bad
node would do. Everything else is nodectl as it is.
"""

import sys
from collections.abc import Sequence
from typing import Any

from measure import REPOSITORY

sys.path.insert(0, str(REPOSITORY))

from nodectl.cli.main import main
from nodectl.swarm.server import SwarmServer

_read = SwarmServer._read  # noqa: SLF001 - a liar has to reach inside


async def _read_wrongly(self: SwarmServer, share: Any, number: int, refs: Sequence[Any]) -> bytes:  # noqa: ANN401
    body = bytearray(await _read(self, share, number, refs))
    body[len(body) // 2] ^= 1
    return bytes(body)


SwarmServer._read = _read_wrongly  # type: ignore[method-assign]  # noqa: SLF001
main()
