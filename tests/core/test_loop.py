"""The driver's thread: timers in order, wake-ups from other processes, and nothing that ends it by accident."""

import fcntl
import logging
import os
import resource
import threading

import pytest

from siteward import StoreError
from siteward.loop import Loop, pause_after, wake

from .fake import Child, until


@pytest.fixture
def heard():
    """What was called, in order."""
    return []


@pytest.fixture
def loop(tmp_path, heard):
    """A loop that has not been started."""
    loop = Loop(tmp_path, lambda: heard.append("request"), logging.getLogger("test"))
    yield loop
    loop.stop()


def test_timers_run_in_order(loop, heard):
    """By time, then by when they were set; times in the past at once."""
    done = threading.Event()
    loop.call_later(0.06, done.set)
    for delay in (0.04, 0.02, -5.0, 0.0):
        loop.call_later(delay, lambda delay=delay: heard.append(delay))
    assert done.wait(20)
    assert heard == [-5.0, 0.0, 0.02, 0.04]


def test_a_timer_may_set_timers_and_raise(loop, heard, caplog):
    """What raises is logged; the rest goes on."""
    loop.call_later(0, lambda: 1 / 0)
    loop.call_later(0, lambda: loop.call_later(0, lambda: heard.append("inner")))
    until(lambda: heard == ["inner"])
    assert "ZeroDivisionError" in caplog.text


def test_a_far_timer_does_not_hold_a_near_one_back(loop, heard):
    """Also one far beyond what a system call takes as a time."""
    loop.call_later(1e12, lambda: heard.append("never"))
    loop.call_later(0.01, lambda: heard.append("soon"))
    until(lambda: heard == ["soon"])


def test_others_wake_it_by_name(loop, heard, tmp_path):
    """From this process and from another."""
    loop.start()
    assert wake(tmp_path, loop.name)
    until(lambda: heard)
    with Child(lambda: wake(tmp_path, loop.name) or os._exit(1)) as child:
        assert child.wait() == 0
    until(lambda: len(heard) == 2)


def test_looking_whether_it_is_there_wakes_nobody(loop, heard, tmp_path):
    """An empty wake-up."""
    loop.start()
    assert wake(tmp_path, loop.name, b"")
    done = threading.Event()
    loop.call_later(0.02, done.set)
    assert done.wait(20)
    assert heard == []


def test_many_wake_ups_block_nobody(loop, tmp_path):
    """The pipe may be full while the loop is busy."""
    busy, free = threading.Event(), threading.Event()
    loop.call_later(0, lambda: (busy.set(), free.wait(20)))
    assert busy.wait(20)
    reader = os.open(tmp_path / loop.name, os.O_RDWR | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
    assert all(wake(tmp_path, loop.name) for _ in range(5000))
    loop.call_later(0, lambda: None)
    loop.poke()
    free.set()
    os.close(reader)


GONE = {"never was": lambda folder: None, "killed": lambda folder: os.mkfifo(folder / "gone")}


@pytest.mark.parametrize("leave", GONE.values(), ids=GONE)
def test_a_driver_that_is_gone_is_not_woken(tmp_path, leave):
    """False, and what it left is cleaned up."""
    leave(tmp_path)
    assert wake(tmp_path, "gone") is False
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_loop_is_gone_and_stays_so(loop, heard, tmp_path):
    """Its FIFO is removed; later calls are harmless and do nothing."""
    loop.start()
    loop.stop()
    loop.stop()
    assert list(tmp_path.iterdir()) == []
    loop.call_later(0, lambda: heard.append("late"))
    loop.poke()
    loop.start()
    assert not wake(tmp_path, loop.name)
    assert heard == []


def test_it_may_be_stopped_from_within(loop):
    """By one of its own timers."""
    loop.call_later(0, loop.stop)
    until(lambda: not any(loop.name[:8] in thread.name for thread in threading.enumerate()))


def test_one_that_was_never_started_can_be_stopped(loop, tmp_path):
    """It made nothing."""
    loop.stop()
    assert list(tmp_path.iterdir()) == []


def test_descriptors_beyond_1024_are_none_too_many(tmp_path, heard):
    """select(2) could not take them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip("raise the hard limit on open files to 2048")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    held = [os.open(os.devnull, os.O_RDONLY)]
    high = fcntl.fcntl(held[0], fcntl.F_DUPFD, 1100)
    held += [high]
    for _ in range(1100):
        held.append(os.dup(held[0]))
    loop = Loop(tmp_path, lambda: heard.append("request"), logging.getLogger("test"))
    try:
        loop.start()
        assert wake(tmp_path, loop.name)
        until(lambda: heard)
        loop.call_later(0.01, lambda: heard.append("timer"))
        until(lambda: "timer" in heard)
    finally:
        loop.stop()
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_place_that_takes_no_fifo_is_an_error_in_words(tmp_path):
    """StoreError, not OSError."""
    loop = Loop(tmp_path / "missing", lambda: None, logging.getLogger("test"))
    with pytest.raises(StoreError, match="cannot be made"):
        loop.start()


def test_a_child_of_a_fork_is_not_the_driver(tmp_path):
    """It does not keep the FIFO open, or a dead driver would seem to be alive."""
    loop = Loop(tmp_path, lambda: None, logging.getLogger("test"))
    loop.start()
    with Child(lambda: until((tmp_path / "leave").exists)) as child:
        path = tmp_path / loop.name
        copy = tmp_path / "copy"
        os.link(path, copy)
        loop.stop()
        until(lambda: not wake(tmp_path, "copy"), what="the child closing its copy")
        (tmp_path / "leave").touch()
        assert child.wait() == 0


def test_pauses_grow_up_to_the_longest():
    """However often it is tried: an outage may last for months."""
    assert [pause_after(tries, 0.25, 30) for tries in (0, 1, 2, 7, 5_000)] == [0.25, 0.5, 1.0, 30, 30]
