"""What keeps a pod from starting, and whether it may mend: the classes of the pending policy. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from attrs import frozen

from siteward import Reason
from siteward_k8s import layout
from siteward_k8s.facts import EventFacts, PodFacts
from siteward_k8s.states import ContainerFacts
from siteward_k8s.words import bare, cause, no_node, one_line

_SKEW = 60.0
_PLAIN = frozenset({"", "ContainerCreating", "PodInitializing"})
_NEVER_AN_IMAGE = frozenset({"InvalidImageName", "ErrImageNeverPull", "SignatureValidationFailed"})
_NO_IMAGE_YET = frozenset({"ErrImagePull", "ImagePullBackOff", "ImageInspectError", "RegistryUnavailable"})
_CANNOT_START = frozenset({"CreateContainerError", "RunContainerError", "StartError", "ContainerCannotRun"})
_TRIES = 2
# Where events cannot be read, attempts cannot be counted: the kubelet has made the second by then.
_TWICE_WITHIN = 60.0
_PULL_AS_NOBODY = "FailedToRetrieveImagePullSecret"
# In the order in which they come, in one second at times.
_STEPS = ("Scheduled", "SuccessfulAttachVolume", "Pulling", "Pulled", "Created", "Started")

# An image is not there, or not for us. What may pass is looked for first: a rate limit may speak of authentication.
_IMAGE_FOR_GOOD = re.compile(
    r"(?i)not ?found|manifest unknown|name unknown|does not exist|unauthori[sz]ed|\b40[13]\b|denied|no basic auth"
    r"|authorization failed|authentication required|insufficient_scope|no match for platform|no matching manifest"
    r"|no image found|invalid reference|did not resolve to an alias"
)
_IMAGE_MAY_PASS = re.compile(
    r"(?i)toomanyrequests|too many requests|rate limit|rate exceeded|\b429\b|\bqps\b|status(?: code)?:? 5\d\d"
    r"|\b50[0-4] (?:internal|not impl|bad gateway|service|gateway)|i/o timeout|timed? ?out|deadline exceeded|canceled"
    r"|no such host|server misbehaving|connection re|network is|no route to host|\beof\b|\btls\b|x509|unavailable"
    r"|no space left|temporar"
)
_START_MAY_PASS = re.compile(
    r"(?i)deadline exceeded|reserved for|timed? ?out|connection re|unavailable|no space left|sandbox|\bbusy\b"
    r"|too many open files|temporarily|cannot allocate memory|not ready"
)
_NO_COMMAND = re.compile(r"(?i)executable file .*not found|no command specified|exec format error")
_CONFIG_FOR_GOOD = re.compile(
    r"(?i)(?:secret|configmap)s? \S+ not found|couldn't find key|non-existent (?:secret|config)"
    r"|runasnonroot|non-numeric"
)
_MISSING = re.compile(_CONFIG_FOR_GOOD.pattern + "|type check failed")

_NO_CLAIM = re.compile(r'persistentvolumeclaim "([^"]+)" not found')
_INSUFFICIENT = re.compile(
    r"(?i)\binsufficient\b|too many pods|not have enough|enough (?:free|resources)|exceed (?:all )?limits"
    r"|max node group size|no instance type|cannot allocate all claims|exceed max volume count"
)
_KUEUE = "kueue.x-k8s.io/"


@frozen(kw_only=True)
class Trouble:
    """What keeps a pod from starting: for good (``fatal``) or until a timeout, and the reason for giving it up.

    ``fatal_after``: so many seconds on its node make it one for good.
    """

    fatal: bool
    reason: Reason
    message: str
    fatal_after: float | None = None


def own(facts: PodFacts, events: Iterable[EventFacts]) -> list[EventFacts]:
    """Return the events that are of this very pod, each once, in the order in which they happened.

    An earlier pod may have had its name. One told of several times counts as it was told of last. A minute is left
    for clocks that disagree: the uid has said already whose event it is.
    """
    oldest = (facts.created or 0.0) - _SKEW
    latest: dict[object, EventFacts] = {}
    for each in events:
        if each.uid != facts.uid or not each.uid or (each.time is not None and each.time < oldest):
            continue
        key = each.key or (each.reason, each.message, each.time)
        if key not in latest or _moment(latest[key]) < _moment(each):
            latest[key] = each
    return sorted(latest.values(), key=_moment)


def _moment(event: EventFacts) -> tuple[float, bool, int, int, str, str]:
    """Sort by time; times are whole seconds: a warning comes of what was begun in the same one."""
    step = _STEPS.index(event.reason) if event.reason in _STEPS else 0
    return event.time or 0.0, event.type == "Warning", step, event.count, event.reason, event.message


def find_trouble(facts: PodFacts, events: Iterable[EventFacts]) -> Trouble | None:
    """Return what keeps a pod from starting as far as is known; None for one that has started, or is just about to."""
    if facts.started or facts.phase not in ("Pending", "Running"):
        return None
    if facts.gated:
        return _gate(facts)
    return _on_node(facts, own(facts, events)) if facts.scheduled else _without_node(facts, own(facts, events))


# --- before it has a node -----------------------------------------------------------------------------------


def _gate(facts: PodFacts) -> Trouble:
    names = ", ".join(facts.gates)
    if any(each.startswith(_KUEUE) for each in facts.gates):
        message = f"it is queued by Kueue (scheduling gate {one_line(names)}), until there is quota for it"
        return Trouble(fatal=False, reason=Reason.CAPACITY_TIMEOUT, message=message)
    message = f"it is held back by the scheduling gate {one_line(names)}, until whoever put that there takes it away"
    return Trouble(fatal=False, reason=Reason.UNSCHEDULABLE, message=message)


def _without_node(facts: PodFacts, events: list[EventFacts]) -> Trouble | None:
    condition = facts.condition("PodScheduled")
    told = [condition.message or condition.reason] if condition and condition.reason != "SchedulingGated" else []
    failed = [
        each.message for each in events if each.reason == "FailedScheduling" and "scheduling gates" not in each.message
    ]
    if not told and not failed:
        return None
    latest = (told or failed[-1:])[0]
    if missing := _NO_CLAIM.search(latest):
        message = f"there is no claim {missing[1]!r} in its namespace: create it, or correct the study's dataset"
        return Trouble(fatal=True, reason=Reason.CONFIG_ERROR, message=message)
    refused = [each.message for each in events if each.reason in ("NotTriggerScaleUp", "FailedScaleUp")]
    short = any(_INSUFFICIENT.search(bare(text)) for text in (*told, *failed, *refused))
    reason = Reason.CAPACITY_TIMEOUT if short else Reason.UNSCHEDULABLE
    return Trouble(fatal=False, reason=reason, message=no_node(latest) + _autoscaler(events))


def _autoscaler(events: list[EventFacts]) -> str:
    """Say what the autoscaler is doing about it, if there is one."""
    for each in reversed(events):
        match each.reason:
            case "TriggeredScaleUp" | "Nominated":
                return "; a new node has been asked for"
            case "NotTriggerScaleUp":
                why = each.message.partition(": ")[2]
                return "; the autoscaler adds no node for it" + (f": {one_line(why, 120)}" if why else "")
            case "FailedScaleUp":
                return "; the autoscaler could not add a node"
    return ""


# --- on its node --------------------------------------------------------------------------------------------


def _on_node(facts: PodFacts, events: list[EventFacts]) -> Trouble | None:
    found = [each for each in (_of_container(container, events) for container in facts.containers) if each]
    return next((each for each in found if each.fatal), found[0] if found else _of_events(events))


def _of_container(container: ContainerFacts, events: list[EventFacts]) -> Trouble | None:
    if container.state != "waiting" or container.reason in _PLAIN:
        return None
    text, whose = container.message, whose_container(container)
    if container.reason in _NEVER_AN_IMAGE:
        message = f"the image {container.image!r}{whose} cannot be used: {cause(text) or container.reason}"
        return Trouble(fatal=True, reason=Reason.IMAGE_ERROR, message=message)
    if container.reason in _NO_IMAGE_YET:
        return _of_image(container, events)
    if container.reason == "CreateContainerConfigError":
        fatal = bool(_CONFIG_FOR_GOOD.search(bare(text)))
        message = f"the container{whose} cannot be set up: {cause(text) or container.reason}"
        return Trouble(fatal=fatal, reason=Reason.CONFIG_ERROR, message=message)
    plain = bare(text)
    may_pass = _START_MAY_PASS.search(plain) and not _NO_COMMAND.search(plain)
    fatal = container.reason in _CANNOT_START and not may_pass
    message = f"the container{whose} cannot be started: {cause(text) or container.reason}"
    return Trouble(fatal=fatal, reason=Reason.LAUNCH_FAILED, message=message)


def whose_container(container: ContainerFacts) -> str:
    """Say which container it is, where it is not the job's."""
    if container.kind == "main":
        return ""
    return f" of its {'init ' if container.kind == 'init' else ''}container {container.name!r}"


def _of_image(container: ContainerFacts, events: list[EventFacts]) -> Trouble:
    said = [each.message for each in events if _is_failed_pull(each, container)]
    texts = [container.message] if _PULLED_BACK.sub("", container.message) else said[-1:]
    text = texts[0] if texts else container.message
    plain = bare(text.replace(container.image, '""') if container.image else text)
    for_good = bool(_IMAGE_FOR_GOOD.search(plain)) and not _IMAGE_MAY_PASS.search(plain)
    message = f"the image {container.image!r}{whose_container(container)} cannot be pulled"
    message += f": {cause(text)}" if texts else ""
    if for_good:
        message += ". Check its name and tag, and the site's image_pull_secrets"
        message += "".join(f" ({cause(each.message)})" for each in events if each.reason == _PULL_AS_NOBODY)[:200]
    tries = pulls(container, events)
    after = _TWICE_WITHIN if for_good and not tries else None
    return Trouble(fatal=for_good and tries >= _TRIES, reason=Reason.IMAGE_ERROR, message=message, fatal_after=after)


_PULLED_BACK = re.compile(r'^Back-off pulling image "[^"]*"$')


def _is_failed_pull(event: EventFacts, container: ContainerFacts) -> bool:
    if event.reason != "Failed" or "Failed to pull image" not in event.message:
        return False
    return event.container == container.name if event.container else f'"{container.image}"' in event.message


def pulls(container: ContainerFacts, events: Iterable[EventFacts]) -> int:
    """Return how often pulling the image of a container that waits for it has failed. ``events`` are this pod's."""
    failed = begun = 0
    for each in events:
        if _is_failed_pull(each, container):
            failed += each.count
        elif each.reason == "Pulling" and each.container == container.name:
            begun += each.count
    return max(failed, begun if container.reason in _NO_IMAGE_YET else 0)


def _of_events(events: list[EventFacts]) -> Trouble | None:
    """Return the trouble that the newest event tells of: what a later step has followed is overcome."""
    latest = next((each for each in reversed(events) if each.reason in _STEPS or each.reason in _SETBACKS), None)
    if latest is None or latest.reason in _STEPS:
        return None
    reason, words = _SETBACKS[latest.reason]
    if reason is None:
        reason = Reason.CONFIG_ERROR if _MISSING.search(latest.message) else Reason.LAUNCH_FAILED
    return Trouble(fatal=False, reason=reason, message=f"{words}: {cause(latest.message)}")


_VOLUMES = "its volumes cannot be mounted yet"
_SANDBOX = "its node cannot set up its network and sandbox yet"
# Warnings of a kubelet that keep a pod from starting for as long as they are the last word; None: by the message.
_SETBACKS: Mapping[str, tuple[Reason | None, str]] = {
    "FailedMount": (None, _VOLUMES),
    "FailedAttachVolume": (None, _VOLUMES),
    "FailedMapVolume": (None, _VOLUMES),
    "FailedCreatePodSandBox": (Reason.LAUNCH_FAILED, _SANDBOX),
    "NetworkNotReady": (Reason.LAUNCH_FAILED, _SANDBOX),
    "FailedPrepareDynamicResources": (Reason.LAUNCH_FAILED, "its devices cannot be prepared yet"),
    "FailedCreatePodContainer": (Reason.LAUNCH_FAILED, "its node cannot make its control groups"),
    "FailedSync": (Reason.LAUNCH_FAILED, "its node cannot start it yet"),
    "InspectFailed": (Reason.IMAGE_ERROR, "its image cannot be used yet"),
}


def progress(facts: PodFacts, events: Iterable[EventFacts]) -> str:
    """Say how far a pod without trouble has come."""
    if facts.started or facts.phase not in ("Pending", "Running"):
        return ""
    if not facts.scheduled:
        return "no scheduler has looked at it yet"
    for each in facts.containers:
        if each.kind == "init" and each.state == "running":
            return (
                "it receives its job directory"
                if each.name == layout.STAGE
                else f"its init container {each.name!r} runs"
            )
    if (pulling := _pulling(own(facts, events))) is not None:
        return one_line(pulling.message[0].lower() + pulling.message[1:])
    return f"it is being started on node {facts.node}" if facts.node else "it is being started"


def _pulling(events: list[EventFacts]) -> EventFacts | None:
    latest = next(
        (each for each in reversed(events) if each.reason in ("Pulling", "Pulled", "Created", "Started")), None
    )
    return latest if latest is not None and latest.reason == "Pulling" and latest.message else None


def is_pulling(facts: PodFacts, events: Iterable[EventFacts]) -> bool:
    """Whether an image is being pulled just now."""
    return _pulling(own(facts, events)) is not None
