import asyncio

import pytest

from nodectl.background import background


async def _forever() -> None:
    await asyncio.Event().wait()


async def _failing() -> None:
    await asyncio.sleep(0)
    async with asyncio.TaskGroup():
        raise LookupError("inner")


def test_work_ends_with_the_block() -> None:
    async def main() -> None:
        async with asyncio.timeout(5), background(_forever(), _forever()):
            await asyncio.sleep(0)

    asyncio.run(main())


def test_the_error_of_the_block_comes_out_as_itself() -> None:
    async def main() -> None:
        async with background(_forever()):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        asyncio.run(main())


def test_the_error_of_the_work_ends_the_block_and_comes_out_as_itself() -> None:
    async def main() -> None:
        async with asyncio.timeout(5), background(_failing()):
            await _forever()

    with pytest.raises(LookupError, match="inner"):
        asyncio.run(main())


def test_cancelling_passes_through() -> None:
    async def main() -> None:
        async with asyncio.timeout(0.05), background(_forever()):
            await _forever()

    with pytest.raises(TimeoutError):
        asyncio.run(main())
