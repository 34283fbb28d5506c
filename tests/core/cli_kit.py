"""The command line as users have it: a process of its own, with sites and jobs in a temporary folder."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from importlib import metadata
from pathlib import Path

import yaml

# The kit's own backend stands in where siteward-process is not installed.
INSTALLED = {point.name for point in metadata.entry_points(group="siteward.backends")}
BACKEND = "process" if "process" in INSTALLED else "kept"
CONTRACT = Path(__file__).parents[1] / "contract"
PYTHON = sys.executable
PLUGINS = '''
from attrs import field, frozen
from pathlib import Path
from siteward import Allocation, JobRef, JobState, JobStatus, Refusal, Reservation, hookimpl


@frozen(kw_only=True)
class SiteOptions:
    free: str = field(default="", metadata={"help": "a file: units can be had while it exists"})


class Units:
    api = 1
    SiteOptions = SiteOptions

    def __init__(self, context, options):
        self.free = Path(options.free)

    @hookimpl
    def siteward_check_resources(self, requirement, job_id):
        if requirement.get("units", 1) > 2:
            return Refusal(reason="too many", message="there are 2 units", permanent=True)
        if self.free.exists():
            return Reservation(token=job_id)
        return Refusal(reason="taken", message="every unit is taken")

    @hookimpl
    def siteward_cancel_resources(self, token): ...

    @hookimpl
    def siteward_allocate_resources(self, token, job_id):
        return Allocation(token=token)

    @hookimpl
    def siteward_free_resources(self, token): ...

    @hookimpl
    def siteward_report_resources(self):
        return {"free": self.free.exists(), "units": {"licence": ["a", "b"]}}


class Immortal:
    """Its jobs neither end nor can be ended."""

    api = 1

    def __init__(self, context, options):
        self.context = context

    @hookimpl
    def siteward_launch_job(self, request):
        return JobRef(site=request.site, backend="immortal", job_id=request.job_id)

    @hookimpl
    def siteward_poll_job(self, ref):
        return JobStatus(state=JobState.RUNNING)

    @hookimpl
    def siteward_terminate_job(self, ref, grace): ...


class Bare:
    """Its platform cannot launch anything."""

    api = 1

    def __init__(self, context, options): ...

    @hookimpl
    def siteward_launch_job(self, request):
        raise ValueError("this is a bug")

    @hookimpl
    def siteward_poll_job(self, ref): ...

    @hookimpl
    def siteward_terminate_job(self, ref, grace): ...
'''


def until(condition, timeout=30):
    """Wait until a condition holds, and return what it returned."""
    give_up = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < give_up, "it never came to be"
        time.sleep(0.02)
    return value


def live_jobs(store):
    """Return the jobs of a store that have not ended and can be; much faster than asking ``ps``."""
    query = "SELECT job_id FROM jobs WHERE state IN ('PENDING', 'RUNNING') AND backend != 'immortal'"
    with closing(sqlite3.connect(store)) as db:
        rows = db.execute(query).fetchall()
    return [job_id for (job_id,) in rows]


class Cli:
    """Runs ``siteward`` with files in its own folder."""

    def __init__(self, folder):
        self.folder = folder
        self.started = []
        plugins = folder / "plugins"
        self.add_plugin("backends", "kept", "backends:Full")
        self.add_plugin("backends", "bare", "cli_plugins:Bare")
        self.add_plugin("backends", "immortal", "cli_plugins:Immortal")
        self.add_plugin("resources", "units", "cli_plugins:Units")
        (plugins / "cli_plugins.py").write_text(PLUGINS)
        paths = [str(plugins), str(CONTRACT), os.environ.get("PYTHONPATH", "")]
        # Compiling siteward anew for each command would take longer than all that the commands do.
        keep = {name: value for name, value in os.environ.items() if not name.startswith(("SITEWARD_", "PYTHONDONT"))}
        self.env = {**keep, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "HOME": str(folder), "TERM": "dumb"}

    def add_plugin(self, group, name, value):
        info = self.folder / "plugins" / f"test_{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: test-{name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[siteward.{group}]\n{name} = {value}\n")

    def site(self, name="site-1", **more):
        """Write a site's file; return its path."""
        path = self.folder / f"{name}.yaml"
        data = {"name": name, "backends": {BACKEND: {}}, "default_backend": BACKEND, "state_dir": f"./state/{name}"}
        data = {key: value for key, value in {**data, **more}.items() if value is not None}
        path.write_text(yaml.safe_dump(data))
        return path

    def job(self, script="", **more):
        """Write a job's file that runs a line of Python; return its path."""
        path = self.folder / "job.yaml"
        path.write_text(yaml.safe_dump({"name": "job", "command": [PYTHON, "-u", "-c", script, "{site}"], **more}))
        return path

    def __call__(self, *args, **more):
        """Run a command to its end."""
        options = {"capture_output": True, "text": True, "timeout": 60, "cwd": self.folder, "env": self.env}
        return subprocess.run([PYTHON, "-m", "siteward", *map(str, args)], **{**options, **more})

    def json(self, *args):
        """Run a command with --json; return its document."""
        done = self(*args, "--json")
        assert "Traceback" not in done.stderr
        return json.loads(done.stdout)

    def json_of(self, *args):
        """Run a command that prints a document without being asked to."""
        return json.loads(self(*args).stdout)

    def start(self, *args, **more):
        """Start a command; whatever is left of it is killed after the test."""
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": self.folder, "env": self.env}
        process = subprocess.Popen([PYTHON, "-m", "siteward", *map(str, args)], **{**options, **more})
        self.started.append(process)
        return process

    def detach(self, *args):
        """Run ``run --detach``; return the job's id."""
        done = self("run", *args, "--detach")
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def drivers(self):
        """Return the pids of detached drivers of this folder's sites."""
        return [int(pid) for pid in filter(str.isdigit, os.listdir("/proc")) if self._is_driver(pid)]

    def _is_driver(self, pid):
        try:
            argv = Path("/proc", pid, "cmdline").read_bytes().split(b"\0")
            environ = Path("/proc", pid, "environ").read_bytes().split(b"\0")
        except OSError:
            return False
        return b"--detach" in argv and f"HOME={self.folder}".encode() in environ

    def close(self):
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.communicate()
        for store in self.folder.glob("state/*/siteward.db"):
            for job_id in live_jobs(store):
                self("stop", job_id, "--grace", 0, "--site", self.folder / f"{store.parent.name}.yaml")
        until(lambda: not self.drivers())
