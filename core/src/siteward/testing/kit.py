"""What a promise's test works with: sites and launchers of the backend under test, jobs, waits with a deadline."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from attrs import define, field

from siteward.ends import Result
from siteward.errors import Unreachable
from siteward.handle import Handle
from siteward.hookspecs import Publish, hookimpl
from siteward.job import Job
from siteward.launcher import Launcher
from siteward.plugins import BACKENDS, GLOBAL, Plugins, backend_hooks
from siteward.request import Context, JobRef, JobRequest, JobStatus
from siteward.resources import PortableResources
from siteward.site import Site
from siteward.testing.parent import locate
from siteward.testing.setup import BackendSetup

T = TypeVar("T")
PROGRAM = Path(__file__).with_name("job.py")


def wait_for(condition: Callable[[], T], words: str, seconds: float) -> T:
    """Return the first true answer; AssertionError with these words when there is none in time."""
    give_up = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < give_up, f"not within {seconds:g} s: {words}"
        time.sleep(0.005)
    return answer


@define
class Recorder:
    """A publish function that keeps the news."""

    news: list[tuple[JobRef, JobStatus]] = field(factory=list)
    errors: list[BaseException] = field(factory=list)

    def __call__(self, ref: JobRef, status: JobStatus) -> None:
        """Keep one piece of news."""
        self.news.append((ref, status))

    def failed(self, error: BaseException) -> None:
        """Keep an error."""
        self.errors.append(error)

    def of(self, job_id: str) -> list[JobStatus]:
        """Return the news of one job, in order."""
        return [status for ref, status in list(self.news) if ref.job_id == job_id]


class Spy:
    """A global plugin that counts polls, can make them fail, and sees what the backend publishes through."""

    api = 1

    def __init__(self) -> None:
        self.polls: list[str] = []
        self.ends: list[Result] = []
        self.publish: Publish | None = None
        self.blind = False

    @hookimpl(wrapper=True)
    def siteward_poll_job(self, ref: JobRef) -> Any:
        """Count, and see nothing if blind."""
        self.polls.append(ref.job_id)
        if self.blind:
            raise Unreachable("polls are switched off by the contract kit")
        return (yield)

    @hookimpl(wrapper=True)
    def siteward_watch_jobs(self, publish: Publish) -> Any:
        """Keep what the watch was given."""
        self.publish = publish
        return (yield)

    @hookimpl
    def siteward_job_ended(self, ref: JobRef, result: Result) -> None:
        """Keep the ends that observers are told of."""
        self.ends.append(result)


class Kit:
    """The backend under test, for one test: makes what the test asks for, and ends all of it afterwards."""

    def __init__(self, setup: BackendSetup, directory: Path) -> None:
        self.setup = setup
        self.platform = setup.platform
        self.directory = directory
        self.plugins = self._plugins()
        self.hooks = backend_hooks(self.plugins.backend(setup.name))
        (directory / "app").mkdir()
        (directory / "app" / PROGRAM.name).write_bytes(PROGRAM.read_bytes())
        self._sites: list[Site] = []
        self._files: dict[str, Path] = {}
        self._launchers: list[Launcher] = []
        self._refs: list[tuple[Launcher, JobRef]] = []
        self._job_ids: list[str] = []

    # --- waiting ---------------------------------------------------------------------------------------------

    def seconds(self, usual: float) -> float:
        """Return a deadline for this platform."""
        return usual * self.setup.patience

    def wait_for(self, condition: Callable[[], T], words: str, seconds: float = 15) -> T:
        """Wait for something that this platform must show in time."""
        return wait_for(condition, words, self.seconds(seconds))

    def comes(self, condition: Callable[[], object], seconds: float = 0.25) -> bool:
        """Whether something comes that must not; the one place where the kit waits for nothing."""
        try:
            wait_for(condition, "", self.seconds(seconds))
        except AssertionError:
            return False
        return True

    def in_time(self, call: Callable[[], T], words: str, seconds: float = 15) -> T:
        """Return what a call returns; AssertionError with these words if it does not return in time."""
        answers: list[T] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                answers.append(call())
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(self.seconds(seconds))
        if errors:
            raise errors[0]
        assert answers, f"not within {self.seconds(seconds):g} s: {words}"
        return answers[0]

    # --- sites and jobs --------------------------------------------------------------------------------------

    def site_file(self, name: str = "site-1", **fields: Any) -> Path:
        """Write a site file; each name has a state directory of its own."""
        if name not in self._files:
            folder = self.directory / f"site{len(self._files)}"
            folder.mkdir()
            self._files[name] = folder / "site.yaml"
            backends = {self.setup.name: dict(self.setup.site_options)}
            data: dict[str, Any] = {"name": name, "backends": backends, "state_dir": str(folder / "state"), "grace": 5}
            data["poll_interval"] = self.seconds(0.02)
            self._files[name].write_text(json.dumps({**data, **fields}, ensure_ascii=False))
        return self._files[name]

    def _plugins(self, spy: Spy | None = None) -> Plugins:
        plugins = Plugins()
        if self.setup.plugin is not None:
            plugins.add(BACKENDS, self.setup.name, self.setup.plugin)
        if spy is not None:
            plugins.add(GLOBAL, "contract-kit-spy", spy)
        return plugins

    def site(self, name: str = "site-1", *, spy: Spy | None = None, **fields: Any) -> Site:
        """Open a site; it is closed after the test at the latest. The same name is the same site."""
        site = Site.load(
            self.site_file(name, **fields), plugins=self._plugins(spy) if spy else self.plugins
        ).__enter__()
        self._sites.append(site)
        return site

    def close(self, site: Site) -> None:
        """Leave a site; its jobs go on."""
        self._sites.remove(site)
        site.close()

    def new_id(self) -> str:
        """Return a job id that no other job has."""
        self._job_ids.append(f"kit-{uuid.uuid4().hex[:12]}")
        return self._job_ids[-1]

    def argv(self, action: str, *args: str) -> list[str]:
        """Return the command of the kit's own job."""
        return [self.setup.python, "-I", "-S", PROGRAM.name, action, *args]

    def sh(self, script: str) -> list[str]:
        """Return the command of a shell script."""
        return [self.setup.shell, "-c", script]

    def job_data(self, command: Sequence[str], **fields: Any) -> dict[str, Any]:
        """Return a job file's content."""
        job_id = fields.pop("id", None) or self.new_id()
        spec = {"default": {self.setup.name: dict(self.setup.job_options)}}
        data = {"name": "kit", "id": job_id, "command": list(command), "workspace": "app", "launcher_spec": spec}
        return {**data, **fields}

    def launch(self, site: Site, command: Sequence[str], **fields: Any) -> Handle:
        """Launch a job at a site."""
        job = Job.from_mapping(self.job_data(command, **fields), base_dir=self.directory)
        return self.in_time(lambda: site.launch(job), "launch returns")

    def run(self, site: Site, command: Sequence[str], **fields: Any) -> tuple[Handle, Result]:
        """Launch a job and wait for its end."""
        handle = self.launch(site, command, **fields)
        return handle, self.result(handle)

    def result(self, handle: Handle) -> Result:
        """Wait for a job's end."""
        return handle.wait(timeout=self.seconds(20))

    def reported(self, handle: Handle) -> dict[str, Any]:
        """Return what the kit's job reported of itself, when it has ended."""
        report: dict[str, Any] = json.loads((handle.job_dir / "report.json").read_text())
        return report

    def reached(self, handle: Handle, name: str = "ready") -> None:
        """Wait until a running job has written a file."""
        self.wait_for(lambda: self.platform.has_file(handle.job_dir, handle.job_id, name), f"the job writes {name!r}")

    def release(self, handle: Handle, name: str = "go") -> None:
        """Write the file for which a running job waits."""
        self.platform.write_file(handle.job_dir, handle.job_id, name)

    def orphans(self, *commands: Sequence[str]) -> list[str]:
        """Launch jobs from a process of its own, kill that with KILL, and return the jobs' ids."""
        jobs = [self.job_data(command) for command in commands]
        plugin = self.setup.plugin
        order = {
            "backend": self.setup.name,
            "plugin": None if plugin is None else locate(plugin),
            "site": str(self.site_file()),
            "jobs": jobs,
            "base_dir": str(self.directory),
        }
        command = [sys.executable, "-m", "siteward.testing.parent"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
            assert parent.stdin is not None
            assert parent.stdout is not None
            try:
                json.dump(order, parent.stdin)
                parent.stdin.close()
                said = self.in_time(parent.stdout.readline, "the launcher's process launches", 30)
                assert said == "launched\n", "the launcher's process failed, see its standard error"
            finally:
                parent.kill()
        return [job["id"] for job in jobs]

    def job_dir(self, job_id: str, name: str = "site-1") -> Path:
        """Return a job's directory at a site."""
        return self.site_file(name).parent / "state" / "jobs" / job_id / "work"

    def gone(self, job_id: str) -> None:
        """Wait until no process of a job is left."""
        wait_for(lambda: not self.platform.processes(job_id), f"no process of {job_id} is left", self.seconds(10))

    # --- the backend's hooks, without a site -----------------------------------------------------------------

    def launcher(self, name: str = "site-1", publish: Publish | None = None) -> Launcher:
        """Return the backend at work for a site name, watching through ``publish`` if given."""
        folder = self.directory / f"launcher-{name}"
        folder.mkdir(mode=0o700, exist_ok=True)
        log = logging.getLogger(f"siteward.{self.setup.name}")
        context = Context(site=name, backend=self.setup.name, directory=folder, log=log, base_dir=self.directory)
        launcher = Launcher(self.plugins, context, self.setup.site_options)
        self._launchers.append(launcher)
        if publish is not None:
            launcher.watch(publish)
        return launcher

    def request(self, launcher: Launcher, command: Sequence[str], **fields: Any) -> JobRequest:
        """Return a request with a job directory of its own."""
        job_id = self.new_id()
        job_dir = self.directory / f"jobs-{launcher.context.site}" / job_id / "work"
        job_dir.mkdir(parents=True, exist_ok=True)
        (job_dir / PROGRAM.name).write_bytes(PROGRAM.read_bytes())
        labels = {"site": launcher.context.site, "job-id": job_id, "attempt": "1", "name": "kit"}
        return JobRequest(
            job_id=job_id,
            name="kit",
            site=launcher.context.site,
            backend=self.setup.name,
            job_dir=job_dir,
            options=launcher.job_options(self.setup.job_options, PortableResources()),
            grace=5,
            labels=labels,
            command=list(command),
            **fields,
        )

    def start(self, launcher: Launcher, request: JobRequest) -> JobRef:
        """Launch and stage."""
        ref = self.in_time(lambda: launcher.launch(request), "siteward_launch_job returns")
        self._refs.append((launcher, ref))
        if launcher.has("stage_job"):
            launcher.stage(ref, request.job_dir)
        return ref

    def ready(self, request: JobRequest, name: str = "ready") -> None:
        """Wait until a running job has written a file."""
        seen = self.platform.has_file
        self.wait_for(lambda: seen(request.job_dir, request.job_id, name), f"the job writes {name!r}")

    def let_go(self, request: JobRequest, name: str = "go") -> None:
        """Write the file for which a running job waits."""
        self.platform.write_file(request.job_dir, request.job_id, name)

    def collected(self, launcher: Launcher, ref: JobRef, request: JobRequest) -> Path:
        """Return the job directory as it came back."""
        if launcher.has("collect_job"):
            assert launcher.collect(ref, request.job_dir) == "returned"
        return request.job_dir

    def polled_end(self, launcher: Launcher, ref: JobRef) -> JobStatus:
        """Poll until the job has ended."""

        def look() -> JobStatus | None:
            status = launcher.poll(ref)
            return status if status.state.ended else None

        status = self.wait_for(look, "a poll sees the job's end")
        assert status is not None
        return status

    # --- afterwards ------------------------------------------------------------------------------------------

    def clean(self) -> None:
        """End every job of this test and close everything; a faulty backend may leave nothing either."""
        for launcher, ref in self._refs:
            with suppress(Exception):
                self._end(launcher, ref)
        for launcher in self._launchers:
            with suppress(Exception):
                launcher.close()
        for site in list(self._sites):
            with suppress(Exception):
                self._end_all(site)
        self.platform.sweep(self._job_ids)
        for site in list(self._sites):
            with suppress(Exception):
                self.close(site)

    def _end(self, launcher: Launcher, ref: JobRef) -> None:
        if not launcher.poll(ref).state.ended:
            launcher.terminate(ref, 0)
            wait_for(lambda: launcher.poll(ref).state.ended, "ended", self.seconds(5))
        launcher.remove(ref)

    def _end_all(self, site: Site) -> None:
        alive = [site.attach(row.job_id) for row in site.jobs(ended=False)]
        for handle in alive:
            handle.terminate(grace=0)
        for handle in alive:
            with suppress(TimeoutError):
                handle.wait(timeout=self.seconds(5))
