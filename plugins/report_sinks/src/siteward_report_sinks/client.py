"""One delivery: a POST over HTTPS. Whatever may be secret in an address or a header appears in no message."""

from __future__ import annotations

import json
import ssl
from pathlib import Path
from typing import Any
from urllib.request import getproxies, proxy_bypass

import httpx
from attrs import frozen

from siteward_report_sinks.record import identity_of

# The receiver has read the report, and will never take it.
_NEVER = (400, 413, 415, 422)


class Undelivered(Exception):
    """The receiver could not be told; it may be another time. ``reached``: it answered, if not as it should."""

    def __init__(self, message: str, *, reached: bool = False) -> None:
        self.reached = reached
        super().__init__(message)


class NeverDelivered(Exception):
    """The receiver refuses this report as it is."""


@frozen(kw_only=True, repr=False)
class Receiver:
    """Whom to tell: the address, the headers, and whom to trust. ``repr`` shows the host alone."""

    url: httpx.URL
    headers: dict[str, str]
    ca_file: Path | None
    timeout: float

    @property
    def name(self) -> str:
        """The receiver as messages name it: scheme, host and port. Path and query may be a secret."""
        port = f":{self.url.port}" if self.url.port else ""
        return f"{self.url.scheme}://{self.url.host}{port}"

    def __repr__(self) -> str:
        return f"Receiver({self.name})"


class Client:
    """A connection to one receiver. It follows no redirect: that would carry the token to somebody else."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        context = ssl.create_default_context(cafile=None if receiver.ca_file is None else str(receiver.ca_file))
        # Not httpx.Client: it writes the whole address into the log.
        self._transport = httpx.HTTPTransport(verify=context, proxy=_proxy(receiver.url))

    def post(self, record: dict[str, Any]) -> None:
        """Deliver one report; Undelivered or NeverDelivered in words."""
        timeout = httpx.Timeout(self._receiver.timeout).as_dict()
        request = httpx.Request(
            "POST",
            self._receiver.url,
            headers={
                **self._receiver.headers,
                "Content-Type": "application/json",
                "Idempotency-Key": identity_of(record),
            },
            content=json.dumps(record).encode(),
            extensions={"timeout": timeout},
        )
        try:
            response = self._transport.handle_request(request)
            status = response.status_code
            response.close()
        except httpx.TransportError as error:
            raise Undelivered(f"{self._receiver.name}: {type(error).__name__}: {error}") from error
        if status in _NEVER:
            raise NeverDelivered(f"{self._receiver.name} answered {status}")
        if not 200 <= status < 300:
            raise Undelivered(f"{self._receiver.name} answered {status}", reached=True)

    def close(self) -> None:
        """Hang up."""
        self._transport.close()


def _proxy(url: httpx.URL) -> str | None:
    """Return the proxy that the environment names for this address (HTTPS_PROXY, NO_PROXY)."""
    proxies = getproxies()
    address = proxies.get("https") or proxies.get("all")
    return address if address and not proxy_bypass(url.host) else None
