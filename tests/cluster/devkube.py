"""A cluster of one node on this machine, from nothing and back: etcd, the control plane, containerd and a kubelet."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import psutil

from ..machine import images
from ..machine.common import (
    CACHE,
    CGROUPS,
    PATH,
    Unprovided,
    claim_folder,
    control_groups,
    end_all,
    members,
    processes_naming,
    remove_groups,
    unmount_below,
    wait_until,
)
from . import binaries, keys, settings
from .api import Api, ApiError
from .parts import Parts
from .settings import NODE, Place

# Ports below those that the kernel gives to connections, which would take one while a part starts anew.
_PORTS = range(18000, 32000)
CLUSTERS = CACHE / "cluster"
_LOGS = Path("/var/log/containers")


class Devkube:
    """A cluster of our own, from ``open`` to ``close``; the folder is ours as long as the lock is open."""

    def __init__(self, place: Place, lock: IO[str]) -> None:
        self.place, self._lock = place, lock
        self.parts = Parts(place.folder / "parts")

    def open(self) -> None:
        """Start it with nothing of an earlier session, however that ended; Unprovided, in words, when it does not."""
        self._clear()
        for folder in (self.place.run_dir, self.place.pki):
            folder.mkdir(parents=True)
        self.place.save()
        self._write_settings()
        self._add_bridge()
        self._add_groups()
        commands = settings.commands(self.place)
        for name in ("etcd", "apiserver", "containerd", "forward"):
            self.parts.start(name, commands[name])
        self._wait_for("containerd", self._runtime_answers)
        self._import_images()
        with contextlib.closing(Api(self.place.kubeconfig)) as api:
            self._wait_for("apiserver", lambda: is_ready(api))
            for name in ("controller-manager", "scheduler", "kubelet"):
                self.parts.start(name, commands[name])
            self._wait_for("kubelet", lambda: _has_ready_node(api))
            path = "/api/v1/namespaces/default/serviceaccounts/default"
            self._wait_for("controller-manager", lambda: _exists(api, path))

    def close(self) -> None:
        """End every process and container, and leave no mount, network, control group or data."""
        if self._lock.closed:
            return
        with self._lock:
            self._clear()

    def _write_settings(self) -> None:
        place = self.place
        tokens = keys.create(place.pki, ["127.0.0.1", place.service, place.gateway])
        files = {
            place.kubeconfig: settings.kubeconfig(place, "admin", tokens["admin"]),
            place.node_kubeconfig: settings.kubeconfig(place, "node", tokens["node"]),
            place.folder / "kubelet.json": settings.kubelet(place),
            place.folder / "cni" / "10-bridge.conflist": settings.network(place),
        }
        for file, content in files.items():
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps(content, indent=1))
        (place.folder / "containerd.toml").write_text(settings.containerd(place))

    def _add_bridge(self) -> None:
        place = self.place
        _ip("link", "add", place.bridge, "type", "bridge")
        _ip("address", "add", f"{place.gateway}/16", "dev", place.bridge)
        # The API server's address for pods is in a network of its own, where port 443 is free.
        _ip("netns", "add", place.name)
        outside, inside = f"{place.bridge}-api", ("-netns", place.name)
        _ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", place.name)
        _ip("link", "set", outside, "master", place.bridge)
        _ip(*inside, "address", "add", f"{place.service}/16", "dev", "eth0")
        _ip(*inside, "link", "set", "eth0", "up")
        for link in (place.bridge, outside):
            _ip("link", "set", link, "up")

    def _add_groups(self) -> None:
        """Add the control group that holds all pods; in the first version, one in each hierarchy."""
        unified = (CGROUPS / "cgroup.controllers").exists()
        for parent in [CGROUPS] if unified else [each for each in CGROUPS.iterdir() if (each / "tasks").exists()]:
            group = parent / self.place.name
            group.mkdir(exist_ok=True)
            for file in ("cpuset.cpus", "cpuset.mems"):
                if (group / file).exists() and not unified:
                    (group / file).write_text((parent / file).read_text())
            if unified:
                controllers = (parent / "cgroup.controllers").read_text().split()
                with contextlib.suppress(OSError):
                    (group / "cgroup.subtree_control").write_text(" ".join(f"+{each}" for each in controllers))

    def _import_images(self) -> None:
        with tempfile.TemporaryDirectory(dir=self.place.folder) as scratch:
            for image in binaries.IMAGES:
                file = Path(scratch) / "image.tar"
                images.write_archive(image, file)
                ctr(self.place, "images", "import", str(file))

    def _runtime_answers(self) -> bool:
        with contextlib.suppress(Unprovided):
            return self.place.runtime.exists() and bool(ctr(self.place, "version"))
        return False

    def _wait_for(self, part: str, true: object) -> None:
        assert callable(true)

        def check() -> bool:
            if self.parts.process(part) is None:
                raise Unprovided(f"the cluster does not start: {self.parts.last_words(part)}")
            return bool(true())

        wait_until(check, lambda: f"the cluster does not start: {self.parts.last_words(part)}", deadline=180)

    def _clear(self) -> None:
        """Clear what is left, of this session or a dead one: processes first, then what they hold."""
        place = self.place
        groups = control_groups(place.name)
        # The kubelet and the controllers first, lest they start what is ended here.
        end_all(self._processes("devkube"), signal.SIGKILL)
        end_all(self._processes("containerd"), signal.SIGKILL)
        end_all(self._processes("containerd", "runc", "ctr"), signal.SIGKILL)
        end_all(members(groups), signal.SIGKILL)
        unmount_below(place.folder, place.run_dir)
        remove_groups(groups)
        for link in (f"{place.bridge}-api", place.bridge):
            if Path("/sys/class/net", link).exists():
                _ip("link", "delete", link)
        if Path("/run/netns", place.name).exists():
            _ip("netns", "delete", place.name)
        links = _LOGS.iterdir() if _LOGS.is_dir() else ()
        results = Path("/var/lib/cni/results").glob(f"{place.name}-*")
        for file in [link for link in links if str(place.folder) in str(link.readlink())] + list(results):
            file.unlink(missing_ok=True)
        shutil.rmtree(place.run_dir, ignore_errors=True)
        for each in place.folder.iterdir():
            if each.name != "lock":
                shutil.rmtree(each) if each.is_dir() else each.unlink()

    def _processes(self, *names: str) -> Iterator[psutil.Process]:
        place = self.place
        return processes_naming([f"{place.run_dir}/", f"{place.folder}/", f"/run/netns/{place.name} "], names)


def start() -> Devkube:
    """Start a cluster in the first folder of the cache that no other process has now."""
    binaries.check_machine()
    programs = binaries.build_all()
    for stale in CLUSTERS.glob("cluster-*"):
        sweep(stale)
    folder, number, lock = claim_folder("cluster/cluster")
    if number > 50:
        raise Unprovided("there are too many clusters on this machine")
    ports = _free_ports(6)
    cluster = Devkube(
        Place(
            number=number,
            folder=folder,
            run_dir=Path(f"/run/siteward-k8s-{number}"),
            programs=programs,
            api_port=ports[0],
            etcd_port=ports[1],
            etcd_peer_port=ports[2],
            controllers_port=ports[3],
            scheduler_port=ports[4],
            kubelet_port=ports[5],
        ),
        lock,
    )
    try:
        cluster.open()
    except BaseException:
        cluster.close()
        raise
    return cluster


def sweep(folder: Path) -> None:
    """Clear what a cluster left whose process has died; without a word where its folder is in use, or empty."""
    place = Place.load(folder)
    with (folder / "lock").open("w") as lock, contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if place is not None:
            Devkube(place, lock).close()


def ctr(place: Place, *arguments: str) -> str:
    """Ask the node's containerd, and return what its client prints; Unprovided with what it says otherwise."""
    command = [place.programs / "ctr", "--address", place.runtime, "--namespace", "k8s.io", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise Unprovided(f"ctr {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def is_ready(api: Api) -> bool:
    """Whether the API server answers and can work."""
    try:
        return api.text("/readyz") == "ok"
    except (OSError, ApiError):
        return False


def _exists(api: Api, path: str) -> bool:
    try:
        api.get(path)
    except ApiError:
        return False
    return True


def _has_ready_node(api: Api) -> bool:
    try:
        conditions = api.get(f"/api/v1/nodes/{NODE}")["status"].get("conditions", ())
    except ApiError:
        return False
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _free_ports(count: int) -> list[int]:
    # Two clusters that start at once begin to look at different places.
    first = os.getpid() * count % len(_PORTS)
    found = []
    for port in [*_PORTS[first:], *_PORTS[:first]]:
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.append(port)
        if len(found) == count:
            return found
    raise Unprovided("there are no free ports")


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], env={**os.environ, "PATH": PATH}, capture_output=True, text=True)
    if done.returncode != 0:
        raise Unprovided(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
