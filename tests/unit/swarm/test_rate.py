import asyncio

from nodectl.swarm.rate import RateLimiter, TokenBucket


def test_over_time_the_rate_holds() -> None:
    bucket = TokenBucket(1e6, 0.0)
    now = 0.0
    for _ in range(1000):
        now += bucket.take(32 * 1024, now)
    assert 0.95 < 1000 * 32 * 1024 / now / 1e6 < 1.05


def test_the_first_piece_passes_at_once_the_second_waits() -> None:
    bucket = TokenBucket(1000, 0.0)
    assert bucket.take(64 * 1024, 0.0) == 0
    assert bucket.take(1000, 0.0) == 1.0


def test_time_without_use_is_not_saved_up() -> None:
    bucket = TokenBucket(1e6, 0.0)
    bucket.take(0, 1000.0)
    assert bucket.take(2_000_000, 1000.0) > 1.8


def test_without_a_limit_nothing_waits() -> None:
    limiter = RateLimiter(None, lambda: 0.0)
    assert not limiter.limited
    asyncio.run(limiter.take(10**12))


def test_another_rate_keeps_the_debt_in_bytes() -> None:
    bucket = TokenBucket(1000, 0.0)
    bucket.take(64 * 1024 + 4000, 0.0)
    bucket.change(2000, 0.0)
    assert bucket.take(0, 0.0) == 2.0


def test_another_limit_holds_at_once_for_those_who_wait() -> None:
    async def scene() -> None:
        limiter = RateLimiter(1, asyncio.get_running_loop().time)
        waiting = asyncio.ensure_future(limiter.take(10**6))  # days
        await asyncio.sleep(0)
        assert limiter.waiting == 1
        limiter.change(10**9)
        async with asyncio.timeout(5):
            await waiting
        assert (limiter.waiting, limiter.rate) == (0, 10**9)
        limiter.change(1)
        waiting = asyncio.ensure_future(limiter.take(10**6))
        await asyncio.sleep(0)
        limiter.change(None)
        async with asyncio.timeout(5):
            await waiting
        assert not limiter.limited

    asyncio.run(scene())
