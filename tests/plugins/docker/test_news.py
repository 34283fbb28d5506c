"""What is told of a job from the engine's events: what they say is taken from them, for the rest one looks."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from siteward import JobStatus, Later
from siteward_docker import build
from siteward_docker.absent import Absences
from siteward_docker.errors import Missing
from siteward_docker.news import News
from siteward_docker.options import SiteOptions

from .helpers import until

PLACE = build.Place(owner="me", site="site-1", backend="docker", options=SiteOptions(), user=(1, 1))
LABELS = PLACE.labels("job", 1)
REF = PLACE.ref("job", 1, "c1")
SEEN = {"ExitCode": 77, "StartedAt": "2026-01-02T03:04:05Z", "FinishedAt": "2026-01-02T03:04:06Z"}


class Looked:
    """An engine with one container, which counts how often it is looked at."""

    def __init__(self) -> None:
        self.looks = 0
        self.state: dict[str, Any] | None = {"Status": "exited", "OOMKilled": False, "Error": "", **SEEN}

    def inspect(self, _container: str) -> dict[str, Any]:
        self.looks += 1
        if self.state is None:
            raise Missing("No such container")
        return {"Id": "c1", "Config": {"Labels": LABELS}, "State": self.state}

    def logs(self, _container: str, **_how: Any):
        return iter([("t", b"sh: nope: not found\n")])


@pytest.fixture
def engine():
    """An engine with one container that has ended."""
    return Looked()


@pytest.fixture
def told() -> list[JobStatus]:
    """What was published."""
    return []


@pytest.fixture
def news(engine: Looked, told: list[JobStatus], tmp_path):
    """News of the engine's container."""
    later = Later("test-later", logging.getLogger("test"))
    news = News(
        engine,  # type: ignore[arg-type]
        PLACE,
        Absences(tmp_path),
        later,
        waiting=lambda _name: None,
        is_stopped=lambda _name: False,
    )
    news.begin(lambda _ref, status: told.append(status))
    yield news
    later.close()


def event(action: str, second: float, **more: str) -> dict[str, Any]:
    """Return an event as the engine writes it."""
    actor = {"ID": "c1", "Attributes": {**LABELS, **more}}
    return json.loads(json.dumps({"Action": action, "Actor": actor, "timeNano": int(second * 1e9)}))


def end_of(told: list[JobStatus]):
    (end,) = (each.result for each in told if each.result is not None)
    return end


@pytest.mark.parametrize("code", [0, 1, 103, 125, 128, 143, 255])
def test_an_end_that_its_event_tells_whole(news: News, engine: Looked, told: list[JobStatus], code: int):
    """Its code and its times are the engine's; nobody looks."""
    news.on_event(event("start", 1000.25))
    news.on_event(event("die", 1002.5, exitCode=str(code)))
    end = end_of(told)
    assert (end.exit_code, end.started_at, end.ended_at) == (code, 1000.25, 1002.5)
    assert engine.looks == 0


HALF_TOLD = {
    "its start was not seen": [event("die", 2, exitCode="0")],
    "it had too little memory": [event("start", 1), event("oom", 2), event("die", 2, exitCode="0")],
    "it has no code": [event("start", 1), event("die", 2)],
    "its code is no number": [event("start", 1), event("die", 2, exitCode="-1")],
    "it was not found": [event("start", 1), event("die", 2, exitCode="127")],
    "it was not executable": [event("start", 1), event("die", 2, exitCode="126")],
    "it was killed": [event("start", 1), event("die", 2, exitCode="137")],
    "a label looks like its code": [event("start", 1, exitCode="0"), event("die", 2, exitCode="0")],
    "it ended before it began": [event("die", 2, exitCode="0"), event("start", 1)],
}


@pytest.mark.parametrize("events", HALF_TOLD.values(), ids=HALF_TOLD)
def test_an_end_that_its_event_tells_half(news: News, engine: Looked, told: list[JobStatus], events):
    """The container tells the rest, and what it says counts."""
    for each in events:
        news.on_event(each)
    until(lambda: any(each.result for each in told), "the end is told")
    assert end_of(told).exit_code == 77
    assert engine.looks == 1


def test_a_start_from_before_an_outage(news: News, engine: Looked, told: list[JobStatus]):
    """It may have been started again since: one looks."""
    news.on_event(event("start", 1))
    news.on_outage(OSError("away"))
    news.on_event(event("die", 9, exitCode="0"))
    assert (end_of(told).exit_code, engine.looks) == (77, 1)


def test_the_last_start_counts(news: News, told: list[JobStatus]):
    """Of a container whose start is told twice."""
    news.on_event(event("start", 1))
    news.on_event(event("start", 3))
    news.on_event(event("die", 9, exitCode="0"))
    assert end_of(told).started_at == 3


def test_an_end_is_told_once(news: News, engine: Looked, told: list[JobStatus]):
    """Though its event comes twice, and the list of containers has it too, and then it is removed."""
    for each in (event("start", 1), event("die", 2, exitCode="0"), event("die", 2, exitCode="0")):
        news.on_event(each)
    news.on_list([REF])
    news.on_event(event("destroy", 4))
    assert (end_of(told).exit_code, end_of(told).ended_at) == (0, 2)


def test_a_pause_is_no_end(news: News, engine: Looked, told: list[JobStatus]):
    """It is told, and the end comes after it as after none."""
    for each in (event("start", 1), event("pause", 2), event("unpause", 3), event("die", 4, exitCode="5")):
        news.on_event(each)
    assert [bool(each.message) for each in told[:3]] == [False, True, False]
    assert (end_of(told).exit_code, end_of(told).started_at, engine.looks) == (5, 1, 0)


def test_a_container_that_is_removed(news: News, engine: Looked, told: list[JobStatus]):
    """It is lost, and needs no look; whatever was noted of the job is its end."""
    news.on_event(event("start", 1))
    news.on_event(event("destroy", 2))
    assert (end_of(told).reason.value, engine.looks) == ("Deleted", 0)
