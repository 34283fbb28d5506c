"""How long a pod has waited for what: for its gates, for a node, for its start. Pure: the time is given in."""

from __future__ import annotations

from typing import Literal

from attrs import evolve, frozen

from siteward_k8s import layout
from siteward_k8s.facts import PodFacts

_Clock = Literal["unscheduled", "scheduled", "gated"]


@frozen(kw_only=True)
class Waited:
    """Seconds that a pod has waited: gated, without a node, and with one but not started."""

    unscheduled: float = 0.0
    scheduled: float = 0.0
    gated: float = 0.0

    @property
    def total(self) -> float:
        """Return the sum."""
        return self.unscheduled + self.scheduled + self.gated


class Clocks:
    """The clocks of one pod. They never go back, and stand still while the platform cannot be seen.

    ``wall`` is the time at the first look, in seconds since the epoch: what a pod that was there before us has waited
    already is counted by its own timestamps. Best it is the API server's own time (the ``Date`` of its reply), as they
    are. None for a pod that was only just created. All other times are of one monotonic clock.
    """

    __slots__ = ("_at", "_clock", "_paused", "_waited", "_wall")

    def __init__(self, wall: float | None = None) -> None:
        self._wall = wall
        self._waited = Waited()
        self._clock: _Clock | None = None
        self._at: float | None = None
        self._paused = False

    def advance(self, facts: PodFacts, now: float) -> Waited:
        """Take in what is seen of the pod now, and return how long it has waited.

        The time since the last look counts for what the pod waited for at that look.
        """
        if self._at is None:
            if self._wall is not None:
                self._waited = _before(facts, self._wall)
            self._at = now
        self._count(now)
        self._clock = _clock_of(facts)
        return self._waited

    def pause(self, now: float) -> None:
        """Stand still from now on: the platform cannot be asked."""
        self._count(now)
        self._paused = True

    def resume(self, now: float) -> None:
        """Go on."""
        self._count(now)
        self._paused = False

    def _count(self, now: float) -> None:
        if self._at is None or now <= self._at:
            return
        if self._clock is not None and not self._paused:
            waited = getattr(self._waited, self._clock) + now - self._at
            self._waited = evolve(self._waited, **{self._clock: waited})
        self._at = now


def _clock_of(facts: PodFacts) -> _Clock | None:
    """Say which clock runs: none once the job was started, nor while siteward brings its job directory."""
    if facts.started or facts.staging or facts.phase not in ("Pending", "Running"):
        return None
    if facts.scheduled:
        return "scheduled"
    return "gated" if facts.gated else "unscheduled"


def _before(facts: PodFacts, wall: float) -> Waited:
    """Return what a pod has waited before it was first seen. Two clocks that disagree make it no less than 0."""
    created = wall if facts.created is None else facts.created
    if not facts.scheduled:
        age = max(0.0, wall - created)
        return Waited(gated=age) if facts.gated else Waited(unscheduled=age)
    bound = created if facts.scheduled_at is None else facts.scheduled_at
    until = wall if facts.started_at is None else facts.started_at
    return Waited(unscheduled=max(0.0, bound - created), scheduled=max(0.0, until - bound - _staged(facts, until)))


def _staged(facts: PodFacts, wall: float) -> float:
    """Return how long siteward took, or has taken by now, to bring the job directory."""
    stage = next((each for each in facts.containers if each.name == layout.STAGE), None)
    if stage is None or stage.started_at is None:
        return 0.0
    return max(0.0, (wall if stage.finished_at is None else stage.finished_at) - stage.started_at)
