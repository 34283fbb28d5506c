"""The examples in the hooks' docstrings are working code: put together, they are plugins."""

import ast
import contextlib
import doctest
import inspect
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import attrs
import pytest

import siteward
from siteward import Job, JobRef, JobState, Plugins, Site, SiteFile
from siteward.hookspecs import (
    BACKEND_HOOKS,
    PLUGIN_HOOKS,
    RESOURCE_HOOKS,
    BackendSpec,
    PluginSpec,
    ResourceSpec,
)

SPECS = {**dict.fromkeys(BACKEND_HOOKS, BackendSpec), **dict.fromkeys(RESOURCE_HOOKS, ResourceSpec)}
SPECS |= dict.fromkeys(PLUGIN_HOOKS, PluginSpec)


def examples(hook):
    """Run a hook's example as a reader would, after ``from siteward import *``, and return the hook."""
    names = {**{name: getattr(siteward, name) for name in siteward.__all__}, "attrs": attrs, "sys": sys}
    for each in doctest.DocTestParser().get_examples(inspect.getdoc(getattr(SPECS[hook], hook)) or ""):
        exec(compile(each.source, hook, "exec"), names)
    return names[hook]


class Queue:
    """The platform of the examples: a queue with one process for each number."""

    def __init__(self, site):
        self.site, self.processes, self.refs, self.outputs, self.cancelled = site, {}, {}, {}, []

    def submit(self, argv, env, folder, output, key):
        known = next((number for number, ref in self.refs.items() if ref.job_id == key), None)
        if known is not None:
            return known
        number = len(self.processes) + 1
        with Path(output).open("wb") as stream:
            environment = {"PATH": os.defpath, **env}
            self.processes[number] = subprocess.Popen(
                argv, cwd=folder, env=environment, stdout=stream, stderr=stream, start_new_session=True
            )
        self.outputs[number] = Path(output)
        self.refs[number] = JobRef(site=self.site, backend="queue", job_id=key, data={"number": number})
        return number

    def exit_code(self, number):
        code = self.processes[number].poll()
        return code if code is None or code >= 0 else 128 - code

    def cancel(self, number, kill_after):
        self.cancelled.append((number, kill_after))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.processes[number].pid, signal.SIGKILL)

    def on_change(self, tell):
        raise siteward.Unreachable("this queue tells of nothing by itself")

    def upload(self, number, source):
        assert source.is_dir()

    def download(self, number, target):
        return target.is_dir()

    def output(self, number, follow, tail):
        yield self.outputs[number].read_bytes()

    def ref_of(self, number):
        return self.refs[number]

    def numbers(self):
        return list(self.refs)

    def forget(self, number):
        del self.refs[number]

    def close(self):
        pass


@pytest.mark.parametrize("hook", SPECS)
def test_every_hook_is_documented(hook):
    """Its docstring says what None means and what an exception does, and has an example that defines it."""
    words = inspect.getdoc(getattr(SPECS[hook], hook)) or ""
    assert "None" in words, "say what None means"
    assert "xception" in words, "say what an exception does"
    assert "acts" in words or "in the order of their names" in words, "say the order among plugins"
    assert examples(hook).__name__ == hook


def test_the_examples_of_a_backend_and_a_manager_run_jobs(tmp_path):
    """One job succeeds, one is stopped, one is refused its resources; the observers' examples hear of it."""

    @attrs.frozen(kw_only=True)
    class SiteOptions:
        max_priority: int = attrs.field(default=5, metadata={"help": "the highest priority a job may ask for"})

    @attrs.frozen(kw_only=True)
    class JobOptions:
        priority: int = attrs.field(default=0, metadata={"help": "higher runs first"})

    def set_up(self, context, options):
        self.queue, self.options = Queue(context.site), options

    def set_up_manager(self, context, options):
        self.free, self.held = ["a", "b"], {}

    backend = {hook: examples(hook) for hook in BACKEND_HOOKS}
    backend |= {"__init__": set_up, "api": 1, "JobOptions": JobOptions, "SiteOptions": SiteOptions}
    manager = {hook: examples(hook) for hook in RESOURCE_HOOKS} | {"__init__": set_up_manager, "api": 1}
    observer = types.ModuleType("observer")
    vars(observer).update({hook: examples(hook) for hook in PLUGIN_HOOKS}, api=1)
    plugins = Plugins()
    plugins.add("siteward.backends", "queue", type("Queue", (), backend))
    plugins.add("siteward.resources", "seats", type("Seats", (), manager))
    plugins.add("siteward.plugins", "observer", observer)
    file = SiteFile.from_mapping(
        {
            "name": "s",
            "backends": {"queue": {}},
            "default_backend": "queue",
            "resources": {"seats": {}},
            "state_dir": str(tmp_path / "state"),
            "poll_interval": 0.02,
        }
    )

    def job(command, **more):
        return Job.from_mapping({"name": "x", "command": command, **more})

    with Site(file, plugins=plugins) as site:
        good = site.launch(job(["sh", "-c", "echo $SEATS"], resource_spec={"s": {"seats": 1}}))
        assert good.wait(30).state is JobState.SUCCEEDED
        assert list(good.logs()) in ([b"a\n"], [b"b\n"])
        stopped = site.launch(job(["sleep", "60"]))
        stopped.terminate()
        result = stopped.wait(30)
        assert result.state is JobState.ABORTED
        assert result.report.log_tail == ""
        with pytest.raises(siteward.ResourcesRefused, match="3 seats asked, 2 free"):
            site.launch(job(["true"], resource_spec={"s": {"seats": 3}}))
        with pytest.raises(siteward.OptionsRefused, match="expected at most 5"):
            site.launch(job(["true"], launcher_spec={"s": {"queue": {"priority": 9}}}))
        assert site.render(job(["true"])) == {"argv": ["true"]}
        assert site.resources()["seats"]["held"] == {}
        assert [each.message for each in site.doctor() if each.subject == "queue"] == ["0 jobs"]


def test_examples_fit_on_a_page():
    """They parse alone, and are short."""
    for hook in SPECS:
        text = inspect.getdoc(getattr(SPECS[hook], hook)) or ""
        source = "".join(each.source for each in doctest.DocTestParser().get_examples(text))
        assert isinstance(ast.parse(source).body[0], ast.FunctionDef)
        assert len(source.splitlines()) <= 10
