"""The hooks are the contract of plugin authors: all of them are specified, documented, and their examples run."""

from __future__ import annotations

import doctest
import inspect
import re
import sys
from collections.abc import Callable

import attrs
import pytest

import siteward
from siteward import hookspecs
from siteward.hookspecs import BACKEND_HOOKS, PLUGIN_HOOKS, RESOURCE_HOOKS, BackendSpec, PluginSpec, ResourceSpec

SPECS = {BackendSpec: BACKEND_HOOKS, ResourceSpec: RESOURCE_HOOKS, PluginSpec: PLUGIN_HOOKS}
HOOKS = {name: getattr(spec, name) for spec, names in SPECS.items() for name in names}

# The arguments are part of the contract: plugins take them by name.
ARGUMENTS = {
    "siteward_launch_job": ["request"],
    "siteward_poll_job": ["ref"],
    "siteward_terminate_job": ["ref", "grace"],
    "siteward_resolve_options": ["options"],
    "siteward_watch_jobs": ["publish"],
    "siteward_stage_job": ["ref", "source"],
    "siteward_collect_job": ["ref", "target"],
    "siteward_read_logs": ["ref", "follow", "tail"],
    "siteward_list_jobs": [],
    "siteward_remove_job": ["ref"],
    "siteward_render_job": ["request"],
    "siteward_check_backend": [],
    "siteward_close_backend": [],
    "siteward_check_resources": ["requirement", "job_id"],
    "siteward_cancel_resources": ["token"],
    "siteward_allocate_resources": ["token", "job_id"],
    "siteward_free_resources": ["token"],
    "siteward_report_resources": [],
    "siteward_filter_failure_report": ["report"],
    "siteward_job_launched": ["ref"],
    "siteward_job_ended": ["ref", "result"],
}

# What each docstring says, in this order.
PARTS = {
    "its purpose": r"\A[A-Z][^\n]+\.$",
    "when it is called": r"\bCalled\b",
    "the order among plugins": r"one\s+(backend|manager)\s+acts|one\s+at\s+a\s+time\s+in\s+the\s+order",
    "what None means": r"\bNone\s+(is|means|counts|leaves|,)|Returns\s+None|for\s+None,|None,\s+or",
    "what an exception does": r"[Ee]xception|If\s+one\s+raises",
    "a runnable example": r"^>>> ",
}


def test_the_hooks_are_exactly_these() -> None:
    """Names and arguments of hooks are not changed by accident."""
    assert {name: list(inspect.signature(hook).parameters)[1:] for name, hook in HOOKS.items()} == ARGUMENTS


def test_three_hooks_make_a_backend() -> None:
    """Every other hook of a backend has a fallback in the core."""
    assert hookspecs.REQUIRED_BACKEND_HOOKS == (
        "siteward_launch_job",
        "siteward_poll_job",
        "siteward_terminate_job",
    )


@pytest.mark.parametrize("name", HOOKS)
def test_one_backend_or_manager_answers(name: str) -> None:
    """Backend and resource hooks stop at the first answer; those of every plugin go to all."""
    assert HOOKS[name].siteward_spec["firstresult"] == (name not in PLUGIN_HOOKS)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", HOOKS)
def test_each_hook_is_documented(name: str, part: str) -> None:
    """Purpose, when, order, None, exceptions and an example are all there."""
    text = inspect.getdoc(HOOKS[name]) or ""
    assert re.search(PARTS[part], text, re.MULTILINE), f"{name} does not say {part}"


@pytest.mark.parametrize("name", HOOKS)
def test_the_example_comes_last(name: str) -> None:
    """Whoever reads on has read the rules."""
    text = inspect.getdoc(HOOKS[name]) or ""
    prose, _, example = text.partition(">>> ")
    assert prose.strip()
    assert f"def {name}(" in example


def _examples(hook: Callable[..., object], name: str) -> doctest.DocTest:
    globs = {each: getattr(siteward, each) for each in siteward.__all__} | {"attrs": attrs, "sys": sys}
    return doctest.DocTestParser().get_doctest(inspect.getdoc(hook) or "", globs, name, None, None)


@pytest.mark.parametrize("name", HOOKS)
def test_the_example_runs_and_would_be_accepted(name: str) -> None:
    """The example runs as it is printed, and the loader finds nothing wrong with the hook in it."""
    test = _examples(HOOKS[name], name)
    assert test.examples
    assert doctest.DocTestRunner().run(test, clear_globs=False).failed == 0
    function = test.globs[name]
    assert function.siteward_impl["specname"] is None
    taken = [argument for argument in inspect.signature(function).parameters if argument != "self"]
    assert set(taken) <= set(ARGUMENTS[name])


def test_the_publisher_is_documented() -> None:
    """What a watch is given is part of the contract too."""
    assert inspect.getdoc(hookspecs.Publish)
    assert inspect.getdoc(hookspecs.Publish.failed)
