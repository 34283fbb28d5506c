"""Threads for slow steps."""

import threading
import time

import pytest

from siteward.pool import Pool


def until(fact, seconds=10):
    end = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_every_call_is_made_once_by_no_more_threads_than_the_limit():
    """However many come at once; the busy ones never exceed the limit."""
    pool, lock, made, busy, most = Pool(4, "step"), threading.Lock(), [], set(), []

    def step(number):
        with lock:
            busy.add(threading.current_thread())
            most.append(len(busy))
        time.sleep(0.001)
        with lock:
            busy.discard(threading.current_thread())
            made.append(number)

    for number in range(200):
        pool.submit(step, number)
    pool.shutdown(wait=True)
    assert sorted(made) == list(range(200))
    assert max(most) == 4


def test_a_blocked_step_does_not_hold_up_the_next():
    """As long as there are threads left."""
    pool, go, done = Pool(2, "step"), threading.Event(), threading.Event()
    pool.submit(go.wait)
    pool.submit(done.set)
    assert done.wait(10)
    go.set()
    pool.shutdown(wait=True)


def test_threads_end_when_there_is_nothing_to_do():
    """And come again when there is."""
    pool, seen = Pool(8, "a-step-of-this-test"), []
    for _ in range(2):
        barrier = threading.Barrier(9)
        for _ in range(8):
            pool.submit(barrier.wait)
        barrier.wait(10)
        until(lambda: not any(each.name == "a-step-of-this-test" for each in threading.enumerate()))
        seen.append(True)
    assert len(seen) == 2
    pool.shutdown(wait=True)


def test_a_closed_pool_does_what_it_had_and_takes_no_more():
    """Nothing that was taken in is lost."""
    pool, made = Pool(1, "step"), []
    for number in range(20):
        pool.submit(made.append, number)
    pool.shutdown(wait=True)
    assert made == list(range(20))
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit(made.append, 1)
