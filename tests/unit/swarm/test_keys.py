from nodectl.swarm.keys import OVERLAP_S, SwarmKeys

OLD, NEW = b"o" * 32, b"n" * 32


def test_the_key_before_counts_for_a_while() -> None:
    now = [100.0]
    keys = SwarmKeys(OLD, lambda: now[0])
    assert keys.accepted() == (OLD,)
    assert keys.change(NEW)
    assert keys.current == NEW
    assert keys.accepted() == (NEW, OLD)
    now[0] += OVERLAP_S
    assert keys.accepted() == (NEW,)


def test_the_same_key_again_changes_nothing() -> None:
    now = [100.0]
    keys = SwarmKeys(OLD, lambda: now[0])
    keys.change(NEW)
    now[0] += OVERLAP_S - 1
    assert not keys.change(NEW)
    now[0] += 1
    assert keys.accepted() == (NEW,)
