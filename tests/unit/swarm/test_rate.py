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
