import pytest

from gateway.backends.base import ReplyDelta
from gateway.takeover import CannotTakeOver, ReplyRestart, Takeover


def fitted(sent, *pieces, may_restart=False):
    takeover = Takeover(sent, may_restart=may_restart)
    deltas = [ReplyDelta(content=piece) for piece in pieces]
    return [event for delta in deltas for event in takeover.fit(delta)]


def texts(events):
    return [event.content for event in events if isinstance(event, ReplyDelta)]


def test_an_answer_that_repeats_what_was_sent_goes_on_where_it_broke():
    assert "".join(texts(fitted("Hello wor", "Hel", "lo world", "!"))) == "ld!"


def test_an_answer_that_differs_is_refused_without_consent():
    with pytest.raises(CannotTakeOver):
        fitted("Hello", "Goodbye")


def test_an_answer_that_differs_starts_again_with_consent():
    events = fitted("Hello", "Good", "bye", may_restart=True)
    assert isinstance(events[0], ReplyRestart)
    assert "".join(texts(events)) == "Goodbye"


def test_an_answer_that_ends_too_early_does_not_count_as_repeating():
    takeover = Takeover("Hello world", may_restart=False)
    list(takeover.fit(ReplyDelta(content="Hello")))
    with pytest.raises(CannotTakeOver):
        list(takeover.fit(ReplyDelta(finish_reason="stop")))


def test_nothing_sent_means_nothing_held_back():
    assert texts(fitted("", "a", "b")) == ["a", "b"]
