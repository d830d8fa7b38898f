from nodectl.catalog.memory import MemoryCatalog
from nodectl.controller.terms import SwarmTerms
from nodectl.swarm.terms import Terms


def _terms(*cloned: str) -> SwarmTerms:
    def nothing(*_: object, **__: object) -> None:
        """Write no audit log."""

    return SwarmTerms(MemoryCatalog(), None, nothing, lambda image: image in cloned)  # type: ignore[arg-type]


def test_a_clone_goes_before_a_sync_by_itself() -> None:
    terms = _terms("golden")
    assert terms.in_force("golden").weight == 10
    assert terms.in_force("template").weight == 1


def test_what_an_operator_said_counts_beside_it() -> None:
    terms = _terms("golden", "heavy")
    terms.set("golden", Terms(weight=3, paused=True, upload_rate=5))
    terms.set("heavy", Terms(weight=50))
    assert terms.in_force("golden") == Terms(weight=30, paused=True, upload_rate=5)
    assert terms.in_force("heavy").weight == 100
    assert terms.of("golden").weight == 3  # what is shown and set
