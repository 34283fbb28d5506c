"""A Docker engine for tests: one that is there, or one of our own, which tests may stop, kill and start again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import psutil

from ..machine.common import (
    DEADLINE,
    PATH,
    Unprovided,
    claim_folder,
    control_groups,
    end_all,
    members,
    processes_naming,
    remove_groups,
    unmount_below,
)

if TYPE_CHECKING:
    import docker

DAEMONS = ("dockerd", "containerd")


class Engine:
    """An engine that belongs to somebody else: tests leave it as they find it."""

    own = False

    def __init__(self, host: str) -> None:
        self.host = host

    def client(self) -> docker.APIClient:
        """Connect anew; use it in a ``with``, which closes it."""
        import docker

        return docker.APIClient(base_url=self.host, version="auto", timeout=300)

    def answers(self) -> bool:
        """Whether it takes questions now; only asked of an engine with a unix socket."""
        # Not with docker-py, which leaves a socket open whenever it cannot connect.
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            try:
                connection.connect(self.host.removeprefix("unix://"))
                connection.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                return b" 200 OK" in connection.recv(64)
            except OSError:
                return False

    def close(self) -> None:
        """Let go of it."""


class OwnEngine(Engine):
    """A dockerd whose socket, state and cgroup are its own; its data, and so its images, stay in ``folder``.

    ``settings`` are added to dockerd's configuration file. The folder is ours as long as ``lock`` is open.
    """

    own = True

    def __init__(self, folder: Path, lock: IO[str], settings: dict[str, Any]) -> None:
        # Not in the cache: a socket's path must fit into 108 bytes.
        self.run_dir = Path("/run") / f"siteward-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"
        self.socket = self.run_dir / "docker.sock"
        super().__init__(f"unix://{self.socket}")
        self.folder, self.log = folder, folder / "dockerd.log"
        self._lock, self._settings = lock, settings
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id of dockerd while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    # --- what tests do to it --------------------------------------------------------------------------------

    def start(self) -> None:
        """Start dockerd and wait until it answers; Unprovided, with the end of its log, when it does not."""
        self.run_dir.mkdir(exist_ok=True)
        config = self.run_dir / "daemon.json"
        config.write_text(json.dumps(self._config()))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["dockerd", "--config-file", config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PATH": PATH},
                start_new_session=True,  # an interrupt at the terminal is for the tests alone
            )
        end = time.monotonic() + DEADLINE
        while not self.answers():
            if self.pid is None or time.monotonic() > end:
                raise Unprovided(f"dockerd does not start: {self.log.read_text(errors='replace')[-500:].strip()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End dockerd as a service manager does; its containers end too, unless the setting live-restore is on."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End dockerd with SIGKILL; its containers run on."""
        self._end(signal.SIGKILL)

    @contextlib.contextmanager
    def without_socket(self) -> Iterator[None]:
        """Take the socket away for a while; the engine and its containers run on."""
        aside = self.socket.rename(self.socket.with_suffix(".aside"))
        try:
            yield
        finally:
            aside.rename(self.socket)

    # --- from nothing and back ------------------------------------------------------------------------------

    def open(self) -> None:
        """Start without a container, volume or network of an earlier session, however that ended."""
        self._clear()
        self.log.unlink(missing_ok=True)
        self.start()
        self._remove_all()

    def close(self) -> None:
        """Remove everything but the images, stop, and wait until no process and no mount is left."""
        if self._lock.closed:
            return
        with self._lock:
            try:
                if self.answers():
                    self._remove_all()
            finally:
                self.stop()
                self._clear()

    def _config(self) -> dict[str, Any]:
        return {
            "data-root": str(self.folder / "root"),
            "exec-root": str(self.run_dir / "exec"),
            "pidfile": str(self.run_dir / "docker.pid"),
            "hosts": [self.host],
            # The machine's own network stays as it is.
            "bridge": "none",
            "iptables": False,
            "ip-forward": False,
            # What a killed engine leaves behind is found by its cgroup.
            "cgroup-parent": f"/{self.run_dir.name}",
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            **self._settings,
        }

    def _remove_all(self) -> None:
        from docker.errors import APIError

        with self.client() as api:
            for container in api.containers(all=True):
                with contextlib.suppress(APIError):
                    api.remove_container(container["Id"], force=True, v=True)
            api.prune_volumes()
            api.prune_networks()

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            try:
                self._process.wait(DEADLINE)
            except subprocess.TimeoutExpired:  # dockerd may hang as it ends
                self._process.kill()
                self._process.wait(DEADLINE)
        end_all((each for each in self._daemons() if each.name() in DAEMONS), number)
        # The next dockerd takes a process id in these for a daemon that runs, even if it is a zombie's by now.
        for file in ("docker.pid", "exec/containerd/containerd.pid"):
            (self.run_dir / file).unlink(missing_ok=True)

    def _clear(self) -> None:
        """Clear what a dead engine left: daemons, shims, containers, mounts, cgroups and folders, but no data."""
        groups = control_groups(self.run_dir.name)
        end_all([*self._daemons(), *members(groups)], signal.SIGKILL)
        unmount_below(self.folder, self.run_dir)
        remove_groups(groups)
        shutil.rmtree(self.run_dir, ignore_errors=True)

    def _daemons(self) -> Iterator[psutil.Process]:
        """Find dockerd, containerd, the shims and runc by our folder in their command lines."""
        return processes_naming([f"{self.run_dir}/"], (*DAEMONS, "runc"))


def own_engine(**settings: Any) -> OwnEngine:
    """Start an engine of our own, in the first folder of the cache that no other process has now.

    Settings are those of dockerd's configuration file, with ``_`` for ``-``: ``live_restore=True``.
    """
    if os.geteuid() != 0 or shutil.which("dockerd", path=PATH) is None:
        raise Unprovided("run as root with Debian's package docker.io, or name an engine in SITEWARD_TEST_DOCKER_HOST")
    folder, _number, lock = claim_folder("docker/engine")
    engine = OwnEngine(folder, lock, {name.replace("_", "-"): value for name, value in settings.items()})
    try:
        engine.open()
    except BaseException:
        engine.close()
        raise
    return engine


def find_engine() -> Engine:
    """Return the engine that SITEWARD_TEST_DOCKER_HOST names, else the user's own if it answers, else one of ours."""
    if named := os.environ.get("SITEWARD_TEST_DOCKER_HOST"):
        return Engine(named)
    for host in (os.environ.get("DOCKER_HOST"), "unix:///var/run/docker.sock"):
        # Jobs' folders are mounted into containers, so the engine must be on this machine.
        if host is not None and host.startswith("unix://") and Engine(host).answers():
            return Engine(host)
    return own_engine()
