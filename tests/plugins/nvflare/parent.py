"""A FLARE parent as a launcher sees it, without a federation: a workspace, contexts, and jobs that do as told."""

import json
import os
import sys
import threading
import time
from types import SimpleNamespace

import psutil
import pytest
import yaml
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContextManager
from nvflare.apis.workspace import Workspace

from siteward_nvflare import ClientSitewardLauncher, ServerSitewardLauncher, SitewardResourceManager

from . import faults

DEADLINE = 60.0
UNKNOWN = 127
FOREVER = "signal.pause()"
# What a job does, and what FLARE is to be told of its end.
CODES = {
    "it completed": ("", 0),
    "it failed: FLARE judges by the job's phase": ("os._exit(1)", 1),
    "9 is an exit like any other, no abort": ("os._exit(9)", 1),
    "exception": ("os._exit(101)", 101),
    "unsafe component": ("os._exit(102)", 102),
    "configuration": ("os._exit(103)", 103),
    "infrastructure": ("os._exit(104)", 104),
}
# Ends by TERM, and says so.
PATIENT = (
    "signal.signal(signal.SIGTERM, lambda *_: (tell('term', 1), os._exit(0)))\ntell('up', os.getpid())\nsignal.pause()"
)
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntell('up', os.getpid())\nwhile True: signal.pause()"
CREDENTIALS = {
    "auth_token": ("-t", "very-secret-token"),
    "auth_signature": ("-ts", "very-secret-signature"),
    "ssid": ("-d", "very-secret-ssid"),
}
# The job's module: does what behaviour.py in FLARE's workspace says.
PROBE = """
import json, os, signal, sys, time
job = sys.argv[sys.argv.index("-n") + 1]
workspace = sys.argv[sys.argv.index("-m") + 1]
def tell(name, value):
    part = os.path.join(workspace, job, name + ".part")
    with open(part, "w") as file:
        json.dump(value, file)
    os.rename(part, os.path.join(workspace, job, name))
exec(open(os.path.join(workspace, job, "behaviour.py")).read())
"""


def until(condition, deadline=DEADLINE, what="what the test waits for"):
    """Return what ``condition()`` gives as soon as it is true."""
    give_up = time.monotonic() + deadline
    while not (found := condition()):
        assert time.monotonic() < give_up, f"{what} did not happen in {deadline} s"
        time.sleep(0.02)
    return found


class Parent:
    """One FLARE site in a folder, with its siteward site; ``launcher`` and ``manager`` are FLARE's components."""

    def __init__(self, folder, *, name="site-1", shared=None, **site):
        self.folder, self.name = folder, name
        self.root = folder / "flare site"
        (self.root / "startup").mkdir(parents=True, exist_ok=True)
        (self.root / "local").mkdir(exist_ok=True)
        (self.root / "startup" / "client.key").write_text("very-secret-key")
        self.site_file = folder / "site.yaml"
        self.site_file.write_text(
            yaml.safe_dump(
                {
                    "name": "clinic",
                    "backends": {"process": {}},
                    "default_backend": "process",
                    "state_dir": "state",
                    "grace": 2,
                    **site,
                }
            )
        )
        self.contexts = FLContextManager(identity_name=name)
        kind = ServerSitewardLauncher if name == "server" else ClientSitewardLauncher
        self.launcher = kind(str(self.site_file), shared)
        self.manager = SitewardResourceManager()
        self.event(EventType.SYSTEM_BOOTSTRAP)

    @property
    def bridge(self):
        """The launcher's own bridge."""
        return self.launcher._bridge

    def context(self, job_id=""):
        """Return a context with what FLARE's parent puts into it."""
        fl_ctx = self.contexts.new_context()
        workspace = Workspace(str(self.root), self.name)
        args = SimpleNamespace(set=["secure_train=true"], workspace=str(self.root))
        job_args = {
            "exe_module": ("-m", "probe"),
            "job_id": ("-n", job_id),
            "client_name": ("-c", self.name),
            "workspace": ("-m", str(self.root)),
            "startup_dir": ("-w", str(self.root / "startup")),
            "parent_url": ("-p", "tcp://localhost:4000"),
            "options": ("--set", " secure_train=true print_conf=True"),
            **CREDENTIALS,
        }
        values = {
            FLContextKey.JOB_PROCESS_ARGS: job_args,
            FLContextKey.WORKSPACE_OBJECT: workspace,
            FLContextKey.ARGS: args,
            FLContextKey.CURRENT_JOB_ID: job_id,
        }
        for key, value in values.items():
            fl_ctx.set_prop(key, value, private=True, sticky=False)
        return fl_ctx

    def event(self, name):
        """Fire an event at the launcher."""
        self.launcher.handle_event(name, self.context())

    def deploy(self, job_id, behaviour):
        """Put a job into the workspace, as FLARE does before it starts it."""
        custom = self.root / job_id / f"app_{self.name}" / "custom"
        custom.mkdir(parents=True, exist_ok=True)
        (custom / "probe.py").write_text(PROBE)
        (self.root / job_id / "behaviour.py").write_text(behaviour)

    def launch(self, job_id="job-1", behaviour="", **meta):
        """Deploy a job and launch it."""
        self.deploy(job_id, behaviour)
        return self.launcher.launch_job({"job_id": job_id, **meta}, self.context(job_id))

    def status(self, job_id="job-1"):
        """Return siteward's word on a job."""
        return self.bridge.site.attach(f"{job_id}-{self.name}").status()

    def told(self, job_id, name):
        """Return what a job has told under a name, as soon as it has."""
        file = self.root / job_id / name
        return json.loads(until(lambda: file.exists() and file.read_text(), what=f"{job_id} telling {name}"))

    def close(self):
        """End what runs, and the site's keeper with it."""
        self.event(EventType.SYSTEM_END)


def ends(handle, deadline=DEADLINE):
    """Wait for a job's end and return its code."""
    waiter = threading.Thread(target=handle.wait)
    waiter.start()
    waiter.join(deadline)
    assert not waiter.is_alive()
    return handle.poll()


@pytest.fixture
def make(tmp_path):
    """Make parents; each is closed at the end, and the keepers of their sites are ended."""
    made = []

    def make_parent(folder="a", **options):
        (tmp_path / folder).mkdir(exist_ok=True)
        made.append(Parent(tmp_path / folder, **options))
        return made[-1]

    yield make_parent
    for each in made:
        each.close()
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any(str(tmp_path) in word for word in words) and process.pid != os.getpid():
            process.kill()


@pytest.fixture
def parent(make):
    """One client's parent."""
    return make()


@pytest.fixture
def with_faults(tmp_path, monkeypatch):
    """The plugins of ``faults`` are installed; return the folder whose files say what happens."""
    monkeypatch.syspath_prepend(str(faults.install(tmp_path / "plugins")))
    monkeypatch.setenv("SITEWARD_TEST_FAULTS", str(tmp_path))
    yield tmp_path
    sys.modules.pop("faults", None)
