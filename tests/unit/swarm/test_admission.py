from nodectl.swarm.admission import Admission, Verdict
from nodectl.swarm.limits import Limits

LIMITS = Limits(upload_slots=2, upload_queue=2, upload_reserve=0)


def test_slots_then_the_queue_then_busy() -> None:
    gate = Admission(limits=LIMITS, origin=False)
    verdicts = [gate.ask(f"c{i}", i, urgent=False, now=0) for i in range(5)]
    assert verdicts == [Verdict.SERVE] * 2 + [Verdict.WAIT] * 2 + [Verdict.BUSY]
    assert (gate.active, gate.waiting) == (2, 2)


def test_a_free_slot_goes_to_who_waited_longest() -> None:
    gate = Admission(limits=LIMITS, origin=False)
    for i in range(4):
        gate.ask(f"c{i}", i, urgent=False, now=0)
    assert gate.release("c0", 0, sent=True) == ("c2", 2)
    gate.give_up("c3", 3)
    assert gate.release("c1", 1, sent=True) is None
    assert (gate.active, gate.waiting) == (1, 0)
    assert gate.ask("c4", 4, urgent=False, now=0) is Verdict.SERVE


def test_one_client_among_others_has_not_every_slot_nor_place() -> None:
    """Who takes its bytes slowly, over however many connections, shuts nobody out."""
    limits = Limits(upload_slots=3, upload_queue=3, upload_reserve=1)
    gate = Admission(limits=limits, origin=False)
    gate.saw("other", now=0)
    verdicts = [gate.ask("greedy", i, urgent=True, now=0) for i in range(6)]
    assert verdicts == [Verdict.SERVE] * 2 + [Verdict.WAIT] * 2 + [Verdict.BUSY] * 2
    assert gate.ask("other", 7, urgent=False, now=0) is Verdict.SERVE
    assert gate.ask("other", 8, urgent=False, now=0) is Verdict.WAIT
    assert gate.release("other", 7, sent=True) == ("other", 8)  # before those that came earlier
    assert gate.release("greedy", 0, sent=True) == ("greedy", 2)
    assert gate.release("other", 8, sent=True) is None
    assert (gate.active, gate.waiting) == (2, 1)


def test_one_client_alone_has_everything() -> None:
    gate = Admission(limits=LIMITS, origin=False)
    verdicts = [gate.ask("a", i, urgent=False, now=0) for i in range(5)]
    assert verdicts == [Verdict.SERVE] * 2 + [Verdict.WAIT] * 2 + [Verdict.BUSY]


def test_an_origin_sends_a_span_once_while_its_holder_lives() -> None:
    gate = Admission(limits=LIMITS, origin=True)
    assert gate.ask("a", 7, urgent=False, now=0) is Verdict.SERVE
    gate.release("a", 7, sent=True)
    assert gate.ask("b", 7, urgent=False, now=1) is Verdict.REFUSED
    assert gate.holder(7) == "a"
    assert gate.ask("b", 8, urgent=False, now=1) is Verdict.SERVE
    assert gate.ask("b", 7, urgent=True, now=1) is Verdict.SERVE
    gate.release("b", 7, sent=True)
    assert gate.ask("a", 7, urgent=False, now=1) is Verdict.SERVE  # the holder lost it
    gate.release("a", 7, sent=True)
    assert gate.ask("b", 7, urgent=False, now=1 + LIMITS.holder_s) is Verdict.SERVE


def test_a_holder_that_still_asks_lives() -> None:
    gate = Admission(limits=LIMITS, origin=True)
    gate.ask("a", 7, urgent=False, now=0)
    gate.saw("a", 20)
    assert gate.ask("b", 7, urgent=False, now=30) is Verdict.REFUSED


def test_a_sending_that_broke_leaves_the_span_to_the_next() -> None:
    gate = Admission(limits=LIMITS, origin=True)
    gate.ask("a", 7, urgent=False, now=0)
    gate.release("a", 7, sent=False)
    assert gate.ask("b", 7, urgent=False, now=0) is Verdict.SERVE


def test_who_is_no_origin_sends_to_all() -> None:
    gate = Admission(limits=LIMITS, origin=False)
    assert gate.ask("a", 7, urgent=False, now=0) is Verdict.SERVE
    assert gate.ask("b", 7, urgent=False, now=0) is Verdict.SERVE


def test_an_origin_has_fresh_what_it_gave_nobody() -> None:
    gate = Admission(limits=LIMITS, origin=True)
    gate.ask("a", 0, urgent=False, now=0)
    gate.ask("b", 1, urgent=False, now=0)
    gate.ask("c", 2, urgent=False, now=0)  # it waits for a slot
    assert gate.fresh(0b11111) == 0b11000
    gate.release("a", 0, sent=False)  # broke off: c has the slot now
    gate.release("b", 1, sent=True)
    assert gate.fresh(0b11111) == 0b11001
    gate.ask("d", 3, urgent=False, now=0)
    gate.ask("e", 4, urgent=False, now=0)
    gate.give_up("e", 4)
    assert gate.fresh(0b11111) == 0b10001


def test_who_is_no_origin_gives_anything_again() -> None:
    gate = Admission(limits=LIMITS, origin=False)
    gate.ask("a", 0, urgent=False, now=0)
    assert gate.fresh(0b11) == 0b11
