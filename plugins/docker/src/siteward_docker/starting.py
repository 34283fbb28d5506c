"""From a create call to a running container: now, or when its image has been pulled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from logging import Logger
from queue import SimpleQueue
from typing import Any

from attrs import define

from siteward import JobRef, JobState, JobStatus, LaunchRefused, Reason, Unreachable
from siteward_docker.absent import Absences
from siteward_docker.build import container_of, is_same_job
from siteward_docker.client import Engine
from siteward_docker.diagnose import is_for_good
from siteward_docker.errors import Conflict, Missing
from siteward_docker.stopping import Stops

_PULLS_AT_ONCE = 2
_TRIES = 5
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
_SHORTEST_NEWS = 0.5
_LAST_WORD = 5.0

Bring = Callable[[str], None]


@define(eq=False)
class Waiting:
    """A job whose container is being created, or cannot be yet, or waits behind its image for its start."""

    ref: JobRef
    body: Mapping[str, Any]
    status: JobStatus
    pulled: bool = False
    container: str | None = None


class Starts:
    """Creates and starts the containers of one site. ``tell(ref)`` looks at a job and publishes what is seen."""

    def __init__(
        self,
        engine: Engine,
        stops: Stops,
        absences: Absences,
        *,
        pull: str,
        tell: Callable[[JobRef], None],
        publish: Callable[[JobRef, JobStatus], None],
        log: Logger,
    ) -> None:
        self._engine = engine
        self._stops = stops
        self._absences = absences
        self._pull_policy = pull
        self._tell = tell
        self._publish = publish
        self._log = log
        self._waiting: dict[str, Waiting] = {}
        self._new: set[str] = set()
        self._todo: SimpleQueue[tuple[Waiting, Bring] | None] = SimpleQueue()
        self._pullers: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def create(self, ref: JobRef, body: Mapping[str, Any]) -> str | None:
        """Create a job's container and return its id; None when its image must come first.

        Asked again for the same job, it finds the container that was created then.
        """
        name = ref.data["name"]
        waiting = self._waiting[name] = Waiting(ref, body, JobStatus(state=JobState.PENDING))
        container = None
        try:
            container = None if self._pull_policy == "always" else self._create(name, body)
        except BaseException:
            del self._waiting[name]
            raise
        if container is not None:
            del self._waiting[name]
        else:
            waiting.status = JobStatus(state=JobState.PENDING, message=f"waits for image {body['Image']}")
        return container

    def _create(self, name: str, body: Mapping[str, Any]) -> str | None:
        try:
            container = self._engine.create(name, body)
        except Missing:
            return None
        except Conflict as error:
            found = self._engine.inspect(name)
            if not is_same_job(found["Config"].get("Labels"), body["Labels"]):
                raise LaunchRefused(f"there is a container {name!r} that is not of this job: {error}") from error
            container = str(found["Id"])
        else:
            self._new.add(name)
        self._absences.forget(name)
        return container

    def status(self, name: str) -> JobStatus | None:
        """Return the status of a job that waits for its container; None for any other."""
        waiting = self._waiting.get(name)
        return waiting.status if waiting is not None and waiting.container is None else None

    def start(self, ref: JobRef, bring: Bring) -> None:
        """Start a job's container, in the background if its image comes first; ``bring`` brings its files."""
        waiting = self._waiting.get(ref.data["name"])
        if waiting is not None:
            self._todo.put((waiting, bring))
            self._have_pullers()
            return
        is_new = ref.data["name"] in self._new
        self._new.discard(ref.data["name"])
        with self._stops.starting(ref) as may_start:
            started = may_start and self._start(ref, bring, is_new=is_new)
        if not started:
            self._tell(ref)

    def _start(self, ref: JobRef, bring: Bring, *, is_new: bool = False) -> bool:
        """Start a container that is not yet; whether that was done: what happens then the engine's events tell."""
        container = container_of(ref)
        try:
            # Only one that was created just now needs no look: starting one that has ended would run it again.
            if is_new or self._engine.inspect(container)["State"]["Status"] == "created":
                bring(container)
                self._engine.start(container)
                return True
        except Unreachable:
            raise
        except Missing:
            pass
        except Exception as error:
            state = self._engine.inspect(container)["State"]
            if state["Status"] == "created" and not state["ExitCode"]:
                raise
            # The engine keeps in the container why it did not start.
            self._log.info("container %s cannot be started: %s", ref.data["name"], error)
        return False

    def cancel(self, name: str) -> None:
        """Give up a job that waits for its image."""
        if self._waiting.pop(name, None) is not None:
            self._absences.note(name, Reason.LAUNCH_FAILED, "it was ended before its image was there")

    # --- pulling --------------------------------------------------------------------------------------------

    def _have_pullers(self) -> None:
        with self._lock:
            if len(self._pullers) < _PULLS_AT_ONCE and not self._closed.is_set():
                # A daemon: one whose registry says nothing would keep the whole process from its end.
                puller = threading.Thread(target=self._pull_all, name="siteward-docker-pull", daemon=True)
                puller.start()
                self._pullers.append(puller)

    def _pull_all(self) -> None:
        while (todo := self._todo.get()) is not None:
            self._logged(*todo)

    def _logged(self, waiting: Waiting, bring: Bring) -> None:
        try:
            self._pull_and_start(waiting, bring)
        except Exception as error:
            self._log.exception("job %s cannot be started", waiting.ref.job_id)
            self._give_up(waiting, Reason.LAUNCH_FAILED, str(error))

    def _pull_and_start(self, waiting: Waiting, bring: Bring) -> None:
        tries, pause = 0, _FIRST_PAUSE
        while self._is_wanted(waiting):
            try:
                if self._is_there(waiting) and self._create_and_start(waiting, bring):
                    return
                words = self._pull(waiting)
            except Unreachable as error:  # an outage ends no job
                tries, words = tries - 1, str(error)
            except LaunchRefused as error:
                self._give_up(waiting, Reason.LAUNCH_FAILED, str(error))
                return
            if words is None:
                waiting.pulled = True
                continue
            tries += 1
            if tries >= _TRIES or is_for_good(words):
                self._give_up(waiting, Reason.IMAGE_ERROR, words)
                return
            self._note(waiting, f"{words}; tried again in {pause:g} s")
            self._closed.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _is_wanted(self, waiting: Waiting) -> bool:
        return not self._closed.is_set() and self._waiting.get(waiting.ref.data["name"]) is waiting

    def _is_there(self, waiting: Waiting) -> bool:
        return waiting.pulled or self._pull_policy != "always"

    def _create_and_start(self, waiting: Waiting, bring: Bring) -> bool:
        """Create and start the container if its image is there; what was done before an outage is not done again."""
        name = waiting.ref.data["name"]
        with self._stops.starting(waiting.ref) as may_start:
            if may_start and waiting.container is None:
                waiting.container = self._create(name, waiting.body)
                if waiting.container is None:
                    waiting.pulled = False
                    return False
            if may_start:
                self._start(waiting.ref, bring)
        self._tell(waiting.ref)
        self._waiting.pop(name, None)
        return True

    def _pull(self, waiting: Waiting) -> str | None:
        """Pull a job's image; return what went wrong, None if nothing."""
        image = waiting.body["Image"]
        if self._pull_policy == "never":
            return (
                f"image {image} not found on the engine, and the site's pull policy is never. Whoever runs the site can"
                f" bring it there (docker pull {image}, docker load), or set pull: missing"
            )
        layers: dict[str, tuple[int, int]] = {}
        told = 0.0
        try:
            for news in self._engine.pull(image):
                if not self._is_wanted(waiting):
                    return None
                if "error" in news:
                    return f"image {image} cannot be pulled: {news['error']}"
                detail = news.get("progressDetail") or {}
                if detail.get("total"):
                    layers[news.get("id", "")] = detail["current"], detail["total"]
                if time.monotonic() - told > _SHORTEST_NEWS:
                    told = time.monotonic()
                    self._note(waiting, f"pulling image {image}: {news.get('status', '')}", _fraction(layers))
        except Unreachable as error:
            if not self._is_wanted(waiting):
                return None
            self._engine.version()  # or it is the engine that is away
            return f"image {image} cannot be pulled: the engine says no more of it ({error})"
        except Exception as error:
            return f"image {image} cannot be pulled: {error}"
        return None

    def _note(self, waiting: Waiting, message: str, progress: float | None = None) -> None:
        waiting.status = JobStatus(state=JobState.PENDING, message=message, progress=progress)
        self._publish(waiting.ref, waiting.status)

    def _give_up(self, waiting: Waiting, reason: Reason, message: str) -> None:
        name = waiting.ref.data["name"]
        if self._waiting.pop(name, None) is not None:
            self._absences.note(name, reason, message)
            if waiting.container is not None:  # it never ran, and nobody would start it any more
                with suppress(Missing, Conflict):
                    self._engine.remove(waiting.container)
            self._tell(waiting.ref)

    def close(self) -> None:
        """Stop pulling; jobs that still wait for their image will not start."""
        with self._lock:
            self._closed.set()
        for _ in self._pullers:
            self._todo.put(None)
        for puller in self._pullers:
            puller.join(_LAST_WORD)


def _fraction(layers: Mapping[str, tuple[int, int]]) -> float | None:
    total = sum(size for _done, size in layers.values())
    return sum(done for done, _size in layers.values()) / total if total else None
