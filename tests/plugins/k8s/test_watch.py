"""The watch through the faults of streams: nothing is missed, nothing is asked too often, and it ends when told."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from siteward import BackendError
from siteward_k8s.client import Cluster
from siteward_k8s.errors import Forbidden
from siteward_k8s.reflector import Patience
from siteward_k8s.watch import Watch

from .fakeapi import FakeApi

DEADLINE = 60.0
QUICK = Patience(first_pause=0.01, longest_pause=0.05, outage_after=0.2, forbidden_after=0.1, forbidden=0.2, lived=0.2)
# A timeout that is never reached in these tests, and one that always is.
LONG, SHORT = 300.0, 0.5


class Ears:
    """Keeps what a watch tells, as pairs of kind and a name or error."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []
        self.threads: set[str] = set()
        self.said = threading.Condition()

    def hear(self, kind: str, what: Any = None) -> None:
        with self.said:
            self.heard.append((kind, what))
            self.threads.add(threading.current_thread().name)
            self.said.notify_all()

    def until(self, fact: Callable[[], Any]) -> None:
        with self.said:
            assert self.said.wait_for(fact, DEADLINE), self.heard

    def all(self, kind: str) -> list[Any]:
        return [what for each, what in self.heard if each == kind]


@pytest.fixture
def ears():
    """Whoever listens to the watch."""
    return Ears()


@pytest.fixture
def watch(fake_cluster: Cluster, ears: Ears):
    """Make watches that end with the test."""
    made: list[Watch] = []

    def begin(silence: float = LONG, patience: Patience = QUICK) -> Watch:
        watch = Watch(
            fake_cluster,
            "siteward.dev/owner=test",
            on_pod=lambda kind, pod: ears.hear(kind, pod["metadata"]["name"]),
            on_list=lambda pods: ears.hear("list", sorted(pod["metadata"]["name"] for pod in pods)),
            on_event=lambda event: ears.hear("event", event["reason"]),
            on_events_list=lambda events: ears.hear("events", [event["reason"] for event in events]),
            on_outage=lambda error: ears.hear("outage", error),
            on_return=lambda: ears.hear("return"),
            failed=lambda error: ears.hear("failed", error),
            log=logging.getLogger("siteward.test"),
            silence=silence,
            patience=patience,
        )
        made.append(watch)
        watch.start()
        return watch

    yield begin
    for each in made:
        each.close()


def until(api: FakeApi, fact: Callable[[], Any]) -> None:
    with api.changed:
        assert api.changed.wait_for(fact, DEADLINE), api.requests


def pod(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": f"uid-{name}"}}


def test_it_lists_once_and_then_follows(api, watch, ears):
    """What was there comes as a list, each change by itself; after that nothing is asked."""
    api.put("pods", pod("a"))
    watch()
    until(api, lambda: api.watching["pods"])
    api.put("pods", pod("b"))
    api.put("pods", pod("a"))
    api.remove("pods", "b")
    ears.until(lambda: ears.all("DELETED"))
    assert ears.heard == [("list", ["a"]), ("ADDED", "b"), ("MODIFIED", "a"), ("DELETED", "b")]
    assert [verb for verb, _path in api.requests] == ["list", "watch"]


def test_a_dropped_watch_goes_on_where_it_was(api, watch, ears):
    """From the last resource version it has seen: no list, no outage, and nothing twice or never."""
    watch()
    until(api, lambda: api.watching["pods"])
    for number in range(5):
        api.put("pods", pod(f"a{number}"))
        ears.until(lambda number=number: len(ears.all("ADDED")) == number + 1)
        api.drop()
        api.put("pods", pod(f"b{number}"))
        api.remove("pods", f"b{number}")
        ears.until(lambda number=number: len(ears.all("DELETED")) == number + 1)
        until(api, lambda: api.watching["pods"])
        ears.heard = [each for each in ears.heard if each[1] != f"b{number}" or each[0] == "DELETED"]
    assert ears.all("ADDED") == [f"a{number}" for number in range(5)]
    assert ears.all("DELETED") == [f"b{number}" for number in range(5)]
    assert api.count("list") == 1
    assert not ears.all("outage")


def test_bookmarks_move_it_on(api, watch, ears):
    """Where it goes on is the last bookmark, though no pod has changed: history may be forgotten before that."""
    watch()
    until(api, lambda: api.watching["pods"])
    api.put("events", pod("unrelated"))
    api.forget_history()
    api.bookmark()
    api.put("pods", pod("a"))
    ears.until(lambda: ears.all("ADDED"))
    api.drop()
    until(api, lambda: api.count("watch") > 1 and api.watching["pods"])
    assert api.count("list") == 1
    assert ears.heard == [("list", []), ("ADDED", "a")]


@pytest.mark.parametrize("inside", [False, True], ids=["at the start", "in the stream"])
def test_410_begins_with_a_list_again(api, watch, ears, inside):
    """Whether the server says Gone as its answer or as an event: pods are listed anew, and there was no outage."""
    watch()
    until(api, lambda: api.watching["pods"])
    if inside:
        api.put("pods", pod("a"))
        api.tell("pods", "ERROR", {"kind": "Status", "code": 410, "message": "too old resource version"})
    else:
        api.is_down = True
        api.drop()
        api.put("pods", pod("a"))
        api.forget_history()
        api.is_down = False
    ears.until(lambda: len(ears.all("list")) > 1)
    assert ears.all("list")[1] == ["a"]
    until(api, lambda: api.watching["pods"])
    api.put("pods", pod("b"))
    ears.until(lambda: "b" in ears.all("ADDED"))
    assert not ears.all("outage")


def test_a_silent_watch_is_opened_anew(api, watch, ears):
    """One that brings nothing, not even bookmarks, goes on from where it was; when it is silent again, with a list."""
    api.silent = True
    watch(silence=SHORT)
    until(api, lambda: api.count("watch") == 2)
    assert api.count("list") == 1
    until(api, lambda: api.count("list") == 2)
    api.put("pods", pod("a"))
    api.silent = False
    ears.until(lambda: "a" in ears.all("ADDED") or ["a"] in ears.all("list"))
    assert not ears.all("outage")


def test_an_outage_is_told_once_and_what_was_missed_comes_afterwards(api, watch, ears):
    """However long it takes and however often it tries; then it goes on without a list."""
    watch()
    until(api, lambda: api.watching["pods"])
    api.down()
    ears.until(lambda: ears.all("outage"))
    api.put("pods", pod("a"))
    api.remove("pods", "a")
    until(api, lambda: api.turned_away > 5)
    api.is_down = False
    ears.until(lambda: ears.all("DELETED"))
    assert [kind for kind, _what in ears.heard] == ["list", "outage", "return", "ADDED", "DELETED"]
    assert isinstance(ears.all("outage")[0], BackendError)
    assert api.count("list") == 1


@pytest.mark.parametrize("status", [429, 500])
def test_a_storm_of_refusals_is_waited_out(api, watch, ears, status):
    """Each try waits longer than the last, and as long as the server asks for; it is seen again when it is over."""
    times: list[float] = []

    def refuse(verb: str, path: str):
        if verb != "watch":
            return None
        times.append(time.monotonic())
        return (status, {"Retry-After": "1"}) if len(times) < 4 else None

    api.refuse = refuse
    watch()
    until(api, lambda: api.watching["pods"])
    assert all(later - earlier >= 1.0 for earlier, later in pairwise(times))
    api.put("pods", pod("a"))
    ears.until(lambda: ears.all("ADDED"))
    assert api.count("list") == 1
    assert [kind for kind, _what in ears.heard] == ["list", "outage", "return", "ADDED"]


def test_tries_are_farther_and_farther_apart(api, watch, ears):
    """A server that is away is not asked again and again at once."""
    watch(patience=Patience(first_pause=0.01, longest_pause=60.0, outage_after=0.0))
    until(api, lambda: api.watching["pods"])
    tries: list[float] = []
    api.refuse = lambda _verb, _path: tries.append(time.monotonic()) or (503, {})
    api.drop()
    ears.until(lambda: ears.all("outage"))
    until(api, lambda: len(tries) >= 7)
    pauses = [later - earlier for earlier, later in pairwise(tries)]
    assert pauses[-1] > 0.1


def test_a_forbidden_watch_is_told_once_and_tried_again(api, watch, ears):
    """Whoever polls meanwhile has the watch's news again once the role is mended."""
    api.refuse = lambda verb, _path: (403, {}) if verb == "watch" else None
    watch()
    ears.until(lambda: ears.all("failed"))
    until(api, lambda: api.count("watch") > 2)
    api.refuse = lambda _verb, _path: None
    until(api, lambda: api.watching["pods"])
    api.put("pods", pod("a"))
    ears.until(lambda: ears.all("ADDED"))
    assert [type(error) for error in ears.all("failed")] == [Forbidden]
    assert not ears.all("outage")


def test_a_server_that_forbids_too_much_while_it_starts_is_waited_for(api, watch, ears):
    """Nobody is told to poll for that."""
    api.refuse = lambda verb, _path: (403, {}) if verb == "watch" and api.count("watch") < 4 else None
    watch(patience=Patience(first_pause=0.01, forbidden_after=600.0))
    until(api, lambda: api.watching["pods"])
    api.put("pods", pod("a"))
    ears.until(lambda: ears.all("ADDED"))
    assert [kind for kind, _what in ears.heard] == ["list", "ADDED"]


def test_events_are_followed_only_when_asked_for(api, watch, ears):
    """In a thread of their own; that they are forbidden keeps no pod from being seen."""
    watched = watch()
    until(api, lambda: api.watching["pods"])
    assert not api.count("list", "events")
    api.put("events", {**pod("e1"), "reason": "FailedMount"})
    watched.start_events()
    watched.start_events()
    until(api, lambda: api.watching["events"])
    api.put("events", {**pod("e2"), "reason": "BackOff"})
    api.remove("events", "e1")
    api.put("pods", pod("a"))
    ears.until(lambda: ears.all("event") and ears.all("ADDED"))
    assert ears.all("events") == [["FailedMount"]]
    assert ears.all("event") == ["BackOff"]
    assert len(ears.threads) == 2


def test_forbidden_events_are_done_without(api, watch, ears, caplog):
    """It is logged once; pods are followed as before."""
    api.refuse = lambda _verb, path: (403, {}) if path.endswith("events") else None
    watch().start_events()
    until(api, lambda: "why pods do not start cannot be seen" in caplog.text)
    tries = api.count("list", "events")
    until(api, lambda: api.count("list", "events") > tries + 1)
    api.put("pods", pod("a"))
    ears.until(lambda: ears.all("ADDED") or ["a"] in ears.all("list"))
    assert not ears.all("failed")
    assert caplog.text.count("why pods do not start cannot be seen") == 1


def test_whoever_listens_badly_is_no_trouble(api, watch, ears, caplog):
    """What fails in taking one pod's news is logged, and the next one's comes."""
    real, ears.hear = ears.hear, lambda kind, what=None: 1 / 0 if what == "bad" else real(kind, what)
    watch()
    until(api, lambda: api.watching["pods"])
    api.put("pods", pod("bad"))
    api.put("pods", pod("good"))
    ears.until(lambda: ears.all("ADDED") == ["good"])
    assert "ZeroDivisionError" in caplog.text
    assert api.count("watch") == 1


@pytest.mark.parametrize("state", ["following", "silent", "away", "forbidden"])
def test_close_ends_it_whatever_it_does(api, watch, ears, state):
    """Also in the middle of a read that nothing would end; nothing is told afterwards."""
    patience = Patience(first_pause=600.0, longest_pause=600.0, outage_after=0.0, forbidden_after=0.0, forbidden=600.0)
    api.silent = state == "silent"
    api.refuse = lambda verb, _path: (403, {}) if state == "forbidden" and verb == "watch" else None
    watched = watch(patience=patience)
    until(api, lambda: api.count("watch"))
    if state in ("following", "silent", "away"):
        until(api, lambda: api.watching["pods"])
    if state == "away":
        api.down()
    watched.start_events()
    watched.close()
    told = len(ears.heard)
    api.put("pods", pod("late"))
    watched.close()
    watched.start_events()
    alive = [thread for thread in threading.enumerate() if thread.name.startswith("siteward-k8s")]
    assert not alive
    assert len(ears.heard) == told
