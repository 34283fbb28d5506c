"""Errors of talking with an engine, and what of urllib3, requests and docker-py becomes which of them.

BackendError
├── Missing
├── Conflict
└── Unreachable
    └── NotSent
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator

from siteward import BackendError, Unreachable

_NEVER_SENT = (FileNotFoundError, PermissionError, ConnectionRefusedError)


class Missing(BackendError):
    """The engine has no such container, image or file."""


class Conflict(BackendError):
    """What was asked does not fit the state in which something is: a name is taken, a container does not run."""


class NotSent(Unreachable):
    """The engine is not there, and knows nothing of what was to be asked."""


def refusal(status: int, answer: bytes) -> BackendError:
    """Return what an answer with an HTTP status that is no success says, in the engine's own words."""
    try:
        words = str(json.loads(answer)["message"]).strip()
    except (ValueError, TypeError, LookupError):
        words = answer.decode(errors="replace").strip()
    kind = {404: Missing, 409: Conflict}.get(status, BackendError)
    return kind(words or f"the Docker engine answers with HTTP status {status}")


def unreachable(error: Exception, address: str) -> Unreachable:
    """Return what an error of a connection means: NotSent when the engine cannot know of what was to be asked."""
    words = f"the Docker engine {address} cannot be reached: {_root_cause(error)}"
    # docker-py leaves a socket that it could not connect to whoever keeps the error.
    for each in _causes(error):
        traceback.clear_frames(each.__traceback__)
    if _was_never_sent(error):
        return NotSent(f"{words}. Start it, or set docker_host in the site file")
    return Unreachable(words)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and everything behind it; urllib3 and requests keep causes in ``args`` and ``reason`` too."""
    seen: set[int] = set()
    left = [error]
    while left:
        each = left.pop()
        if isinstance(each, BaseException) and id(each) not in seen:
            seen.add(id(each))
            yield each
            left += [each.__cause__, each.__context__, getattr(each, "reason", None), *each.args]


def _was_never_sent(error: BaseException) -> bool:
    from urllib3.exceptions import NewConnectionError

    return any(isinstance(each, (*_NEVER_SENT, NewConnectionError)) for each in _causes(error))


def _root_cause(error: BaseException) -> str:
    *_, last = _causes(error)
    system = [each for each in _causes(error) if isinstance(each, OSError) and each.strerror]
    return str(system[0].strerror if system else last) or type(last).__name__
