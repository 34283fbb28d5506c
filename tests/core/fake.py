"""A backend that does what a test tells it, and a place to use it: a folder, a site file, plugins.

Its platform is a folder of small files under the backend's own directory. So it outlives the process that launched,
and any process (the test itself, a new site) can move its jobs on. ``Control`` is the test's end of the wire: it
records every call, and a test puts faults into it, as functions that are called first.
"""

import json
import os
import signal
import threading
import time
import traceback
import warnings
from collections import defaultdict
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from attrs import field, frozen

from siteward import Job, JobRef, JobState, JobStatus, Plugins, Reason, Site, SiteFile, ended, hookimpl

DEADLINE = 20.0
ALL = ("watch", "list", "remove", "collect", "stage", "logs", "render", "check", "close", "resolve")


def until(condition, deadline=DEADLINE, what="what the test waits for"):
    """Return what ``condition()`` gives as soon as it is true."""
    give_up = time.monotonic() + deadline
    while not (found := condition()):
        assert time.monotonic() < give_up, f"{what} did not happen in {deadline} s"
        time.sleep(0.003)
    return found


def job(name="job", **fields):
    """Return a job for the fake backend."""
    data = {"name": name, "command": ["work"], "launcher_spec": {"default": {"fake": {}}}}
    return Job.from_mapping({**data, **fields})


class Platform:
    """The jobs of the fake platform, by id: ``{"state", "end", "stops", "launches"}``, each in its own file."""

    lock = threading.Lock()

    def __init__(self, folder):
        self.folder = Path(folder)

    def _path(self, job_id):
        return self.folder / f"{job_id}.job"

    def get(self, job_id):
        try:
            return json.loads(self._path(job_id).read_text())
        except FileNotFoundError:
            return None

    def put(self, job_id, **changes):
        with self.lock:
            data = {"state": "PENDING", "end": None, "stops": [], "launches": 0, **(self.get(job_id) or {}), **changes}
            part = self._path(job_id).with_suffix(f".{os.getpid()}")
            part.write_text(json.dumps(data))
            part.rename(self._path(job_id))

    def remove(self, job_id):
        self._path(job_id).unlink(missing_ok=True)

    def jobs(self):
        return sorted(path.stem for path in self.folder.glob("*.job"))

    def status(self, job_id):
        data = self.get(job_id)
        if data is None:
            result = ended(reason=Reason.DELETED, message="the platform has no such job")
            return JobStatus(state=result.state, result=result)
        if data["end"] is None:
            return JobStatus(state=JobState(data["state"]), message=data.get("message", ""))
        end = dict(data["end"])
        if "reason" in end:
            end["reason"] = Reason(end["reason"])
        result = ended(**end)
        return JobStatus(state=result.state, result=result)


class Control:
    """What a test sees of its backends, and tells them: ``faults["poll"] = function`` is called before each poll.

    What a fault returns, if not None, is the hook's answer; what it raises comes out of the hook. ``"launch done"``
    is called when the platform has the job already.
    """

    def __init__(self):
        self.calls = defaultdict(list)
        self.faults = {}
        self.backends = []
        self.obeys = True

    def step(self, hook, *arguments):
        self.calls[hook].append(arguments)
        fault = self.faults.get(hook)
        return fault(*arguments) if fault is not None else None

    def count(self, hook):
        return len(self.calls[hook])


@frozen(kw_only=True)
class JobOptions:
    level: int = field(default=0, metadata={"help": "a number of the job's"})


@frozen(kw_only=True)
class SiteOptions:
    most: int = field(default=9, metadata={"help": "the highest level"})


@frozen(kw_only=True)
class StudyOptions:
    room: str = field(default="", metadata={"help": "a text of the study's"})


class Fake:
    """Launch, poll and terminate."""

    api = 1
    control = Control()
    JobOptions = JobOptions
    SiteOptions = SiteOptions
    StudyOptions = StudyOptions

    def __init__(self, context, options):
        self.control.step("init", context, options)
        self.context = context
        self.platform = Platform(context.directory)
        self.publish = None
        self.control.backends.append(self)

    def ref(self, job_id, attempt=1):
        data = {"number": job_id}
        return JobRef(site=self.context.site, backend=self.context.backend, job_id=job_id, attempt=attempt, data=data)

    def tell(self, job_id):
        """Publish a job's status, as a watch would."""
        if self.publish is not None:
            self.publish(self.ref(job_id), self.platform.status(job_id))

    @hookimpl
    def siteward_launch_job(self, request):
        answer = self.control.step("launch", request)
        data = self.platform.get(request.job_id)
        self.platform.put(request.job_id, launches=(data["launches"] if data else 0) + 1)
        return self.control.step("launch done", request) or answer or self.ref(request.job_id, request.attempt)

    @hookimpl
    def siteward_poll_job(self, ref):
        return self.control.step("poll", ref) or self.platform.status(ref.job_id)

    @hookimpl
    def siteward_terminate_job(self, ref, grace):
        self.control.step("terminate", ref, grace)
        data = self.platform.get(ref.job_id)
        if data is not None and data["end"] is None:
            changes = {"stops": [*data["stops"], grace]}
            if self.control.obeys:
                changes["end"] = {"signal": 15}
            self.platform.put(ref.job_id, **changes)
            if self.control.obeys:
                self.tell(ref.job_id)


class _Watch:
    @hookimpl
    def siteward_watch_jobs(self, publish):
        self.publish = publish
        self.control.step("watch", publish)


class _List:
    @hookimpl
    def siteward_list_jobs(self):
        answer = self.control.step("list")
        return [self.ref(job_id) for job_id in self.platform.jobs()] if answer is None else answer


class _Remove:
    @hookimpl
    def siteward_remove_job(self, ref):
        self.control.step("remove", ref)
        self.platform.remove(ref.job_id)


class _Collect:
    @hookimpl
    def siteward_collect_job(self, ref, target):
        answer = self.control.step("collect", ref, target)
        (target / "result").write_text("from the platform")
        return answer or "returned"


class _Stage:
    @hookimpl
    def siteward_stage_job(self, ref, source):
        self.control.step("stage", ref, source)
        self.platform.put(ref.job_id, staged=sorted(path.name for path in source.iterdir()))


class _Logs:
    @hookimpl
    def siteward_read_logs(self, ref, follow, tail):
        self.control.step("logs", ref, follow, tail)
        yield b"one line\nanother\n"


class _Render:
    @hookimpl
    def siteward_render_job(self, request):
        self.control.step("render", request)
        return {"argv": request.argv("python", "/job"), "env": request.environment("/job")}


class _Check:
    @hookimpl
    def siteward_check_backend(self):
        self.control.step("check")
        return []


class _Close:
    @hookimpl
    def siteward_close_backend(self):
        self.control.step("close")


class _Resolve:
    @hookimpl
    def siteward_resolve_options(self, options):
        return self.control.step("resolve", options) or options


_FEATURES = {
    "watch": _Watch,
    "list": _List,
    "remove": _Remove,
    "collect": _Collect,
    "stage": _Stage,
    "logs": _Logs,
    "render": _Render,
    "check": _Check,
    "close": _Close,
    "resolve": _Resolve,
}


def fake(*features, control=None):
    """Return a backend class with these hooks besides the required ones, and a control of its own."""
    bases = (Fake, *(_FEATURES[name] for name in features))
    return type("FakeBackend", bases, {"control": control or Control(), "__module__": __name__})


class Place:
    """A folder with a site whose backend is fake; every site opened here is closed at the end."""

    def __init__(self, path, *features, name="site-1", plugins=(), **fields):
        self.path = Path(path)
        self.control = Control()
        self.backend = fake(*features, control=self.control)
        self.name = name
        self.plugins = [("siteward.backends", "fake", self.backend), *plugins]
        self.fields = fields
        self.state_dir = self.path / "state"
        self.platform = Platform(self.state_dir / "plugins" / "fake")
        self._open = ExitStack()

    def __enter__(self):
        return self

    def __exit__(self, *details):
        self._open.__exit__(*details)

    def file(self, **fields):
        data = {
            "name": self.name,
            "backends": {"fake": {}},
            "state_dir": str(self.state_dir),
            "poll_interval": 0.01,
            "grace": 0.5,
            "keep": {"jobs": 1000, "days": 30},
        }
        return SiteFile.from_mapping({**data, **self.fields, **fields}, base_dir=self.path)

    def site(self, *, adopt=True, **fields):
        """Open the site."""
        plugins = Plugins()
        for group, name, plugin in self.plugins:
            plugins.add(group, name, plugin)
        site = Site(self.file(**fields), plugins=plugins, adopt=adopt)
        self._open.callback(site.close)
        return site

    def tell(self, job_id):
        """Let every open backend that watches tell of a job."""
        for backend in self.control.backends:
            backend.tell(job_id)

    def start(self, job_id):
        """The platform starts a job."""
        self.platform.put(job_id, state="RUNNING")
        self.tell(job_id)

    def end(self, job_id, **end):
        """The platform ends a job: ``exit_code=``, ``signal=`` or ``reason=``."""
        self.platform.put(job_id, state="RUNNING", end=end or {"exit_code": 0})
        self.tell(job_id)


def threads():
    """Return the names of siteward's threads that are alive, those that wait for other drivers left out."""
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith("siteward") and not name.startswith("siteward-follow")]


@contextmanager
def places_in(folder):
    """Make places in folders of their own; at the end all their sites are closed, and leave no thread behind."""
    made = []

    def make(*features, **fields):
        path = Path(folder) / f"place-{len(made)}"
        path.mkdir()
        made.append(Place(path, *features, **fields))
        return made[-1]

    yield make
    for place in made:
        place.__exit__(None, None, None)
    until(lambda: not threads(), what="the end of the driver's threads")


class Child:
    """A forked process that runs ``function`` and is gone: a second parent, or one that is killed on its way."""

    def __init__(self, function):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a fork of a process with threads; only ours are, and they are for that
            self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                function()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        self._status = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    def kill(self):
        """Kill it with SIGKILL, and see that it is gone."""
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def wait(self):
        """Return how it ended, as ``subprocess`` says it: -9 for killed."""

        def gone():
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status)
            return pid

        if self._status is None:
            until(gone, what="the end of the forked process")
        return self._status


def die(*_):
    """End this process as ``kill -9`` does."""
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def places(tmp_path):
    """Make places with a fake backend."""
    with places_in(tmp_path) as make:
        yield make


@pytest.fixture
def place(places):
    """A place whose fake backend has every hook that its tests need to see a job's whole way."""
    return places("watch", "list", "remove")
