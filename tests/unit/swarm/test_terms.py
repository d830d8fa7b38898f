import asyncio

import pytest

from nodectl.swarm.conduct import Conduct
from nodectl.swarm.terms import Terms


def test_terms_are_read_as_they_were_written() -> None:
    terms = Terms(paused=True, upload_rate=5, weight=7)
    assert Terms.from_json(terms.to_json()) == terms
    assert Terms.from_json(Terms().to_json()) == Terms()


@pytest.mark.parametrize(
    "change",
    [
        {"upload_rate": 0},
        {"download_rate": -1},
        {"upload_rate": 1.5},
        {"upload_rate": True},
        {"weight": 0},
        {"weight": 101},
        {"paused": 1},
        {"more": 1},
    ],
)
def test_other_terms_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Terms.from_json(Terms().to_json() | change)
    with pytest.raises(ValueError, match=r".+"):
        Terms.from_json({"paused": False})


def test_a_conduct_rests_and_goes_on_and_changes_its_rates() -> None:
    async def scene() -> None:
        conduct = Conduct()
        await conduct.running()
        conduct.change(Terms(paused=True, download_rate=1000))
        assert (conduct.upload.rate, conduct.download.rate) == (None, 1000)
        waiting = asyncio.ensure_future(conduct.running())
        await asyncio.sleep(0)
        assert not waiting.done()
        conduct.change(Terms())
        await waiting
        assert conduct.download.rate is None

    asyncio.run(scene())
