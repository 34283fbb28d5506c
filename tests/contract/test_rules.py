"""The kit's own rules: no promise is dropped in silence, and the report names every one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from siteward.hookspecs import BACKEND_HOOKS, REQUIRED_BACKEND_HOOKS
from siteward.testing import BackendContract
from siteward.testing.promises import FALLBACKS, needs, promises_of, without, words_of

HERE = Path(__file__).parent
PROMISE = "test_arguments_are_exact"
WORDS = words_of(promises_of(BackendContract)[PROMISE])


def replaced(name, value):
    return lambda: type("TestMine", (BackendContract,), {name: value})


def mixed_in():
    mixin = type("Mixin", (), {PROMISE: None})
    return type("TestMine", (mixin, BackendContract), {})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (replaced(PROMISE, None), f"replaces {PROMISE}"),
        (replaced(PROMISE, lambda self: None), f"replaces {PROMISE}"),
        (mixed_in, f"replaces {PROMISE}"),
        (replaced("__test__", False), "switches all of them off"),
        (replaced("pytestmark", [pytest.mark.skip]), "marks all of them"),
        (replaced("declared_deviations", {"test_no_such": "reason"}), "there is no promise 'test_no_such'"),
        (replaced("declared_deviations", {PROMISE: " "}), "say the reason in words"),
    ],
    ids=["to None", "by a test", "by a mixin", "by __test__", "by pytestmark", "unknown deviation", "no reason"],
)
def test_a_subclass_cannot_drop_a_promise(make, words):
    """A class that replaces, hides, marks or switches off a promise is refused when it is made, in words."""
    with pytest.raises(TypeError, match=re.escape(words)):
        make()


def test_a_subclass_may_add_tests_of_its_own():
    """A subclass has tests of its own beside the promises."""
    assert type("TestMine", (BackendContract,), {"test_of_mine": lambda self: None}).test_of_mine


def test_every_promise_has_words():
    """Every promise has words of its own: the first line of its docstring, one whole sentence."""
    words = [words_of(test) for test in promises_of(BackendContract).values()]
    assert len(set(words)) == len(words) > 50
    assert [each for each in words if (not each[0].isupper() and each[0] != "{") or each.startswith("test_")] == []


def test_every_optional_hook_has_a_promise_and_a_fallback():
    """For every hook that a backend need not have, a promise needs it and the kit knows what the core does without."""
    optional = set(BACKEND_HOOKS) - set(REQUIRED_BACKEND_HOOKS)
    assert set(FALLBACKS) == optional
    tests = promises_of(BackendContract).values()
    needed = {hook for test in tests for hook in test.__dict__.get("needs_hooks", ())}
    shared = {"siteward_stage_job", "siteward_collect_job"}  # every promise about files goes through them
    assert needed == optional - shared


@pytest.mark.parametrize("mark", [needs, without])
def test_marks_know_the_hooks(mark):
    """A promise cannot be tied to a hook that does not exist."""
    with pytest.raises(ValueError, match="no such"):
        mark("siteward_lunch_job")


MODULE = """
import importlib.util, sys
import pytest
from siteward.testing import BackendContract, BackendSetup

pytest_plugins = ["siteward.testing.fixtures"]
package = sys.modules["contract"] = importlib.util.module_from_spec(importlib.util.spec_from_loader("contract", None))
package.__path__ = [{here!r}]
from contract import backends, bad

class TestIt(BackendContract):
    {deviations}
    @pytest.fixture
    def backend_setup(self):
        return BackendSetup(name="it", plugin={plugin}, patience=0.4)

{rest}
"""


def report(folder, *options, plugin="backends.Full", deviations="", rest=""):
    """Run some promises on a backend in a pytest of its own; return what it prints."""
    module = MODULE.format(here=str(HERE), plugin=plugin, deviations=deviations, rest=rest)
    (folder / "test_it.py").write_text(module)
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:asyncio",
        *options,
        "test_it.py",
    ]
    run = subprocess.run(
        [*command, f"--basetemp={folder}/base"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=100,
    )
    return run.stdout


def test_report_names_every_promise(tmp_path):
    """The report has a line for each promise, also for those that did not run, and counts them."""
    output = report(tmp_path, "-k", "arguments_are_exact or without_rendering")
    rest = len(promises_of(BackendContract)) - 2
    assert f"contract of backend 'it' (TestIt): 1 checked, 1 not applicable, {rest} not run" in output
    assert re.search(rf"^checked +{re.escape(WORDS)}$", output, re.MULTILINE)
    lines = re.findall(r"^(?:checked|not run|not applicable) +(.*?)(?: \(.*\))?$", output, re.MULTILINE)
    assert lines == [words_of(test) for test in promises_of(BackendContract).values()]
    assert "siteward_render_job is implemented, this is the promise of its fallback" in output
    assert re.search(r"1 passed, .*1 not applicable in", output.splitlines()[-1])


def test_report_says_what_a_missing_hook_means(tmp_path):
    """Promises of a hook that the backend does not have are reported with the fallback that is checked instead."""
    output = report(tmp_path, "-k", "ends_need_no_poll", plugin="backends.Minimal")
    assert "siteward_watch_jobs is not implemented; its fallback is checked: ends are seen by polling" in output


def test_declared_deviation_is_reported_with_its_reason(tmp_path):
    """A promise that is declared not to be kept is no failure, and the report gives the reason."""
    deviations = f'declared_deviations = {{"{PROMISE}": "this platform has only a shell"}}'
    output = report(tmp_path, "-k", PROMISE, plugin="bad.UsesAShell", deviations=deviations)
    assert "1 xfailed" in output
    assert re.search(rf"^deviation +{re.escape(WORDS)} \(this platform has only a shell\)$", output, re.MULTILINE)


def test_declared_deviation_that_is_none_fails(tmp_path):
    """A promise that is declared not to be kept and is kept all the same fails: the declaration must go."""
    deviations = f'declared_deviations = {{"{PROMISE}": "this platform has only a shell"}}'
    output = report(tmp_path, "-k", PROMISE, deviations=deviations)
    assert "1 failed" in output
    assert re.search(rf"^FAILED +{re.escape(WORDS)}", output, re.MULTILINE)


@pytest.mark.parametrize("rest", [f"TestIt.{PROMISE} = None", "TestIt.pytestmark = [pytest.mark.skip]"])
def test_promise_cannot_be_dropped_later(tmp_path, rest):
    """A promise that is dropped after the class was made stops the session, in words."""
    output = report(tmp_path, rest=rest)
    assert "TestIt drops promises of the contract" in output
    assert "checked" not in output


def test_kit_must_be_asked_for():
    """siteward registers no pytest plugin of its own accord, and importing it imports no pytest."""
    from importlib.metadata import entry_points

    assert [point for point in entry_points(group="pytest11") if point.value.startswith("siteward")] == []
    check = "import siteward, siteward.site, sys; sys.exit('pytest' in sys.modules)"
    subprocess.run(
        [sys.executable, "-c", check], check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    )
