"""What the API server's refusals and silences are called here, and the one place where they get their words.

::

    BackendError
    ├── Refused                 the API server said no (4xx), and nothing was changed
    │   ├── Missing             404: there is no such object
    │   ├── Exists              409: there is one of this name
    │   ├── Conflict            409: it is not, or no longer, as was supposed
    │   ├── Gone                410: what was asked about is too long ago
    │   └── Forbidden           403: permissions, admission, quota
    └── Unreachable             nobody knows whether it was done
        ├── Failing             5xx: the API server has trouble of its own
        └── NotSent             surely not done: no connection, no configuration
            ├── Throttled       429: too many requests
            ├── Unauthorized    401: the credentials are not, or no longer, accepted
            └── Closed          this backend asks nothing any more

What is not sure is :class:`~siteward.Unreachable`: it never means that a job or its pod has ended.
"""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from siteward import BackendError, Unreachable

_MOST_WORDS = 2000
_ANONYMOUS = 'User "system:anonymous"'


class Refused(BackendError):
    """The API server said no, and nothing was changed.

    ``code`` is HTTP's, ``reason`` the API's word for it (``Invalid``, ``AlreadyExists``), ``message`` its own words,
    and ``field_errors`` pairs of field path and message of what it found wrong in an object.
    """

    code = 400
    reason = ""
    message = ""
    field_errors: tuple[tuple[str, str], ...] = ()


class Missing(Refused):
    """There is no such object, or no longer."""


class Exists(Refused):
    """There is an object of this name already."""


class Conflict(Refused):
    """The object is not, or no longer, as was supposed: another resource version, or another uid."""


class Gone(Refused):
    """The resource version is too old to go on from: list anew."""


class Forbidden(Refused):
    """Permissions, an admission plugin or a quota forbid it."""


class Failing(Unreachable):
    """The API server has trouble of its own (5xx): it may or may not have done what was asked."""

    code = 500
    retry_after: float | None = None


class NotSent(Unreachable):
    """What was to be asked has surely not been done."""


class Throttled(NotSent):
    """The API server has too much to do; ``retry_after`` is in seconds, None when it did not say."""

    retry_after: float | None = None


class Unauthorized(NotSent):
    """The credentials are not, or no longer, accepted."""


class Closed(NotSent):
    """The site was closed, and asks nothing any more."""


def refusal(code: int, headers: Mapping[str, str], body: bytes, what: str) -> Refused | Unreachable:
    """Return an answer that is an error as the error to raise; ``what`` was asked, in words ("create pods")."""
    status = _status(body)
    words = str(status.get("message") or "").strip()[:_MOST_WORDS] or f"the answer was {code}"
    if code == 401 or (code == 403 and _ANONYMOUS in words):
        return Unauthorized(
            f"cannot {what}: the credentials are not accepted ({code}). Renew them, or check the user of this context"
            " in the kubeconfig (kubectl auth whoami)"
        )
    if code == 429:
        throttled = Throttled(f"cannot {what} now: the API server has too much to do: {words}")
        throttled.retry_after = _retry_after(headers)
        return throttled
    if code < 400 or (code >= 500 and "failed calling webhook" not in words):
        failing = Failing(f"cannot {what}: the API server has trouble of its own ({code}): {words}")
        failing.code, failing.retry_after = code, _retry_after(headers)
        return failing
    return _refused(code, status, words, what)


def _refused(code: int, status: Mapping[str, Any], words: str, what: str) -> Refused:
    reason = str(status.get("reason") or "")
    error = _kind(code, reason)(f"cannot {what}: {words.rstrip('.')}{_advice(code, words)}")
    error.code, error.reason, error.message = code, reason, words
    details = status.get("details") or {}
    causes = details.get("causes") or [] if isinstance(details, dict) else []
    error.field_errors = tuple((str(each.get("field", "")), str(each.get("message", ""))) for each in causes)
    return error


def _kind(code: int, reason: str) -> type[Refused]:
    if code == 409:
        return Exists if reason == "AlreadyExists" else Conflict
    return {404: Missing, 403: Forbidden, 410: Gone}.get(code, Refused)


def _advice(code: int, words: str) -> str:
    """Say what to do about a refusal."""
    if "exceeded quota" in words:
        return ". Ask for less, wait for other pods to end, or have the namespace's quota raised"
    if "violates PodSecurity" in words:
        return ". Let the site's security contexts fit the namespace's pod security level, or have that changed"
    if "strict decoding error" in words:
        return ". Correct it in the site's or the study's pod_template"
    if "is being terminated" in words:
        return ". Choose another namespace, or wait and create it anew"
    if code == 404 and words.startswith("namespaces "):
        return ". Create the namespace, or set another `namespace` in the site file"
    if code == 403 and " cannot " in words:
        return (
            ". Grant it in the Role that siteward's service account is bound to; `siteward doctor` lists what is used"
        )
    if "failed calling webhook" in words:
        return ". The cluster's administrator has to mend, or remove, that admission webhook"
    return ""


def unreachable(error: BaseException, address: str, what: str) -> Unreachable:
    """Return a failure of the network, or half an answer, as the error to raise."""
    from ssl import SSLCertVerificationError

    from urllib3.exceptions import ClosedPoolError, ConnectTimeoutError, NewConnectionError, ProxyError

    chain = list(_causes(error))
    cause = next((each for each in reversed(chain) if isinstance(each, OSError) and each.strerror), chain[-1])
    words = f"cannot {what}: the API server {address} cannot be reached: {_own_words(cause)}"
    if any(isinstance(each, SSLCertVerificationError) for each in chain):
        return NotSent(f"{words}. Check the server and certificate-authority of this cluster in the kubeconfig")
    if any(isinstance(each, (NewConnectionError, ConnectTimeoutError, ProxyError, ClosedPoolError)) for each in chain):
        return NotSent(f"{words}. Check that it runs, and the server's address in the kubeconfig")
    return Unreachable(words)


def _own_words(error: BaseException) -> str:
    strerror = getattr(error, "strerror", None)
    return str(strerror or error).strip() or type(error).__name__


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _status(body: bytes) -> dict[str, Any]:
    """Read the API's Status object; proxies answer with pages of their own."""
    with suppress(ValueError):
        status = json.loads(body)
        if isinstance(status, dict):
            return status
    return {"message": body.decode("utf-8", "replace")}


def _retry_after(headers: Mapping[str, str]) -> float | None:
    value = headers.get("Retry-After")
    if value is None:
        return None
    with suppress(ValueError):
        return max(0.0, float(value))
    with suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return None
