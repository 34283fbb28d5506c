"""Ends that siteward decides: written on the pod before it is deleted, so that a crash in between keeps the reason."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from logging import Logger
from typing import Any, Protocol

from siteward import BackendError, JobRef, JobStatus, Later, Reason, Unreachable
from siteward_k8s import layout
from siteward_k8s.diagnose import evidence, is_lost
from siteward_k8s.errors import Conflict, Forbidden, Missing
from siteward_k8s.facts import PodFacts, verdict_note
from siteward_k8s.record import Record, given_up

_AGAIN = 2.0
# A kubelet that has not ended a pod so long after it was to, does not answer, or cannot.
_OVERDUE = 30.0
_NODE_AGAIN = 60.0
# Not everybody may ask for nodes.
_LONG_OVERDUE = 120.0


class Api(Protocol):
    """What is asked of a cluster here and by those who look at pods."""

    def get_pod(self, name: str) -> dict[str, Any]:
        """Look at a pod; Missing when there is none."""

    def patch_pod(self, name: str, patch: Mapping[str, Any]) -> dict[str, Any]:
        """Change a pod; Conflict when it is not as the patch supposes."""

    def get_node(self, name: str) -> dict[str, Any]:
        """Look at a node; Missing when there is none."""


class Verdicts:
    """Gives up pods, in the thread of ``later``.

    ``settle(record, status)`` notes an end and says whether it is the first, ``look_again(record)`` looks at a pod that
    has changed since it was judged, and ``publish(record, status)`` tells. ``give_up`` has the pod deleted.
    """

    def __init__(
        self,
        cluster: Api,
        later: Later,
        *,
        settle: Callable[[Record, JobStatus], bool],
        look_again: Callable[[Record], object],
        publish: Callable[[Record, JobStatus], object],
        give_up: Callable[[JobRef, Reason, str, str], object],
        log: Logger,
    ) -> None:
        self._cluster = cluster
        self._later = later
        self._settle = settle
        self._look_again = look_again
        self._publish = publish
        self._give_up = give_up
        self._log = log
        self._stopped = False

    def stop(self) -> None:
        """Give up nothing any more."""
        self._stopped = True

    def fail(
        self,
        record: Record,
        reason: Reason,
        message: str,
        facts: PodFacts,
        again: Callable[[], object] | None = None,
    ) -> None:
        """Give up a pod, for a reason and with all that is known of it; returns at once.

        ``again()`` is called when it was not, as the pod has changed, and there is no other cause to judge it anew.
        """
        record.given_up = True
        seen = evidence(facts, record.said)
        self._later.call(0, lambda: self._carry_out(record, reason, message, seen, again))

    def _carry_out(
        self, record: Record, reason: Reason, message: str, seen: str, again: Callable[[], object] | None
    ) -> None:
        if self._stopped or record.is_over:
            return
        if record.end is not None:  # it came in between
            self._publish(record, record.end)
            return
        try:
            self._write(record, reason, message)
        except (Conflict, Missing):  # it has changed, or gone, since it was judged
            record.given_up = False
            self._look_again(record)
            if again is not None:
                again()
            return
        except Unreachable:
            self._later.call(_AGAIN, lambda: self._carry_out(record, reason, message, seen, again))
            return
        except BackendError as error:
            self._log.warning("job %s: why it is given up cannot be noted: %s", record.ref.job_id, error)
        status = given_up(reason, message, seen)
        if not self._settle(record, status):
            self._publish(record, record.end or status)
            return
        try:
            self._give_up(record.ref, reason, message, seen)
        except BackendError as error:
            self._log.warning("job %s: its pod cannot be deleted yet: %s", record.ref.job_id, error)
        self._publish(record, status)

    def _write(self, record: Record, reason: Reason, message: str) -> None:
        metadata = {
            "uid": record.uid,
            "resourceVersion": record.version,
            "annotations": {layout.END: verdict_note(reason, message)},
        }
        self._cluster.patch_pod(record.name, {"metadata": metadata})

    # --- nodes that do not answer ---------------------------------------------------------------------------

    def mind_node(self, record: Record) -> None:
        """Look after the node of a pod that is being deleted, in case that it never says that the job has ended."""
        facts = record.facts
        if facts is None or record.node_asked or record.ends_by is None or not facts.node:
            return
        record.node_asked = True
        self._later.call(max(0.0, record.ends_by - time.time()) + _OVERDUE, lambda: self._ask_node(record))

    def _ask_node(self, record: Record) -> None:
        facts = record.facts
        if self._stopped or record.is_over or record.end is not None or record.given_up or facts is None:
            return
        words, pause = "", _NODE_AGAIN
        try:
            words = is_lost(self._cluster.get_node(facts.node), time.time())
        except Missing:
            words = is_lost(None, time.time())
        except Forbidden:
            overdue = time.time() - (record.ends_by or 0.0)
            pause = _LONG_OVERDUE - overdue
            if pause <= 0:
                words = f"node {facts.node} has not ended the pod in time: it may be lost"
        except BackendError:
            pause = _OVERDUE
        if words:
            ask_again = partial(self._later.call, _OVERDUE, lambda: self._ask_node(record))
            self.fail(record, Reason.NODE_LOST, words, facts, ask_again)
        else:
            self._later.call(pause, lambda: self._ask_node(record))
