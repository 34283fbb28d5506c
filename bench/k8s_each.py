"""Who is measured by bench/k8s.py: raw requests, a whole Site, NVFlare's handle; some in processes of their own."""

from __future__ import annotations

import json
import logging
import multiprocessing
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
from common import scratch

from siteward import Job, JobState, Site, SiteFile

THREADS = 8
TRUE = ["true"]
LABEL = "siteward.dev/owner"


def job(argv: list[str]) -> Job:
    """Make a job with one command."""
    return Job.from_mapping({"name": "bench", "command": argv})


def open_site(options: dict[str, Any], folder: Path) -> Site:
    """Open a site on a cluster."""
    data = {"name": "bench", "backends": {"k8s": options}, "default_backend": "k8s"}
    return Site(SiteFile.from_mapping({**data, "state_dir": str(folder / "state")}, base_dir=folder))


def pool_of(where: dict[str, Any]) -> Any:
    """Return urllib3's pool, with connections for every thread, and the headers to ask with."""
    import urllib3

    pool = urllib3.PoolManager(maxsize=2 * THREADS, ca_certs=where["authority"])
    return pool, {"Authorization": f"Bearer {where['token']}", "Content-Type": "application/json"}


class Created:
    """Creates pods like siteward's, of which siteward's watch is not told."""

    def __init__(self, manifest: dict[str, Any]) -> None:
        self._body = json.loads(json.dumps(manifest))
        self._body["metadata"]["labels"][LABEL] = "raw"
        self._names = (f"raw-{time.time_ns():x}-{number}" for number in range(10**9))
        self._lock = threading.Lock()

    def body(self) -> dict[str, Any]:
        """Return the next pod."""
        with self._lock:
            name = next(self._names)
        return {**self._body, "metadata": {**self._body["metadata"], "name": name}}

    def settle(self) -> None:
        """Wait for nothing: whoever removes the pods has waited."""


class Client(Created):
    """The official client, with plain objects instead of its models: the raw client."""

    name = "kubernetes client"

    def __init__(self, kubeconfig: Path, namespace: str, manifest: dict[str, Any]) -> None:
        from kubernetes import client, config

        super().__init__(manifest)
        settings = client.Configuration()
        config.load_kube_config(str(kubeconfig), client_configuration=settings)
        self._api, self._namespace = client.CoreV1Api(client.ApiClient(settings)), namespace

    def start(self) -> Any:
        """Create a pod, and read the reply."""
        answer = self._api.create_namespaced_pod(self._namespace, self.body(), _preload_content=False)
        return json.loads(answer.data)["metadata"]["name"]

    def close(self) -> None:
        """Let go of connections."""
        self._api.api_client.close()


class Raw(Created):
    """Requests through urllib3, as JSON."""

    name = "urllib3"

    def __init__(self, where: dict[str, Any], manifest: dict[str, Any]) -> None:
        super().__init__(manifest)
        self._where = where
        self._pool, self._headers = pool_of(where)

    def start(self) -> Any:
        """Create a pod, and read the reply."""
        body = json.dumps(self.body()).encode()
        answer = self._pool.request("POST", self._where["pods"], body=body, headers=self._headers)
        assert answer.status == 201, answer.data
        return json.loads(answer.data)["metadata"]["name"]

    def close(self) -> None:
        """Let go of connections."""
        self._pool.clear()


class Siteward:
    """A whole Site on the Kubernetes backend: strict job, store, lock, job folder, watch, log, removal."""

    name = "siteward"

    def __init__(self, options: dict[str, Any], folder: Path) -> None:
        logging.getLogger("siteward").setLevel(logging.ERROR)
        self.site = open_site(options, folder)
        self._started: list[Any] = []

    def start(self) -> Any:
        """Launch a job."""
        handle = self.site.launch(job(TRUE))
        self._started.append(handle)
        return handle

    def wait(self, handle: Any) -> None:
        """Wait for a job's end."""
        assert handle.wait().state is JobState.SUCCEEDED

    def settle(self) -> None:
        """Wait until the ends of all jobs are seen to."""
        while self._started:
            self._started.pop().wait()

    def close(self) -> None:
        """Close the site."""
        self.site.close()


class NVFlare:
    """NVFlare's ``K8sJobHandle``, made and waited for as its launcher does."""

    name = "NVFlare K8s handle"

    def __init__(self, kubeconfig: Path, namespace: str, image: str) -> None:
        from kubernetes import client, config
        from nvflare.app_opt.job_launcher import k8s_launcher

        settings = client.Configuration()
        config.load_kube_config(str(kubeconfig), client_configuration=settings)
        self._api = client.CoreV1Api(client.ApiClient(settings))
        self._flare, self._namespace, self._image = k8s_launcher, namespace, image
        self._names = (f"nvflare-{time.time_ns():x}-{number}" for number in range(10**9))
        logging.getLogger("K8sJobHandle").setLevel(logging.CRITICAL)

    def handle(self, pod: str) -> Any:
        """Make the handle of a pod that there is."""
        settings = {"name": pod, "image": self._image, "command": "site", "container_name": "job"}
        return self._flare.K8sJobHandle(pod, self._api, settings, namespace=self._namespace)

    def start(self) -> Any:
        """Launch a job as the launcher does: it waits until the pod runs. Python is not what busybox has."""
        handle = self.handle(next(self._names))
        manifest = handle.get_manifest()
        manifest["spec"]["containers"][0] |= {"command": TRUE, "imagePullPolicy": "IfNotPresent"}
        manifest["spec"]["containers"][0].pop("args")
        manifest["spec"]["automountServiceAccountToken"] = False
        self._api.create_namespaced_pod(body=manifest, namespace=self._namespace)
        handle.enter_states([self._flare.JobState.RUNNING])
        return handle

    def wait(self, handle: Any) -> None:
        """Wait for a job's end, and take the pod away, which the handle does not."""
        handle.wait()
        handle.poll()
        handle.terminate()

    def settle(self) -> None:
        """Wait for nothing."""

    def close(self) -> None:
        """Let go of connections."""
        self._api.api_client.close()


# --- in processes of their own ----------------------------------------------------------------------------------


class Far:
    """A contender in a process of its own: ``ask`` has it do something, ``usage`` is its CPU seconds and its memory."""

    def __init__(self, main: Any, *args: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=main, args=(other, *args), daemon=True)
        self._process.start()
        other.close()
        self._pipe.recv()
        self._watched = psutil.Process(self._process.pid)

    def ask(self, command: str, *args: Any) -> Any:
        """Have it do something, and return what comes of that."""
        self.send(command, *args)
        return self.answer()

    def send(self, command: str, *args: Any) -> None:
        """Have it begin something."""
        self._pipe.send((command, *args))

    def answer(self) -> Any:
        """Wait for what comes of it."""
        return self._pipe.recv()

    def cpu(self) -> float:
        """Return its CPU seconds so far."""
        times = self._watched.cpu_times()
        return float(times.user + times.system)

    def megabytes(self) -> float:
        """Return its resident memory."""
        return float(self._watched.memory_info().rss) / 1e6

    def close(self) -> None:
        """End it."""
        self._pipe.send(None)
        self._process.join(60)
        self._process.kill()


@contextmanager
def far(main: Any, *args: Any) -> Iterator[Far]:
    """Have a contender in a process of its own for a while."""
    process = Far(main, *args)
    try:
        yield process
    finally:
        process.close()


def far_siteward(pipe: Connection, options: dict[str, Any]) -> None:
    """Drive a Site: ``launch`` so many jobs and return their pods, ``wait`` for a pod's job and return when it was."""
    handles: dict[str, Any] = {}
    with scratch() as folder:
        each = Siteward(options, folder)
        pipe.send("ready")

        def launch(_number: int) -> str:
            handle = each.site.launch(job(TRUE))
            handles[handle.ref.data["name"]] = handle
            return str(handle.ref.data["name"])

        while (command := pipe.recv()) is not None:
            if command[0] == "launch":
                with ThreadPoolExecutor(THREADS) as pool:
                    pipe.send(list(pool.map(launch, range(command[1]))))
            elif command[0] == "running":
                for name in command[1]:
                    handles[name].wait_until(JobState.RUNNING)
                pipe.send(None)
            else:
                pipe.send("waits")
                handles.pop(command[1]).wait()
                pipe.send(time.monotonic())
        each.close()


def far_watch(pipe: Connection, where: dict[str, Any]) -> None:
    """Read one raw watch of all pods: ``wait`` for a pod's end and return when it was read."""
    pool, headers = pool_of(where)
    ends: dict[str, float] = {}
    changed = threading.Condition()
    stream = pool.request("GET", f"{where['pods']}?watch=true", headers=headers, preload_content=False)

    def read() -> None:
        for line in lines(stream):
            pod = json.loads(line)["object"]
            states = pod["status"].get("containerStatuses") or ()
            if any("terminated" in each["state"] for each in states):
                with changed:
                    ends[pod["metadata"]["name"]] = time.monotonic()
                    changed.notify_all()

    threading.Thread(target=read, daemon=True).start()
    pipe.send("ready")
    while (command := pipe.recv()) is not None:
        pipe.send("waits")
        with changed:
            changed.wait_for(lambda: command[1] in ends)
            pipe.send(ends[command[1]])


def lines(stream: Any) -> Iterator[bytes]:
    """Yield the lines of an answer as they come."""
    rest = b""
    for chunk in stream.stream(2**16):
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole


def far_nvflare(pipe: Connection, kubeconfig: Path, namespace: str, image: str) -> None:
    """Wait for pods with a handle and a thread each, as NVFlare does: ``follow`` pods, ``wait`` for one."""
    each = NVFlare(kubeconfig, namespace, image)
    ends: dict[str, float] = {}
    changed = threading.Condition()
    pipe.send("ready")

    def wait(pod: str) -> None:
        each.handle(pod).wait()
        with changed:
            ends[pod] = time.monotonic()
            changed.notify_all()

    while (command := pipe.recv()) is not None:
        if command[0] == "follow":
            for pod in command[1]:
                threading.Thread(target=wait, args=(pod,), daemon=True).start()
            pipe.send(None)
        else:
            pipe.send("waits")
            with changed:
                changed.wait_for(lambda: command[1] in ends)
                pipe.send(ends[command[1]])
