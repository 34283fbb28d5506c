"""Requests to one Docker engine, and every error of theirs in our words: the one place where that is done.

docker-py finds the engine and owns how it is connected to (contexts, TLS, ssh, proxies); of what its own calls would
take, most would go into finding that out anew for each.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from siteward import Unreachable
from siteward_docker.errors import refusal, unreachable

if TYPE_CHECKING:
    import docker
    import urllib3

TIMEOUT = 60
# Idle connections that are kept; urllib3 logs a warning for each one more.
_KEPT = 64
_NOT_MODIFIED = 304
_NOTHING: Mapping[str, str] = {}
_JSON = {"Content-Type": "application/json"}

Params = Mapping[str, Any]
Body = Mapping[str, Any] | bytes | Iterable[bytes] | None


class Connection:
    """One engine. Any thread may ask; it is connected to when first asked, and again after it was away."""

    def __init__(self, host: str | None) -> None:
        self._host = host
        self._lock = threading.Lock()
        self._route: _Route | None = None

    @property
    def address(self) -> str:
        """Where the engine is, in words."""
        return self._host or os.environ.get("DOCKER_HOST") or _context_host() or "unix:///var/run/docker.sock"

    @property
    def api(self) -> docker.APIClient:
        """docker-py's client, for what it knows besides: credentials of registries."""
        with self.translating():
            return self._connected().api

    def ask(self, method: str, path: str, params: Params | None = None, *, body: Body = None) -> Any:
        """Ask, and return the answer's JSON. A mapping is sent as JSON, anything else as it is."""
        with self.translating():
            return json.loads(self._connected().open(method, path, params, body=body).data)

    def tell(
        self, method: str, path: str, params: Params | None = None, *, body: Body = None, silence: float = TIMEOUT
    ) -> None:
        """Ask for something to which the answer is that it has been done, in ``silence`` seconds."""
        with self.translating():
            self._connected().open(method, path, params, body=body, silence=silence)

    def stream(
        self,
        method: str,
        path: str,
        params: Params,
        *,
        headers: Mapping[str, str] = _NOTHING,
        silence: float | None = TIMEOUT,
    ) -> urllib3.BaseHTTPResponse:
        """Ask, and return the answer unread: it is to be read in ``translating()``.

        ``silence`` is how many seconds the engine may say nothing, None for ever.
        """
        with self.translating():
            return self._connected().open(method, path, params, headers=headers, silence=silence, preload=False)

    def _connected(self) -> _Route:
        with self._lock:
            if self._route is None:
                self._route = _Route(_client(self._host))
            return self._route

    @contextmanager
    def translating(self) -> Iterator[None]:
        """Translate every error of docker-py, requests, urllib3 and the network."""
        from docker.errors import DockerException
        from urllib3.exceptions import HTTPError

        try:
            yield
        except (DockerException, HTTPError, OSError) as error:  # requests' errors are OSErrors
            raise unreachable(error, self.address) from error
        except ValueError as error:  # an answer cut short in the middle of its JSON
            raise Unreachable(f"the Docker engine {self.address} gave half an answer: {error}") from error

    def close(self) -> None:
        """Let go of all connections."""
        with self._lock:
            if self._route is not None:
                self._route.api.close()
            self._route = None


class _Route:
    """The way of requests to an engine, as docker-py and requests would have it."""

    def __init__(self, api: docker.APIClient) -> None:
        import requests
        from docker.utils.config import load_general_config

        self.api = api
        url = f"{api.base_url}/v{api.api_version}"
        self._base = api.prepare_request(requests.Request("GET", url))
        settings = api.merge_environment_settings(url, {}, None, None, None)
        self._proxies, self._verify, self._cert = (settings[each] for each in ("proxies", "verify", "cert"))
        adapter: Any = api.get_adapter(url)
        self._adapter = adapter
        self._prefix = adapter.request_url(self._base, self._proxies)
        own = load_general_config().get("HttpHeaders", {})
        # The engine would compress archives, which costs more than it saves on most ways.
        self._headers = {**self._base.headers, "Accept-Encoding": "identity", **own}

    def open(
        self,
        method: str,
        path: str,
        params: Params | None,
        *,
        body: Body = None,
        headers: Mapping[str, str] = _NOTHING,
        silence: float | None = TIMEOUT,
        preload: bool = True,
    ) -> urllib3.BaseHTTPResponse:
        """Send a request and return its answer, which is no error; ``preload`` says whether to read all of it."""
        import urllib3

        if isinstance(body, Mapping):
            body, headers = json.dumps(body).encode(), _JSON
        # Asked for each time, as only the adapter knows which connections may be used again.
        pool = self._adapter.get_connection_with_tls_context(
            self._base, self._verify, proxies=self._proxies, cert=self._cert
        )
        self._adapter.cert_verify(pool, self._base.url, self._verify, self._cert)
        response: urllib3.BaseHTTPResponse = pool.urlopen(
            method,
            f"{self._prefix}/{path}" + (f"?{urlencode(params)}" if params else ""),
            body,
            {**self._headers, **headers},
            retries=False,
            assert_same_host=False,
            timeout=urllib3.Timeout(connect=TIMEOUT, read=silence),
            preload_content=preload,
        )
        if not (200 <= response.status < 300 or response.status == _NOT_MODIFIED):
            raise refusal(response.status, response.data)
        return response


def _client(host: str | None) -> docker.APIClient:
    """Connect as the docker command does: the site's own choice, DOCKER_HOST, the current context."""
    import docker
    from docker.context import ContextAPI
    from docker.utils import kwargs_from_env

    where: dict[str, Any] = {**kwargs_from_env()}
    if host is not None:
        where["base_url"] = host
    elif "base_url" not in where:
        context = ContextAPI.get_current_context()
        if context is not None and context.Host:
            where = {"base_url": context.Host, "tls": context.TLSConfig or False}
    ssh = str(where.get("base_url", "")).startswith("ssh://")
    return docker.APIClient(version="auto", timeout=TIMEOUT, max_pool_size=_KEPT, use_ssh_client=ssh, **where)


def _context_host() -> str | None:
    from docker.context import ContextAPI

    with suppress(Exception):  # whatever is wrong with it is told when it is used
        return str(ContextAPI.get_current_context().Host)
    return None
