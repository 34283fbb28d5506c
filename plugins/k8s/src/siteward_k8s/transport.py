"""Requests to one API server: tried again where that is harmless, errors translated, credentials renewed."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlencode
from weakref import WeakSet

from siteward import Unreachable
from siteward_k8s.connection import Connection, Where, connect
from siteward_k8s.errors import Closed, Failing, NotSent, Throttled, Unauthorized, refusal, unreachable
from siteward_k8s.streams import Stream

CONNECT_WITHIN = 5.0
_ANSWER_WITHIN = 30.0
_ATTEMPTS = 5
_TRY_FOR = 30.0
_FIRST_PAUSE = 0.2
# Credentials that were refused when they were new are not read anew for each request.
_NEW = 5.0

Params = Mapping[str, Any]


class Breakable(Protocol):
    """Something that is under way."""

    def hang_up(self) -> None:
        """Break it off; any thread may."""


Open = TypeVar("Open", bound=Breakable)


class Transport:
    """Asks one API server; any thread may. It reads the configuration when it is first used."""

    def __init__(self, where: Where, base_dir: Path) -> None:
        self._where = where
        self._base_dir = base_dir
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._connected_at = 0.0
        self._closed = threading.Event()
        self._open: WeakSet[Breakable] = WeakSet()

    def connected(self) -> Connection:
        """Return the connection as it is now."""
        connection = self._connection
        if connection is not None:
            return connection
        with self._lock:
            if self._closed.is_set():
                raise Closed("the site was closed, and asks nothing of the cluster any more; load it again")
            if self._connection is None:
                self._connection = connect(self._where, self._base_dir)
                self._connected_at = time.monotonic()
            return self._connection

    def renew(self, refused: Connection) -> bool:
        """Read the credentials anew after they were refused; False when they are new already."""
        with self._lock:
            if self._connection is refused:
                if time.monotonic() - self._connected_at < _NEW:
                    return False
                self._connection = None
        return True

    def close(self) -> None:
        """Let go of all connections, also where something is under way; nothing is asked any more."""
        self._closed.set()
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None
            under_way = list(self._open)
        for each in under_way:
            each.hang_up()

    def breaks(self, answer: Open) -> Open:
        """Have something that takes long break off when this is closed; return it."""
        with self._lock:
            self._open.add(answer)
        if self._closed.is_set():
            answer.hang_up()
        return answer

    # --- requests -------------------------------------------------------------------------------------------

    def ask(
        self,
        method: str,
        path: str,
        what: str,
        *,
        params: Params | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        """Ask, and return the answer's object.

        Throttled requests are sent again for half a minute, and so are others than POST after 5xx and broken
        connections. A POST whose answer is lost is Unreachable, not NotSent: it may have been done.
        """
        target = f"{path}?{urlencode(params)}" if params else path
        data = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        until = time.monotonic() + _TRY_FOR
        renewed = False
        for attempt in range(_ATTEMPTS):
            connection = self.connected()
            try:
                answer = self._send(connection, method, target, what, data, content_type)
                break
            except Unauthorized:
                if renewed or attempt + 1 == _ATTEMPTS or not self.renew(connection):
                    raise
                renewed = True
            except Unreachable as error:
                pause = pause_before_next(error, attempt, method != "POST")
                if pause is None or attempt + 1 == _ATTEMPTS or time.monotonic() + pause > until:
                    raise
                if self._closed.wait(pause):
                    raise
        try:
            found: dict[str, Any] = json.loads(answer.decode()) if answer else {}
        except ValueError as error:
            raise Unreachable(f"cannot {what}: {connection.address} gave half an answer") from error
        return found

    def _send(
        self, connection: Connection, method: str, target: str, what: str, data: bytes | None, content_type: str
    ) -> bytes:
        headers = {"Accept": "application/json", **connection.authorization()}
        if data is not None:
            headers["Content-Type"] = content_type
        response = _open(connection, method, target, what, _ANSWER_WITHIN, headers=headers, body=data)
        answer: bytes = response.data
        if not 200 <= response.status < 300:
            raise refusal(response.status, response.headers, answer, what)
        return answer

    def stream(self, path: str, what: str, *, params: Params, silence: float) -> Stream:
        """Open an answer that is read for long; Unreachable comes when it says nothing for ``silence`` seconds."""
        for renewed in (False, True):
            connection = self.connected()
            headers = {"Accept": "*/*", **connection.authorization()}
            target = f"{path}?{urlencode(params)}"
            response = _open(connection, "GET", target, what, silence, headers=headers, preload_content=False)
            if 200 <= response.status < 300:
                break
            with Stream(response, connection.address, what) as answer:
                error = refusal(response.status, response.headers, b"".join(answer), what)
            if renewed or not isinstance(error, Unauthorized) or not self.renew(connection):
                raise error
        return self.breaks(Stream(response, connection.address, what))


def _open(connection: Connection, method: str, target: str, what: str, silence: float, **options: Any) -> Any:
    import urllib3

    timeout = urllib3.Timeout(connect=CONNECT_WITHIN, read=silence)
    try:
        return connection.open(method, target, timeout=timeout, **options)
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        raise unreachable(error, connection.address, what) from error


def pause_before_next(error: Unreachable, attempt: int, harmless: bool) -> float | None:
    """Return the seconds to wait before a request is sent again; None when it must not be.

    ``attempt`` counts from 0; ``harmless`` says that it may be done twice.
    """
    if isinstance(error, Throttled) or (harmless and isinstance(error, Failing)):
        longest = _FIRST_PAUSE * 2**attempt
        return (error.retry_after or 0) + random.uniform(longest / 2, longest)  # noqa: S311
    if isinstance(error, NotSent) or not harmless:
        return None
    # A connection was cut off in the middle of it: the next one is a new one.
    return 0.0 if attempt == 0 else None
