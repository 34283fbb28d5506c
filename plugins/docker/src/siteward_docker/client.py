"""Talk with one Docker engine through docker-py: where it is, what is asked of it, and its errors in our words."""

from __future__ import annotations

import json
import math
import os
import struct
import threading
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from siteward import BackendError, LaunchRefused, Unreachable

if TYPE_CHECKING:
    import docker
    import requests

_TIMEOUT = 60
# An engine says nothing while it checks a large layer.
_PULL_SILENCE = 300
_CHUNK = 2**16
_LOG_HEADER = struct.Struct(">BxxxL")
_NEVER_SENT = (FileNotFoundError, PermissionError, ConnectionRefusedError)
_CONTAINER_EVENTS = ("start", "die", "oom", "destroy", "pause", "unpause")

Info = dict[str, Any]


class Missing(BackendError):
    """The engine has no such container, image or file."""


class Conflict(BackendError):
    """What was asked does not fit the state in which something is: a name is taken, a container does not run."""


class NotSent(Unreachable):
    """The engine is not there, and knows nothing of what was to be asked."""


def host_config(kwargs: Mapping[str, Any]) -> Info:
    """Return options of docker-py's ``HostConfig`` as the engine's API names them; TypeError or ValueError."""
    from docker.constants import DEFAULT_DOCKER_API_VERSION
    from docker.errors import DockerException
    from docker.types import HostConfig

    try:
        config = dict(HostConfig(DEFAULT_DOCKER_API_VERSION, **kwargs))
    except DockerException as error:
        raise ValueError(str(error)) from error
    if "network_mode" not in kwargs:
        config.pop("NetworkMode", None)
    return config


class Engine:
    """One engine. Any thread may ask; it is connected to when first asked, and again after it was away."""

    def __init__(self, host: str | None, logins: Mapping[str, tuple[str, str]]) -> None:
        self._host = host
        self._logins = logins
        self._lock = threading.Lock()
        self._api: docker.APIClient | None = None
        self._runtime: str | None = None

    @property
    def address(self) -> str:
        """Where the engine is, in words."""
        return self._host or os.environ.get("DOCKER_HOST") or _context_host() or "unix:///var/run/docker.sock"

    # --- connecting and errors ------------------------------------------------------------------------------

    def _connected(self) -> docker.APIClient:
        with self._lock:
            if self._api is None:
                self._api = self._connect()
            return self._api

    def _connect(self) -> docker.APIClient:
        """Connect as the docker command does: the site's own choice, DOCKER_HOST, the current context."""
        import docker
        from docker.context import ContextAPI
        from docker.utils import kwargs_from_env

        where: dict[str, Any] = {**kwargs_from_env()}
        if self._host is not None:
            where["base_url"] = self._host
        elif "base_url" not in where:
            context = ContextAPI.get_current_context()
            if context is not None and context.Host:
                where = {"base_url": context.Host, "tls": context.TLSConfig or False}
        ssh = str(where.get("base_url", "")).startswith("ssh://")
        return docker.APIClient(version="auto", timeout=_TIMEOUT, use_ssh_client=ssh, **where)

    @contextmanager
    def _asking(self) -> Iterator[docker.APIClient]:
        with self._translating():
            yield self._connected()

    @contextmanager
    def _translating(self) -> Iterator[None]:
        """Translate every error of docker-py, requests and the network: the one place where that is done."""
        import docker.errors
        import requests

        try:
            yield
        except docker.errors.NotFound as error:
            raise Missing(_explanation(error)) from error
        except docker.errors.APIError as error:
            raise _translated(error) from error
        except (docker.errors.DockerException, requests.RequestException, OSError) as error:
            words = f"the Docker engine {self.address} cannot be reached: {_root_cause(error)}"
            # docker-py leaves a socket that it could not connect to whoever keeps the error.
            for each in _causes(error):
                traceback.clear_frames(each.__traceback__)
            if _was_never_sent(error):
                raise NotSent(f"{words}. Start it, or set docker_host in the site file") from error
            raise Unreachable(words) from error
        except ValueError as error:  # an answer cut short in the middle of its JSON
            raise Unreachable(f"the Docker engine {self.address} gave half an answer: {error}") from error

    # --- containers -----------------------------------------------------------------------------------------

    def create(self, name: str, body: Mapping[str, Any]) -> str:
        """Create a container and return its id; Missing without its image, Conflict when the name is taken."""
        with self._asking() as api:
            created: Info = api.create_container_from_config(body, name)  # type: ignore[no-untyped-call]
            return str(created["Id"])

    def start(self, container: str) -> None:
        """Start a container; no error when it runs already."""
        with self._asking() as api:
            api.start(container)

    def inspect(self, container: str) -> Info:
        """Look at a container, uncached; Missing when there is none."""
        with self._asking() as api:
            found: Info = api.inspect_container(container)
            return found

    def containers(self, label: str) -> list[Info]:
        """List all containers with a label, ended ones too."""
        with self._asking() as api:
            found: list[Info] = api.containers(all=True, filters={"label": [label]})
            return found

    def kill(self, container: str, signal: str) -> None:
        """Send a signal; Conflict when the container does not run."""
        with self._asking() as api:
            api.kill(container, signal)

    def unpause(self, container: str) -> None:
        """Let a paused container go on."""
        with self._asking() as api:
            api.unpause(container)

    def wait(self, container: str, seconds: float) -> None:
        """Wait for a container's end; Unreachable when it has not come in time."""
        with self._asking() as api:
            api.wait(container, timeout=math.ceil(seconds))

    def remove(self, container: str) -> None:
        """Remove an ended container with its volumes; Conflict when it runs."""
        with self._asking() as api:
            api.remove_container(container, v=True)

    # --- streams --------------------------------------------------------------------------------------------

    def _get(self, path: str, params: Mapping[str, Any], timeout: float | None) -> requests.Response:
        with self._asking() as api:
            url = f"{api.base_url}/v{api.api_version}/{path}"
            return _checked(api.get(url, params=params, stream=True, timeout=(_TIMEOUT, timeout)))

    def events(self, label: str) -> NewsStream:
        """Subscribe to what happens to containers with a label."""
        filters = {"type": ["container"], "label": [label], "event": list(_CONTAINER_EVENTS)}
        return NewsStream(self, self._get("events", {"filters": json.dumps(filters)}, None))

    def logs(self, container: str, *, follow: bool, tail: int | None, since: str = "") -> LogStream:
        """Read a container's output, both streams, each piece with the time at which it was written."""
        params: dict[str, Any] = {"stdout": 1, "stderr": 1, "timestamps": 1, "follow": int(follow)}
        params |= {"tail": "all" if tail is None else tail} | ({"since": since} if since else {})
        return LogStream(self, self._get(f"containers/{container}/logs", params, None if follow else _TIMEOUT))

    def get_archive(self, container: str, path: str) -> Iterator[bytes]:
        """Yield a folder of a container as a tar stream whose first component is the folder's name."""
        with self._asking() as api:
            chunks, _stat = api.get_archive(container, path, chunk_size=_CHUNK)
            yield from chunks

    def put_archive(self, container: str, path: str, chunks: Iterable[bytes]) -> None:
        """Unpack a tar stream in a folder of a container."""
        with self._asking() as api:
            api.put_archive(container, path, chunks)

    def pull(self, image: str) -> Iterator[Info]:
        """Pull an image and yield what the engine says of it, errors too (key ``error``)."""
        from docker.auth import encode_header, get_config_header, resolve_repository_name
        from docker.utils import parse_repository_tag

        repository, tag = parse_repository_tag(image)
        registry, _name = resolve_repository_name(repository)
        login = self._logins.get(registry)
        with self._asking() as api:
            # docker-py's own pull waits for ever for a registry that does not answer.
            own = encode_header({"username": login[0], "password": login[1]}) if login else None
            header = own or get_config_header(api, registry)
            response = _checked(
                api.post(
                    f"{api.base_url}/v{api.api_version}/images/create",
                    params={"fromImage": repository, "tag": tag or "latest"},
                    headers={"X-Registry-Auth": header} if header else {},
                    stream=True,
                    timeout=(_TIMEOUT, _PULL_SILENCE),
                )
            )
        yield from NewsStream(self, response)

    # --- the engine itself ----------------------------------------------------------------------------------

    def version(self) -> Info:
        """Return what the engine says of its version."""
        with self._asking() as api:
            found: Info = api.version()
            return found

    def info(self) -> Info:
        """Return what the engine says of itself."""
        with self._asking() as api:
            found: Info = api.info()
            return found

    def default_runtime(self) -> str:
        """Return what the engine runs containers with; asked once."""
        if self._runtime is None:
            self._runtime = str(self.info().get("DefaultRuntime") or "")
        return self._runtime

    def networks(self) -> list[str]:
        """Return the names of the engine's networks."""
        with self._asking() as api:
            return [network["Name"] for network in api.networks()]

    def has_image(self, image: str) -> bool:
        """Whether the engine has an image."""
        try:
            with self._asking() as api:
                api.inspect_image(image)  # type: ignore[no-untyped-call]
        except Missing:
            return False
        return True

    def close(self) -> None:
        """Let go of all connections."""
        with self._lock:
            if self._api is not None:
                self._api.close()
            self._api = None


class _Stream:
    """A response that is read for long, and may be closed by another thread."""

    def __init__(self, engine: Engine, response: requests.Response) -> None:
        self._engine = engine
        self._response = response

    def _chunks(self) -> Iterator[bytes]:
        try:
            with self._engine._translating():
                yield from self._response.iter_content(None)
        finally:
            self._response.close()

    def close(self) -> None:
        """Stop: whoever reads, in any thread, sees the stream's end."""
        from docker.types import CancellableStream

        with suppress(AttributeError, OSError):  # it has ended by itself
            CancellableStream(iter(()), self._response).close()


class NewsStream(_Stream):
    """News, one JSON object a line: events (``Action``, ``Actor`` with id and labels), or a pull's progress."""

    def __iter__(self) -> Iterator[Info]:
        """Yield news until the stream ends; Unreachable when it breaks off."""
        rest = b""
        for chunk in self._chunks():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if line.strip():
                    with self._engine._translating():
                        news = json.loads(line)
                    yield news


class LogStream(_Stream):
    """Output, as (time, bytes): the time as the engine writes it, as many bytes as the job wrote at once."""

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        """Yield pieces until the output ends; Unreachable when the engine goes away."""
        rest = b""
        for chunk in self._chunks():
            data, at = rest + chunk, 0
            while len(data) - at >= _LOG_HEADER.size:
                _stream, length = _LOG_HEADER.unpack_from(data, at)
                begin = at + _LOG_HEADER.size
                if len(data) - begin < length:
                    break
                at = begin + length
                time, _, text = data[begin:at].partition(b" ")
                yield time.decode("ascii", "replace"), text
            rest = data[at:]


def _context_host() -> str | None:
    from docker.context import ContextAPI

    with suppress(Exception):  # whatever is wrong with it is told when it is used
        return str(ContextAPI.get_current_context().Host)
    return None


def _checked(response: requests.Response) -> requests.Response:
    """Return a response; docker-py's error if it is one."""
    from docker.errors import create_api_error_from_http_exception
    from requests import HTTPError

    try:
        response.raise_for_status()
    except HTTPError as error:
        create_api_error_from_http_exception(error)
    return response


def _translated(error: docker.errors.APIError) -> BackendError | LaunchRefused:
    words = _explanation(error)
    if error.status_code == 409 or error.status_code == 304:
        return Conflict(words)
    return BackendError(words)


def _explanation(error: docker.errors.APIError) -> str:
    return str(error.explanation or error).strip()


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
