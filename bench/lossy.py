"""nodectl that loses a tenth of the multicast datagrams that it receives, for bench/swarm.py.

    lossy.py COMMAND...

The kernels that the laboratory runs on need not be able to lose packets; so it is done behind the
socket, at random with a seed of its own.
"""

import random
import sys

from measure import REPOSITORY

sys.path.insert(0, str(REPOSITORY))

from nodectl.cli.main import main
from nodectl.multicast.receiver import MulticastFeed

_LOST = 0.1

_rng = random.Random(1)
_take = MulticastFeed.take


def _take_some(self: MulticastFeed, data: memoryview) -> None:
    if _rng.random() >= _LOST:
        _take(self, data)


MulticastFeed.take = _take_some  # type: ignore[method-assign]
main()
