"""How long a pod may wait, and for what: the decision to go on waiting or to give up. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from attrs import frozen

from siteward import Reason
from siteward_k8s import layout
from siteward_k8s.clocks import Waited
from siteward_k8s.facts import EventFacts, PodFacts
from siteward_k8s.trouble import Trouble, find_trouble, is_pulling, progress

# A pod that simply starts says nothing: each message costs whoever stores it a write.
_QUIET = 10.0
# With a timeout of 0 a pod is given up at the first bad word; how long may pass without any.
_FIRST_WORD = 30.0


@frozen(kw_only=True)
class Limits:
    """Seconds that a pod may wait for a node, for its start on that node, and for its gates; None: without end.

    0 is until the first bad word: of the scheduler, of the node, or that there is a gate.
    """

    pending_timeout: float | None
    start_timeout: float | None
    gated_timeout: float | None

    @classmethod
    def of_pod(cls, facts: PodFacts) -> Limits:
        """Return the limits that a pod was created with, from its annotations; without end where it has none."""
        return cls(
            pending_timeout=_noted(facts.notes, layout.PENDING_TIMEOUT),
            start_timeout=_noted(facts.notes, layout.START_TIMEOUT),
            gated_timeout=_noted(facts.notes, layout.GATED_TIMEOUT),
        )


def _noted(notes: Mapping[str, str], key: str) -> float | None:
    try:
        value = json.loads(notes[key])
    except (KeyError, ValueError):
        return None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


@frozen(kw_only=True)
class Wait:
    """Go on waiting. ``message`` is for people, "" when there is nothing to say; look again in so many seconds.

    ``look_again_in`` is None where only news of the pod can change the decision.
    """

    message: str = ""
    look_again_in: float | None = None


@frozen(kw_only=True)
class Fail:
    """Give the pod up: why, as a reason of siteward's and in words."""

    reason: Reason
    message: str


_GO_ON = Wait()


def judge(facts: PodFacts, events: Iterable[EventFacts], waited: Waited, limits: Limits) -> Wait | Fail:
    """Decide about a pod that has not started. One that runs, has ended or is being deleted is never given up.

    Ask again at each news of the pod or its events, and after ``look_again_in`` seconds of the clocks' time.
    """
    if facts.started or facts.deleting or facts.phase not in ("Pending", "Running"):
        return _GO_ON
    events = list(events)
    trouble = find_trouble(facts, events)
    after = trouble.fatal_after if trouble is not None else None
    if trouble is not None and (trouble.fatal or (after is not None and waited.scheduled >= after)):
        return Fail(reason=trouble.reason, message=trouble.message)
    if facts.staging:
        return Wait(message=trouble.message if trouble else "")
    if facts.gated:
        spent, limit, words = waited.gated, limits.gated_timeout, "it was held back for {:g} s (gated_timeout)"
    elif facts.scheduled:
        spent, limit, words = waited.scheduled, limits.start_timeout, "it did not start within {:g} s (start_timeout)"
    else:
        spent, limit, words = (
            waited.unscheduled,
            limits.pending_timeout,
            "it got no node within {:g} s (pending_timeout)",
        )
    if limit is not None and spent >= (limit if trouble is not None else limit or _FIRST_WORD):
        trouble = trouble or _silence(facts, events)
        return Fail(reason=trouble.reason, message=f"{words.format(limit)}: {trouble.message}")
    return _wait(facts, events, trouble, spent, limit)


def _wait(
    facts: PodFacts, events: list[EventFacts], trouble: Trouble | None, spent: float, limit: float | None
) -> Wait:
    if trouble is not None:
        ends = [each for each in (limit, trouble.fatal_after) if each is not None]
        return Wait(message=trouble.message, look_again_in=min(ends) - spent if ends else None)
    left = None if limit is None else (limit or _FIRST_WORD) - spent
    if spent >= _QUIET:
        return Wait(message=progress(facts, events), look_again_in=left)
    quiet = _QUIET - spent
    return Wait(look_again_in=quiet if left is None else min(left, quiet))


def _silence(facts: PodFacts, events: list[EventFacts]) -> Trouble:
    """Return the trouble with a pod of which nobody has said anything bad."""
    message = progress(facts, events)
    if not facts.scheduled:
        return Trouble(fatal=False, reason=Reason.UNSCHEDULABLE, message=message)
    reason = Reason.IMAGE_ERROR if is_pulling(facts, events) else Reason.LAUNCH_FAILED
    return Trouble(fatal=False, reason=reason, message=message)
