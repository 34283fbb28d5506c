"""What is asked of a Docker engine, call by call."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from siteward_docker.connection import TIMEOUT, Connection
from siteward_docker.errors import Missing
from siteward_docker.streams import LogStream, NewsStream, Stream

# An engine says nothing while it checks a large layer.
_PULL_SILENCE = 300
_CONTAINER_EVENTS = ("start", "die", "oom", "destroy", "pause", "unpause")

Info = dict[str, Any]


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
    """One engine. Any thread may ask.

    Containers are named by their ids or names. Every call raises Missing for what there is not, Conflict for what is
    in another state, Unreachable when there is no answer, and BackendError for whatever else the engine says.
    """

    def __init__(self, host: str | None, logins: Mapping[str, tuple[str, str]]) -> None:
        self._connection = Connection(host)
        self._logins = logins
        self._runtime: str | None = None

    @property
    def address(self) -> str:
        """Where the engine is, in words."""
        return self._connection.address

    # --- containers -----------------------------------------------------------------------------------------

    def create(self, name: str, body: Mapping[str, Any]) -> str:
        """Create a container and return its id; Missing without its image, Conflict when the name is taken."""
        return str(self._connection.ask("POST", "containers/create", {"name": name}, body=body)["Id"])

    def start(self, container: str) -> None:
        """Start a container; no error when it runs already."""
        self._connection.tell("POST", f"containers/{container}/start")

    def inspect(self, container: str) -> Info:
        """Look at a container, uncached."""
        found: Info = self._connection.ask("GET", f"containers/{container}/json")
        return found

    def containers(self, label: str) -> list[Info]:
        """List all containers with a label, ended ones too."""
        found: list[Info] = self._connection.ask(
            "GET", "containers/json", {"all": 1, "filters": json.dumps({"label": [label]})}
        )
        return found

    def kill(self, container: str, signal: str) -> None:
        """Send a signal; Conflict when the container does not run."""
        self._connection.tell("POST", f"containers/{container}/kill", {"signal": signal})

    def unpause(self, container: str) -> None:
        """Let a paused container go on."""
        self._connection.tell("POST", f"containers/{container}/unpause")

    def wait(self, container: str, seconds: float) -> None:
        """Wait for a container's end; Unreachable when it has not come in time."""
        self._connection.tell("POST", f"containers/{container}/wait", silence=math.ceil(seconds))

    def remove(self, container: str) -> None:
        """Remove an ended container with its volumes; Conflict when it runs."""
        self._connection.tell("DELETE", f"containers/{container}", {"v": 1})

    # --- streams --------------------------------------------------------------------------------------------

    def events(self, label: str) -> NewsStream:
        """Subscribe to what happens to containers with a label."""
        filters = {"type": ["container"], "label": [label], "event": list(_CONTAINER_EVENTS)}
        response = self._connection.stream("GET", "events", {"filters": json.dumps(filters)}, silence=None)
        return NewsStream(self._connection, response)

    def logs(self, container: str, *, follow: bool, tail: int | None, since: str = "") -> LogStream:
        """Read a container's output, both streams, each piece with the time at which it was written."""
        params: dict[str, Any] = {"stdout": 1, "stderr": 1, "timestamps": 1, "follow": int(follow)}
        params |= {"tail": "all" if tail is None else tail} | ({"since": since} if since else {})
        path, silence = f"containers/{container}/logs", None if follow else TIMEOUT
        return LogStream(self._connection, self._connection.stream("GET", path, params, silence=silence))

    def get_archive(self, container: str, path: str) -> Iterator[bytes]:
        """Yield a folder of a container as a tar stream whose first component is the folder's name."""
        response = self._connection.stream("GET", f"containers/{container}/archive", {"path": path})
        return Stream(self._connection, response).chunks()

    def put_archive(self, container: str, path: str, chunks: Iterable[bytes]) -> None:
        """Unpack a tar stream in a folder of a container."""
        self._connection.tell("PUT", f"containers/{container}/archive", {"path": path}, body=chunks)

    def pull(self, image: str) -> Iterator[Info]:
        """Pull an image and yield what the engine says of it, errors too (key ``error``)."""
        from docker.auth import encode_header, get_config_header, resolve_repository_name
        from docker.utils import parse_repository_tag

        repository, tag = parse_repository_tag(image)
        registry, _name = resolve_repository_name(repository)
        login = self._logins.get(registry)
        own = encode_header({"username": login[0], "password": login[1]}) if login else None
        header = own or get_config_header(self._connection.api, registry)
        response = self._connection.stream(
            "POST",
            "images/create",
            {"fromImage": repository, "tag": tag or "latest"},
            headers={"X-Registry-Auth": header.decode()} if header else {},
            silence=_PULL_SILENCE,
        )
        yield from NewsStream(self._connection, response)

    # --- the engine itself ----------------------------------------------------------------------------------

    def version(self) -> Info:
        """Return what the engine says of its version."""
        found: Info = self._connection.ask("GET", "version")
        return found

    def info(self) -> Info:
        """Return what the engine says of itself."""
        found: Info = self._connection.ask("GET", "info")
        return found

    def default_runtime(self) -> str:
        """Return what the engine runs containers with; asked once."""
        if self._runtime is None:
            self._runtime = str(self.info().get("DefaultRuntime") or "")
        return self._runtime

    def networks(self) -> list[str]:
        """Return the names of the engine's networks."""
        return [network["Name"] for network in self._connection.ask("GET", "networks")]

    def has_image(self, image: str) -> bool:
        """Whether the engine has an image."""
        try:
            self._connection.ask("GET", f"images/{quote(image, safe='/:@')}/json")
        except Missing:
            return False
        return True

    def close(self) -> None:
        """Let go of all connections."""
        self._connection.close()
