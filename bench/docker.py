"""Docker jobs through a Site, side by side with raw docker-py and NVFlare's Docker handle, in one run.

    python bench/docker.py [--host unix:///…] [--image busybox:latest] [--jobs 20] [--rounds 5] [--json FILE]

Every round runs all contenders one after the other, so that each sees the same machine; a figure is the median
over rounds, and ratios and differences are medians of the rounds' own, against docker-py with one stream of
events: create, start, wait for the event ``die``, remove. ``raw, same container`` does so with the very container
that siteward asks for (init, mount, read-only root, dropped capabilities), to tell what the engine takes for those.

The image needs ``true`` and ``sleep``. Everything made is labelled and removed, also after an interrupt. The end's
delay is measured from the engine's own time of ``die``: for an engine on another machine it includes the
difference of the clocks. Contenders that are not installed are left out, which stderr says.
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from common import cpu_and_memory, idle_cpu, installed, print_json, scratch, side_by_side

from siteward import Job, JobState, Site, SiteFile

HERE = Path(__file__).resolve().parent
LABEL = "siteward-bench"
TRUE = ["true"]
NAP = ["sleep", "0.3"]
LONG = ["sleep", "3600"]
THREADS = 8
_LOOK = 0.02
_REMOVED_WITHIN = 60.0
# What siteward is to keep: the figure, its contender's name here, the key, and the most it may be.
LIMITS = [
    ("job_ms", "siteward", "ratio", 1.10),
    ("end_seen_p95_ms", "siteward", "difference", 20.0),
    ("cpu_ms", "siteward", "ratio", 1.5),
]


class Unmeasurable(Exception):
    """There is no engine, or not the image."""


class Events:
    """docker-py's APIClient, and one thread that hands the engine's ``die`` events to those who wait for them."""

    name = "raw docker-py, events"

    def __init__(self, mark: str, image: str) -> None:
        self.mark, self._image, self._api = mark, image, connected()
        self._ends: dict[str, Future[str]] = {}
        filters = {"type": "container", "event": "die", "label": f"{LABEL}={mark}"}
        self._stream = self._api.events(decode=True, filters=filters)
        self._dispatcher = threading.Thread(target=self._dispatch, name="raw-events", daemon=True)
        self._dispatcher.start()

    def _dispatch(self) -> None:
        for event in self._stream:
            end = self._ends.pop(event["Actor"]["ID"], None)
            if end is not None:
                end.set_result(event["Actor"]["Attributes"]["exitCode"])

    def _create(self, argv: list[str]) -> str:
        return self._api.create_container(self._image, argv, labels={LABEL: self.mark})["Id"]

    def start(self, argv: list[str]) -> Any:
        """Start a job."""
        container = self._create(argv)
        end = self._ends[container] = Future()
        self._api.start(container)
        return container, end

    def wait(self, job: Any) -> bool:
        """Wait for a job's end; whether it is said to have gone well."""
        return job[1].result() == "0"

    def forget(self, job: Any) -> None:
        """Do what is left to do for a job whose end is known."""
        self._api.remove_container(job[0], v=True)

    def started(self, job: Any) -> None:
        """Wait until a job runs."""

    def end(self, job: Any) -> None:
        """End a job that runs, and forget it."""
        self._api.remove_container(job[0], v=True, force=True)

    def container(self, job: Any) -> str:
        """Return its container's id."""
        return job[0]

    def close(self) -> None:
        self._stream.close()
        self._dispatcher.join()
        self._api.close()


class SameContainer(Events):
    """The raw calls with the container that siteward would create."""

    name = "raw, same container"

    def __init__(self, mark: str, image: str, site: Site, folder: Path) -> None:
        super().__init__(mark, image)
        rendered: Any = site.render(job(TRUE))
        del rendered["name"]
        for mount in rendered["HostConfig"]["Mounts"]:
            if "Source" in mount:
                mount["Source"] = str(folder)
        self._body = {**rendered, "Labels": {LABEL: mark}}

    def _create(self, argv: list[str]) -> str:
        return self._api.create_container_from_config({**self._body, "Entrypoint": argv[:1], "Cmd": argv[1:]})["Id"]


class Wait(Events):
    """docker-py's APIClient, and a ``/wait`` call for each job: in a thread each where many run."""

    name = "raw docker-py, /wait"

    def __init__(self, mark: str, image: str) -> None:
        self.mark, self._image, self._api = mark, image, connected()

    def start(self, argv: list[str]) -> Any:
        container = self._create(argv)
        self._api.start(container)
        return (container,)

    def wait(self, job: Any) -> bool:
        return self._api.wait(job[0])["StatusCode"] == 0

    def close(self) -> None:
        self._api.close()


class Siteward:
    """A whole Site on the Docker backend: strict job, store, lock, job directory, log, watch, adoption."""

    name = "siteward"

    def __init__(self, mark: str, image: str, folder: Path) -> None:
        self.mark = mark
        local = os.environ["DOCKER_HOST"].startswith("unix://")
        backend = {"default_image": image, "pull": "never", "labels": {LABEL: mark}}
        backend["job_directory"] = "bind" if local else "copy"
        data = {"name": "bench", "backends": {"docker": backend}, "default_backend": "docker"}
        self.site = Site(SiteFile.from_mapping({**data, "state_dir": str(folder / "state")}, base_dir=folder))

    def start(self, argv: list[str]) -> Any:
        return self.site.launch(job(argv))

    def wait(self, job: Any) -> bool:
        result = job.wait()
        return result.state is JobState.SUCCEEDED and result.exit_code == 0

    def forget(self, job: Any) -> None:
        pass

    def started(self, job: Any) -> None:
        job.wait_until(JobState.RUNNING)

    def end(self, job: Any) -> None:
        job.terminate(grace=0)
        job.wait()

    def container(self, job: Any) -> str:
        return job.ref.data["id"]

    def close(self) -> None:
        self.site.close()


class NVFlare:
    """NVFlare's ``DockerJobHandle``, made and waited for as its launcher does."""

    name = "NVFlare Docker handle"

    def __init__(self, mark: str, image: str) -> None:
        import docker
        from nvflare.app_opt.job_launcher.docker_launcher import DockerJobHandle, JobReturnCode

        self.mark, self._image, self._client = mark, image, docker.from_env()
        self._handle, self._success = DockerJobHandle, JobReturnCode.SUCCESS
        logging.getLogger(DockerJobHandle.__name__).setLevel(logging.CRITICAL)

    def start(self, argv: list[str]) -> Any:
        settings = {"labels": {LABEL: self.mark}, "user": f"{os.getuid()}:{os.getgid()}"}
        container = self._client.containers.run(self._image, argv, detach=True, auto_remove=True, **settings)
        handle = self._handle(container.id, container.name, self._client, container=container)
        handle.enter_states(["running"])
        return handle

    def wait(self, job: Any) -> bool:
        job.wait()
        return job.poll() == self._success

    def forget(self, job: Any) -> None:
        pass

    def started(self, job: Any) -> None:
        pass

    def end(self, job: Any) -> None:
        job.terminate()

    def container(self, job: Any) -> str:
        return job.container_id

    def close(self) -> None:
        self._client.close()


def job(argv: list[str]) -> Job:
    """Make a job with one command."""
    return Job.from_mapping({"name": "bench", "command": argv})


def connected() -> Any:
    """Return a new client of the engine."""
    import docker
    from docker.utils import kwargs_from_env

    return docker.APIClient(version="auto", **kwargs_from_env())


def makers(mark: str, image: str, folder: Path) -> dict[str, Callable[[], Any]]:
    """Return what makes each contender, raw events first; each has its own mark on its containers."""

    def siteward() -> Siteward:
        return Siteward(f"{mark}-siteward", image, Path(tempfile.mkdtemp(dir=folder)))

    def same_container() -> SameContainer:
        with siteward().site as site:
            return SameContainer(f"{mark}-same", image, site, folder)

    return {
        "events": lambda: Events(f"{mark}-events", image),
        "wait": lambda: Wait(f"{mark}-wait", image),
        "siteward": siteward,
        "same": same_container,
        "nvflare": lambda: NVFlare(f"{mark}-nvflare", image),
    }


# --- measures -------------------------------------------------------------------------------------------------------


def cpu_seconds() -> float:
    """Return the CPU seconds that this process, all its threads, has used."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def drain(each: Any, api: Any) -> None:
    """Wait until nothing of a contender is left on the engine."""
    give_up = time.monotonic() + _REMOVED_WITHIN
    while api.containers(all=True, filters={"label": f"{LABEL}={each.mark}"}) and time.monotonic() < give_up:
        time.sleep(_LOOK)


def sequential(each: Any, api: Any, jobs: int) -> dict[str, float]:
    """Run jobs one after the other: time and CPU of each, to the last container's removal."""
    begin, cpu = time.perf_counter(), cpu_seconds()
    for _ in range(jobs):
        one = each.start(TRUE)
        each.wait(one)
        each.forget(one)
    drain(each, api)
    return {
        "job_ms": 1000 * (time.perf_counter() - begin) / jobs,
        "cpu_ms": 1000 * (cpu_seconds() - cpu) / jobs,
    }


def launches(each: Any, api: Any, jobs: int, threads: int) -> dict[str, float]:
    """Launch jobs in some threads, none waited for before all are: jobs a second, and how long a launch call takes."""
    calls: list[float] = []

    def launch(_number: int) -> Any:
        begin = time.perf_counter()
        one = each.start(TRUE)
        calls.append(time.perf_counter() - begin)
        return one

    def finish(one: Any) -> None:
        each.wait(one)
        each.forget(one)

    begin = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(finish, list(pool.map(launch, range(jobs)))))
    drain(each, api)
    return {
        f"jobs_per_s_{threads}": jobs / (time.perf_counter() - begin),
        f"launch_ms_{threads}": 1000 * statistics.median(calls),
    }


def end_seen(each: Any, api: Any, jobs: int) -> dict[str, float]:
    """Return the delay from the engine's own time of each job's end to the return of ``wait()``."""
    delays = []
    for _ in range(jobs):
        begin = time.time()
        one = each.start(NAP)
        each.wait(one)
        seen = time.time_ns()
        delays.append((seen - died_at(api, each.container(one), begin)) / 1e6)
        each.forget(one)
    drain(each, api)
    return {"end_seen_p50_ms": statistics.median(delays), "end_seen_p95_ms": _percentile(delays, 95)}


def _percentile(values: list[float], per_cent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[per_cent - 1]


def died_at(api: Any, container: str, since: float) -> int:
    """Return when a container died, in nanoseconds since the epoch, as the engine remembers it."""
    filters = {"container": container, "event": "die"}
    events = api.events(since=f"{since:.3f}", until=f"{time.time():.6f}", filters=filters, decode=True)
    try:
        return next(events)["timeNano"]
    finally:
        events.close()


def live_jobs(make: Callable[[], Any], api: Any, count: int, seconds: float) -> dict[str, float]:
    """Keep a new contender's jobs alive: CPU while idle (per cent of one core), its threads, and its memory."""
    known, process = set(threading.enumerate()), [psutil.Process()]
    each = make()
    first = each.start(LONG)
    each.started(first)
    _, before = cpu_and_memory(process)
    with ThreadPoolExecutor(THREADS) as pool:
        jobs = list(pool.map(lambda _number: each.start(LONG), range(count)))
        list(pool.map(each.started, jobs))
    time.sleep(2)  # threads that have nothing to do any more may go
    idle = idle_cpu(cpu_seconds, seconds)
    threads = len(set(threading.enumerate()) - known)
    _, after = cpu_and_memory(process)
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(each.end, [first, *jobs]))
    drain(each, api)
    each.close()
    return {
        "idle_cpu_percent": idle,
        "threads": threads,
        "kb_per_job": (after - before) / count / 1000,
        "rss_mb": after / 1e6,
    }


def misreported(each: Any, api: Any, count: int, batch: int) -> int:
    """Run jobs that go well, a batch at once; how many of them are said not to have."""
    wrong = 0
    with ThreadPoolExecutor(THREADS) as pool:
        for first in range(0, count, batch):
            jobs = list(pool.map(each.start, [TRUE] * min(batch, count - first)))
            wrong += sum(not well for well in pool.map(each.wait, jobs))
            list(pool.map(each.forget, jobs))
            drain(each, api)
    return wrong


# --- the run --------------------------------------------------------------------------------------------------------


@contextmanager
def engine(image: str, mark: str) -> Iterator[Any]:
    """Give a client of the engine, which has the image; remove whatever bears the mark in the end."""
    try:
        from docker.errors import DockerException, ImageNotFound
    except ImportError as error:
        raise Unmeasurable("docker-py is not installed: pip install ./plugins/docker") from error
    try:
        api = connected()
        api.inspect_image(image)
    except ImageNotFound as error:
        raise Unmeasurable(f"the engine has no image {image}: pull it, or name another with --image") from error
    except DockerException as error:
        raise Unmeasurable(f"no Docker engine answers at {os.environ['DOCKER_HOST']}: {error}") from error
    try:
        yield api
    finally:
        for each in api.containers(all=True, filters={"label": LABEL}):
            if each["Labels"][LABEL].startswith(mark):
                with suppress(DockerException):  # it may be on its way out
                    api.remove_container(each["Id"], v=True, force=True)
        api.close()


def measure(options: argparse.Namespace, mark: str, api: Any) -> dict[str, Any]:
    """Take all measures."""
    with scratch() as folder:
        folder.chmod(0o755)
        make = makers(mark, options.image, folder)
        every = list(installed(make.values()))
        for each in every:
            sequential(each, api, 2)
        measures: list[Callable[[Any], dict[str, float]]] = [
            lambda each: sequential(each, api, options.jobs),
            lambda each: launches(each, api, options.jobs, 1),
            lambda each: launches(each, api, options.jobs, THREADS),
            lambda each: end_seen(each, api, options.jobs),
        ]
        figures: dict[str, Any] = side_by_side(every, measures, options.rounds)
        launchers = [each for each in every if isinstance(each, (Siteward, NVFlare))]
        if options.many:
            many = {each.name: misreported(each, api, options.many, options.batch) for each in launchers}
            figures["misreported"] = {"jobs": options.many, **many}
        for each in every:
            each.close()
        if options.live:
            kinds = {Events: "events", Siteward: "siteward", NVFlare: "nvflare"}
            compared = {each.name: make[kinds[type(each)]] for each in every if type(each) in kinds}
            live = {name: live_jobs(one, api, options.live, options.seconds) for name, one in compared.items()}
            figures["live"] = {"jobs": options.live, **live}
    return figures


def print_tables(figures: dict[str, Any]) -> None:
    """Print what was measured, for people."""
    print(f"{'':24}{'job ms':>9}{'ratio':>7}{'CPU ms':>8}{'ratio':>7}{'launch ms':>11}{'jobs/s 1':>10}{'jobs/s 8':>10}")
    for name in figures["job_ms"]:
        job, cpu, launch, one, eight = (
            figures[what][name] for what in ("job_ms", "cpu_ms", "launch_ms_1", "jobs_per_s_1", "jobs_per_s_8")
        )
        cells = f"{job['median']:9.1f}{job['ratio']:7.2f}{cpu['median']:8.2f}{cpu['ratio']:7.2f}"
        print(f"{name:24}{cells}{launch['median']:11.1f}{one['median']:10.2f}{eight['median']:10.2f}")
    print(f"\n{'end seen':24}{'p50 ms':>9}{'p95 ms':>9}{'p95 beyond raw':>16}")
    for name, p50 in figures["end_seen_p50_ms"].items():
        p95 = figures["end_seen_p95_ms"][name]
        print(f"{name:24}{p50['median']:9.1f}{p95['median']:9.1f}{p95['difference']:+16.1f}")
    for name, live in figures.get("live", {}).items():
        if name != "jobs":
            print(
                f"\n{figures['live']['jobs']} live jobs, {name}: idle CPU {live['idle_cpu_percent']:.2f} % of a core, "
                f"{live['threads']} threads, {live['kb_per_job']:.1f} KB each, {live['rss_mb']:.0f} MB in all",
                end="",
            )
    print()
    for name, wrong in figures.get("misreported", {}).items():
        if name != "jobs":
            print(f"of {figures['misreported']['jobs']} successes misreported by {name}: {wrong}")


def print_limits(figures: dict[str, Any]) -> None:
    """Print what siteward is to keep, beside what it does."""
    rows = [(f"{what}, {key}", figures[what].get(name, {}).get(key), most) for what, name, key, most in LIMITS]
    live = figures.get("live", {}).get("siteward", {})
    rows += [("threads with live jobs", live.get("threads"), 4)]
    rows += [("idle CPU per cent with live jobs", live.get("idle_cpu_percent"), 0.3)]
    rows += [("misreported", figures.get("misreported", {}).get("siteward"), 0)]
    for words, value, most in rows:
        if value is not None:
            print(f"siteward {words}: {value:.2f}, at most {most:g}: {'kept' if value <= most else 'NOT KEPT'}")


def main() -> None:
    """Measure, print tables, and the same as JSON."""
    # Or what is imported as docker from here on would be this file.
    sys.path[:] = [each for each in sys.path if Path(each).resolve() != HERE]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default=os.environ.get("DOCKER_HOST"), help="the engine; by default DOCKER_HOST")
    parser.add_argument("--image", default="busybox:latest", help="an image that the engine has")
    parser.add_argument("--jobs", type=int, default=20, help="jobs for each figure of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--live", type=int, default=100, help="jobs kept alive at once; 0 leaves that part out")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long idle CPU is watched")
    parser.add_argument("--many", type=int, default=1000, help="successes that could be misreported; 0 for none")
    parser.add_argument("--batch", type=int, default=100, help="how many of those at once")
    parser.add_argument("--optional", action="store_true", help="leave with 0 when there is no engine with the image")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options = parser.parse_args()
    os.environ["DOCKER_HOST"] = options.host or "unix:///var/run/docker.sock"
    mark = uuid.uuid4().hex[:12]
    try:
        with engine(options.image, mark) as api:
            figures = measure(options, mark, api)
    except Unmeasurable as why:
        print(f"Docker is left out: {why}", file=sys.stderr)
        sys.exit(0 if options.optional else 1)
    print_tables(figures)
    print_limits(figures)
    print_json(figures, options.json)


if __name__ == "__main__":
    main()
