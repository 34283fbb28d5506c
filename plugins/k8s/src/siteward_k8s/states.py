"""What a pod's containers say: each one's state, and which is the job's. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from sys import intern
from typing import Any, Literal

from attrs import frozen

from siteward_k8s import layout

State = Literal["waiting", "running", "terminated"]
Kind = Literal["init", "main", "sidecar"]
_MAIN_NAMES = (layout.JOB, "nvflare_job")


@frozen(kw_only=True)
class ContainerFacts:
    """One container. ``last`` is how it ended the time before, where it was started anew.

    Times are seconds since the epoch, by the node's clock; ``exit_code`` and ``signal`` are of a terminated one.
    """

    name: str
    kind: Kind
    state: State = "waiting"
    reason: str = ""
    message: str = ""
    image: str = ""
    exit_code: int | None = None
    signal: int | None = None
    started_at: float | None = None
    finished_at: float | None = None
    restarts: int = 0
    last: ContainerFacts | None = None


def read_containers(
    spec: Mapping[str, Any], status: Mapping[str, Any], main_name: str | None
) -> tuple[tuple[ContainerFacts, ...], ContainerFacts | None]:
    """Return every container that is told of, in the order init, main, sidecar, and the job's.

    The job's is the one of that name; without a name, one that is called as such, or the only one.
    """
    listed = spec.get("containers") or ()
    if main_name is None:
        names = [each.get("name", "") for each in listed]
        main_name = next((each for each in _MAIN_NAMES if each in names), names[0] if len(names) == 1 else None)
    inits, main, sidecars = [], None, []
    told = status.get("initContainerStatuses")
    if told:
        beside = {
            each.get("name") for each in spec.get("initContainers") or () if each.get("restartPolicy") == "Always"
        }
        inits = [_read_container(each, "sidecar" if each.get("name") in beside else "init") for each in told]
    for each in status.get("containerStatuses") or ():
        if each.get("name") == main_name:
            main = _read_container(each, "main")
        else:
            sidecars.append(_read_container(each, "sidecar"))
    if main is None and main_name is not None:
        image = next((each.get("image") or "" for each in listed if each.get("name") == main_name), "")
        main = ContainerFacts(name=intern(main_name), kind="main", image=image)
    return (*inits, *([main] if main else []), *sidecars), main


def _read_container(told: Mapping[str, Any], kind: Kind) -> ContainerFacts:
    name, state, last = told.get("name") or "", told.get("state") or {}, told.get("lastState")
    restarts, image = told.get("restartCount") or 0, intern(told.get("image") or "")
    before = _read_container({"name": name, "state": last}, kind) if last and last.get("terminated") else None
    if (ended := state.get("terminated")) is not None:
        return ContainerFacts(
            name=intern(name),
            kind=kind,
            state="terminated",
            reason=intern(ended.get("reason") or ""),
            message=ended.get("message") or "",
            image=image,
            exit_code=ended.get("exitCode", 0),
            signal=ended.get("signal") or None,
            started_at=seconds(ended.get("startedAt")),
            finished_at=seconds(ended.get("finishedAt")),
            restarts=restarts,
            last=before,
        )
    if (running := state.get("running")) is not None:
        since = seconds(running.get("startedAt"))
        return ContainerFacts(
            name=intern(name), kind=kind, state="running", image=image, started_at=since, restarts=restarts, last=before
        )
    waiting = state.get("waiting") or {}
    return ContainerFacts(
        name=intern(name),
        kind=kind,
        reason=intern(waiting.get("reason") or ""),
        message=waiting.get("message") or "",
        image=image,
        restarts=restarts,
        last=before,
    )


def seconds(text: Any) -> float | None:
    """Read a time of the API server's as seconds since the epoch; None for none, and for those that stand for never."""
    if not text:
        return None
    try:
        value = datetime.fromisoformat(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return value if value > 0 else None
