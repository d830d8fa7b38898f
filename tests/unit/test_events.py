"""Steps announce themselves, and their end only when it was good."""

import pytest

from nodectl.events import Event, NullObserver, StepFinished, StepStarted, step


class Recorder:
    """Keep every event."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def on(self, event: Event) -> None:
        self.events.append(event)


def test_a_step_is_announced_timed_and_ended() -> None:
    recorder = Recorder()
    with step(recorder, "capture", total=7):
        assert recorder.events == [StepStarted(step="capture", total=7)]
    assert len(recorder.events) == 2
    finished = recorder.events[1]
    assert isinstance(finished, StepFinished)
    assert finished.step == "capture"
    assert 0 <= finished.seconds < 10


def test_a_step_that_failed_is_not_called_finished() -> None:
    recorder = Recorder()
    with pytest.raises(OSError, match="gone"), step(recorder, "capture"):
        raise OSError("gone")
    assert [type(event) for event in recorder.events] == [StepStarted]


def test_nobody_need_listen() -> None:
    with step(NullObserver(), "capture"):
        pass
