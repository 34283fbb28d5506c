"""Promises: what a test of the contract is, when it applies, and that none is dropped in silence."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import frozen

from siteward.hookspecs import BACKEND_HOOKS

if TYPE_CHECKING:
    from siteward.testing.kit import Kit

F = TypeVar("F", bound=Callable[..., Any])

FALLBACKS: Mapping[str, str] = {
    "siteward_resolve_options": "options are taken as read",
    "siteward_watch_jobs": "ends are seen by polling",
    "siteward_stage_job": "the job directory is shared",
    "siteward_collect_job": "the job directory is shared, and counts as returned",
    "siteward_read_logs": "the output is, after the end, what the backend wrote to the request's log file",
    "siteward_list_jobs": "only the site's store knows the jobs",
    "siteward_remove_job": "there is nothing to remove",
    "siteward_render_job": "rendering is refused in words",
    "siteward_check_backend": "doctor says that nothing is checked",
    "siteward_close_backend": "closing does nothing",
}


def needs(*hooks: str, processes: bool = False, files: bool = False) -> Callable[[F], F]:
    """Mark a promise of backends that implement these hooks, or that takes a look past the backend to check."""
    unknown = set(hooks) - set(BACKEND_HOOKS)
    if unknown:
        raise ValueError(f"no such hook: {', '.join(sorted(unknown))}")

    def mark(test: F) -> F:
        test.__dict__.update(needs_hooks=hooks, needs_processes=processes, needs_files=files)
        return test

    return mark


def without(hook: str) -> Callable[[F], F]:
    """Mark the promise of a fallback: it applies to backends that do not implement this hook."""
    if hook not in FALLBACKS:
        raise ValueError(f"no such optional hook: {hook}")

    def mark(test: F) -> F:
        test.__dict__.update(without_hook=hook)
        return test

    return mark


def promises_of(contract: type) -> dict[str, Callable[..., Any]]:
    """Return the promises of a contract class by test name, in the order in which they are written."""
    found: dict[str, Callable[..., Any]] = {}
    for cls in reversed(contract.__mro__):
        found |= {name: test for name, test in vars(cls).items() if name.startswith("test_") and callable(test)}
    return found


def promise_of(contract: type, name: str) -> Callable[..., Any]:
    """Return one promise's test."""
    return promises_of(contract)[name]


def words_of(test: Callable[..., Any]) -> str:
    """Return a promise in words: the first line of its test's docstring."""
    return (inspect.getdoc(test) or test.__name__).splitlines()[0].rstrip(".")


def describe_drops(contract: Any, base: type) -> str:
    """Say how a contract class drops or bends promises of its base; empty if it keeps them all."""
    changed = [name for name, test in promises_of(base).items() if inspect.getattr_static(contract, name) is not test]
    if changed:
        problem = f"replaces {', '.join(changed)}"
    elif not getattr(contract, "__test__", True):
        problem = "switches all of them off with __test__"
    elif getattr(contract, "pytestmark", None):
        problem = "marks all of them with pytestmark"
    else:
        return ""
    how = "declare it with a reason instead: declared_deviations = {'test_…': 'reason'}"
    return f"{contract.__name__} drops promises of the contract: it {problem}. If the platform cannot keep one, {how}"


def check_deviations(contract: Any, base: type) -> str:
    """Say what is wrong with the declared deviations; empty if nothing is."""
    known = promises_of(base)
    for name, reason in contract.declared_deviations.items():
        if name not in known:
            return f"{contract.__name__}.declared_deviations: there is no promise {name!r}"
        if not isinstance(reason, str) or not reason.strip():
            return f"{contract.__name__}.declared_deviations[{name!r}]: say the reason in words"
    return ""


@frozen
class Applicability:
    """Whether a promise applies to a backend, and if not, why, in words."""

    applies: bool
    words: str = ""

    @classmethod
    def of(cls, test: Callable[..., Any], kit: Kit) -> Applicability:
        """Judge one promise by the hooks of the backend and by what the kit sees of its platform."""
        marks = test.__dict__
        hooks = kit.hooks
        for hook in marks.get("needs_hooks", ()):
            if hook not in hooks:
                return cls(False, f"{hook} is not implemented; its fallback is checked: {FALLBACKS[hook]}")
        without_hook = marks.get("without_hook")
        if without_hook in hooks:
            return cls(False, f"{without_hook} is implemented, this is the promise of its fallback")
        if marks.get("needs_processes") and not kit.platform.sees_processes:
            return cls(False, "the setup's platform gives no look at processes")
        if marks.get("needs_files") and not kit.platform.sees_files:
            return cls(False, "the setup's platform gives no look at a running job's files")
        return cls(True)
