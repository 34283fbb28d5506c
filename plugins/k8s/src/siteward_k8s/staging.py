"""Bringing job directories to pods that wait for theirs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from logging import Logger
from pathlib import Path
from typing import Any

from attrs import define, field

from siteward import BackendError, JobRef, Later, Reason, Unreachable
from siteward_k8s.errors import Missing
from siteward_k8s.layout import STAGE

_AT_ONCE = 4
_LOOK_AGAIN = 1.0
_TRIES = 5
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0


@define(eq=False)
class _Directory:
    """A job directory that is to be brought; ``busy`` while somebody does."""

    ref: JobRef
    source: Path
    tries: int = 0
    pause: float = field(factory=lambda: _FIRST_PAUSE)
    busy: bool = False


class Staging:
    """Sends a job's directory as soon as its pod's first container waits for it, in a few threads.

    ``send(ref, source)`` brings it, whole or not at all; ``fail(ref, reason, words)`` ends a job whose directory
    cannot be brought. An outage only delays. ``look(ref)`` returns how a pod is, where nothing is told of it. ``later``
    is closed with this.
    """

    def __init__(
        self,
        later: Later,
        *,
        send: Callable[[JobRef, Path], None],
        fail: Callable[[JobRef, Reason, str], None],
        look: Callable[[JobRef], Mapping[str, Any]],
        log: Logger,
    ) -> None:
        self._later = later
        self._send, self._fail, self._look = send, fail, look
        self.is_told = False
        self._log = log
        self._waiting: dict[str, _Directory] = {}
        self._ready: set[str] = set()
        self._sent: set[str] = set()
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False

    def expect(self, ref: JobRef, source: Path) -> None:
        """Note where a job's directory is; it is sent when its pod is ready for it, which it may be already."""
        name = ref.data["name"]
        with self._lock:
            self._waiting.setdefault(name, _Directory(ref, source))
        if self.is_told:
            self._begin(name)
        else:
            self._later.call(0, lambda: self._look_for(name))

    def look_for_all(self) -> None:
        """Look for oneself from now on: nothing is told of pods any more."""
        self.is_told = False
        for name in list(self._waiting):
            self._look_for(name)

    def _look_for(self, name: str) -> None:
        directory = self._waiting.get(name)
        if directory is None or self._closed or self.is_told:
            return
        try:
            self.on_pod(self._look(directory.ref))
        except Missing:
            self.forget(name)
        except BackendError as error:
            self._log.info("job %s: its pod cannot be looked at: %s", directory.ref.job_id, error)
        self._later.call(_LOOK_AGAIN, lambda: self._look_for(name))

    def __contains__(self, name: str) -> bool:
        """Whether a pod's job directory is still to be brought."""
        return name in self._waiting

    def on_pod(self, pod: Mapping[str, Any], *, deleted: bool = False) -> None:
        """Take in what is seen of a pod: whether its first container waits for the job directory, still or no more."""
        metadata = pod["metadata"]
        name = metadata["name"]
        directory = self._waiting.get(name)
        if directory is not None and directory.ref.data["uid"] not in (None, metadata["uid"]):
            return  # one of the same name that was there before
        if deleted or "deletionTimestamp" in metadata:
            if directory is not None or name in self._ready:
                self.cancel(name)
        elif _is_ready(pod):
            with self._lock:
                self._ready.add(name)
            self._begin(name)
        elif name in self._ready:
            self.cancel(name)

    def _begin(self, name: str) -> None:
        with self._lock:
            directory = self._waiting.get(name)
            if directory is None or directory.busy or name not in self._ready or self._closed:
                return
            directory.busy = True
            if self._pool is None:
                self._pool = ThreadPoolExecutor(_AT_ONCE, "siteward-k8s-stage")
            self._pool.submit(self._bring, directory)

    def _bring(self, directory: _Directory) -> None:
        ref = directory.ref
        name = ref.data["name"]
        try:
            self._send(ref, directory.source)
        except Exception as error:
            if not isinstance(error, Missing) or self._still_waits(directory):
                self._try_again(directory, error)
        else:
            with self._lock:
                self._sent.add(name)
                self._waiting.pop(name, None)

    def _still_waits(self, directory: _Directory) -> bool:
        """Whether a container that a node does not know waits all the same: a node that was started anew learns it."""
        name = directory.ref.data["name"]
        try:
            pod = self._look(directory.ref)
        except Missing:  # whoever looks at the pod tells of its end
            self.forget(name)
            return False
        except BackendError:
            return True
        self.on_pod(pod)
        return name in self._waiting

    def was_sent(self, name: str) -> bool:
        """Whether a pod's job directory was brought, so that nothing keeps its job from running."""
        return name in self._sent

    def _try_again(self, directory: _Directory, error: Exception) -> None:
        name = directory.ref.data["name"]
        if self._closed or name not in self._waiting:
            return
        self._log.warning("job %s: its job directory did not come to the pod: %s", directory.ref.job_id, error)
        directory.tries += not isinstance(error, Unreachable | Missing)
        if directory.tries >= _TRIES:
            self.forget(name)
            words = f"the job directory cannot be brought to the pod: {error}"
            self._fail(directory.ref, Reason.LAUNCH_FAILED, words)
            return
        directory.busy = False
        self._later.call(directory.pause, lambda: self._begin(name))
        directory.pause = min(2 * directory.pause, _LONGEST_PAUSE)

    def cancel(self, name: str) -> None:
        """Bring a pod nothing any more: its job is to be ended, or has begun."""
        with self._lock:
            self._waiting.pop(name, None)
            self._ready.discard(name)

    def forget(self, name: str) -> None:
        """Forget a pod: it has what it waited for, or is no more."""
        self.cancel(name)
        self._sent.discard(name)

    def close(self) -> None:
        """Begin nothing more; what is under way breaks off when its connection is closed."""
        with self._lock:
            self._closed = True
            self._waiting.clear()
            pool = self._pool
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)
        self._later.close(0.0)


def _is_ready(pod: Mapping[str, Any]) -> bool:
    statuses = pod.get("status", {}).get("initContainerStatuses") or ()
    return any(each["name"] == STAGE and "running" in (each.get("state") or ()) for each in statuses)
