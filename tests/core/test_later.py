"""Calls at a later time: in order, in one thread, none after closing."""

from __future__ import annotations

import logging
import threading

import pytest

from siteward import Later

DEADLINE = 60.0


@pytest.fixture
def later():
    """Calls that end with the test."""
    later = Later("siteward-test-later", logging.getLogger("siteward.test"))
    yield later
    later.close()


def test_calls_come_in_the_order_of_their_times(later: Later):
    """A shorter wait is over first, whenever it was asked for."""
    called, done = [], threading.Event()
    later.call(0.1, done.set)
    later.call(0.05, lambda: called.append("second"))
    later.call(0, lambda: called.append("first"))
    assert done.wait(DEADLINE)
    assert called == ["first", "second"]


def test_a_call_that_fails_keeps_no_other_from_being_made(later: Later, caplog):
    """It is logged."""
    done = threading.Event()
    later.call(0, lambda: 1 / 0)
    later.call(0, done.set)
    assert done.wait(DEADLINE)
    assert "ZeroDivisionError" in caplog.text


def test_nothing_is_called_once_it_is_closed(later: Later):
    """Neither what was left, nor what comes afterwards; closing waits for the call that is being made."""
    called, began, go_on = [], threading.Event(), threading.Event()
    later.call(0, lambda: (began.set(), go_on.wait(DEADLINE), called.append("begun")))
    later.call(0, lambda: called.append("left"))
    assert began.wait(DEADLINE)
    threading.Timer(0.05, go_on.set).start()
    later.close()
    later.call(0, lambda: called.append("afterwards"))
    assert called == ["begun"]


def test_it_may_be_closed_by_one_of_its_own_calls(later: Later):
    """It does not wait for itself."""
    done = threading.Event()
    later.call(0, lambda: (later.close(), done.set()))
    assert done.wait(DEADLINE)


def test_closing_waits_no_longer_than_it_may(later: Later):
    """A call that does not come back is left alone."""
    began, go_on = threading.Event(), threading.Event()
    later.call(0, lambda: (began.set(), go_on.wait(DEADLINE)))
    assert began.wait(DEADLINE)
    later.close(wait=0)
    go_on.set()


def test_a_time_that_never_comes(later: Later):
    """Nobody waits for it, and all others are called: how long is to be waited, a job's file may have said."""
    for seconds in (1e12, 0, 0):
        done = threading.Event()
        later.call(seconds, done.set)
        assert seconds or done.wait(DEADLINE)
