"""A registry on this machine, so that tests can pull."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .common import PATH, Unprovided

if TYPE_CHECKING:
    from ..engine.dockerd import Engine

USERNAME, PASSWORD = "puller", "let-me-pull"
_HTPASSWD = "$2b$04$eD6thcSlLRJ4T.YIWQ.BreUz0QuA63khxMuxQ2DAm5g5.U2NRtQly"  # bcrypt of the password
DEADLINE = 30.0


class Registry:
    """Debian's docker-registry on a port of its own; it keeps images in a folder. It asks for a login if ``closed``."""

    def __init__(self, folder: Path, *, closed: bool = False) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.address = "127.0.0.1:{1}".format(*listener.getsockname())
        self._folder, self.closed = folder, closed
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it listens; Unprovided when it is not installed."""
        program = shutil.which("docker-registry", path=PATH)
        if program is None:
            raise Unprovided("install Debian's package docker-registry")
        config = self._folder / "registry.json"
        config.write_text(json.dumps(self._config()))
        with (self._folder / "registry.log").open("ab") as log:
            self._process = subprocess.Popen(
                [program, "serve", config], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        host, _, port = self.address.partition(":")
        end = time.monotonic() + DEADLINE
        while True:
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection((host, int(port))):
                return
            assert self._process.poll() is None and time.monotonic() < end, (self._folder / "registry.log").read_text()
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop it; what was pushed stays in the folder."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(DEADLINE)

    def push(self, engine: Engine, image: str) -> str:
        """Push an image that the engine has, and return the name by which it can be pulled and is not there yet."""
        repository, _, tag = image.partition(":")
        name = f"{self.address}/{repository}"
        login = {"username": USERNAME, "password": PASSWORD} if self.closed else {}
        with engine.client() as api:
            api.tag(image, name, tag)
            for line in api.push(name, tag, stream=True, decode=True, auth_config=login):
                assert "error" not in line, line
            api.remove_image(f"{name}:{tag}")
        return f"{name}:{tag}"

    def _config(self) -> dict[str, object]:
        config: dict[str, object] = {
            "version": 0.1,
            "log": {"level": "warn"},
            "http": {"addr": self.address},
            "storage": {"filesystem": {"rootdirectory": str(self._folder / "storage")}},
        }
        if self.closed:
            logins = self._folder / "htpasswd"
            logins.write_text(f"{USERNAME}:{_HTPASSWD}\n")
            config["auth"] = {"htpasswd": {"realm": "siteward-test", "path": str(logins)}}
        return config


@contextlib.contextmanager
def serving(folder: Path, *, closed: bool = False) -> Iterator[Registry]:
    """Start a registry, and stop it at the end."""
    registry = Registry(folder, closed=closed)
    registry.start()
    try:
        yield registry
    finally:
        registry.stop()
