"""What a plugin may be: the rules that are checked before it is registered, because pluggy lets them pass.

pluggy (1.7) says nothing of an undecorated hook, another project's marker, an ``async def`` or a generator in
place of a value, and would let any global plugin answer in a backend's place. All checks look at a plugin
statically: no property of it is evaluated.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType, MethodType, ModuleType
from typing import Any, TypeGuard

import attrs
from attrs import frozen

from siteward.config import nearest
from siteward.hookspecs import (
    API,
    BACKEND_HOOKS,
    PLUGIN_HOOKS,
    PROJECT,
    REQUIRED_BACKEND_HOOKS,
    REQUIRED_RESOURCE_HOOKS,
    RESOURCE_HOOKS,
    BackendSpec,
    PluginSpec,
    ResourceSpec,
)

BACKENDS = "siteward.backends"
RESOURCES = "siteward.resources"
GLOBAL = "siteward.plugins"
GROUPS = (BACKENDS, RESOURCES, GLOBAL)

DEVICES = ("env", "ids", "counts")

_OWN = {BACKENDS: BACKEND_HOOKS, RESOURCES: RESOURCE_HOOKS, GLOBAL: ()}
_REQUIRED = {BACKENDS: REQUIRED_BACKEND_HOOKS, RESOURCES: REQUIRED_RESOURCE_HOOKS, GLOBAL: ()}
_OPTION_CLASSES = {
    BACKENDS: ("JobOptions", "SiteOptions", "StudyOptions"),
    RESOURCES: ("SiteOptions",),
    GLOBAL: ("SiteOptions",),
}
_OWNER = {**dict.fromkeys(BACKEND_HOOKS, "backend"), **dict.fromkeys(RESOURCE_HOOKS, "resource manager")}
_ARGUMENTS = {
    name: tuple(inspect.signature(function).parameters)[1:]
    for spec in (BackendSpec, ResourceSpec, PluginSpec)
    for name, function in vars(spec).items()
    if name.startswith(PROJECT)
}
_PREFIX = f"{PROJECT}_"
_MARK = f"{PROJECT}_impl"
_GENERATOR_HOOKS = frozenset({"siteward_read_logs"})


@frozen
class _Attribute:
    """An attribute that is a hook or looks like one; without ``function`` pluggy would never call it."""

    name: str
    hook: str
    function: FunctionType | None
    marks: Mapping[str, Mapping[str, Any]]
    bound: bool

    @property
    def is_wrapper(self) -> bool:
        options = self.marks.get(_MARK, {})
        return bool(options.get("wrapper") or options.get("hookwrapper"))


def _attributes(plugin: object) -> Iterator[_Attribute]:
    own = {} if inspect.isclass(plugin) else getattr(plugin, "__dict__", {})
    for name in dir(plugin):
        static = inspect.getattr_static(plugin, name, None)
        wrapped = isinstance(static, staticmethod | classmethod | MethodType)
        inner = static.__func__ if wrapped else static
        function = inner if isinstance(inner, FunctionType) else None
        marks = {**_marks(inner), **_marks(static)}
        options = marks.get(_MARK)
        if options is None and (not name.startswith(_PREFIX) or isinstance(static, ModuleType)):
            continue
        # As pluggy binds: what an instance or a module holds itself is called as it is.
        bound = isinstance(static, classmethod | MethodType) or (static is inner and name not in own)
        yield _Attribute(name, (options or {}).get("specname") or name, function, marks, bound)


def _marks(thing: object) -> dict[str, Mapping[str, Any]]:
    own = getattr(thing, "__dict__", None)
    if not isinstance(own, Mapping) or isinstance(thing, type | ModuleType):
        return {}
    return {key: value for key, value in own.items() if key.endswith("_impl") and isinstance(value, Mapping)}


def _hook_problem(each: _Attribute, group: str) -> str | None:
    """Return what is wrong with one attribute by itself."""
    options = each.marks.get(_MARK)
    if options is None:
        for mark in each.marks:
            project = mark.removesuffix("_impl")
            return f"{each.name} has the marker of {project}; use `from siteward import hookimpl`"
        return f"{each.name} is not marked as a hook; put @hookimpl above it, or rename it"
    if each.function is None:
        return f"{each.name} is not a plain function or method, and would never be called"
    if each.hook not in _ARGUMENTS:
        if options.get("optionalhook"):
            return None
        close = nearest(each.hook, _ARGUMENTS)
        return f"{each.name}: there is no hook {each.hook}" + (f" (did you mean {close}?)" if close else "")
    if inspect.iscoroutinefunction(each.function) or inspect.isasyncgenfunction(each.function):
        return f"{each.name} is async; hooks are called from threads: write it as a plain function"
    if words := _argument_problem(each, each.function):
        return f"{each.name} {words}; the hook passes {', '.join(_ARGUMENTS[each.hook]) or 'nothing'}"
    is_generator = inspect.isgeneratorfunction(each.function)
    if each.is_wrapper and not is_generator:
        return f"{each.name} is marked as a wrapper but has no yield"
    if is_generator and not each.is_wrapper and each.hook not in _GENERATOR_HOOKS:
        return f"{each.name} has a yield; mark it @hookimpl(wrapper=True), or return its answer"
    return _place_problem(each, group)


def _argument_problem(each: _Attribute, function: Callable[..., Any]) -> str | None:
    parameters = list(inspect.signature(function).parameters.values())
    for parameter in parameters[1 if each.bound else 0 :]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.KEYWORD_ONLY):
            return f"takes {parameter}, which is never filled: name plain arguments"
        if parameter.name not in _ARGUMENTS[each.hook]:
            return f"has an argument {parameter.name!r} that is never passed"
    return None


def _place_problem(each: _Attribute, group: str) -> str | None:
    """Return why this hook has no place in a plugin of this group."""
    if each.hook in PLUGIN_HOOKS:
        return f"{each.name}: filters and observers cannot be wrapped" if each.is_wrapper else None
    if each.is_wrapper or each.hook in _OWN[group]:
        return None
    owner = _OWNER[each.hook]
    if group == GLOBAL:
        return f"{each.name}: only the {owner} itself answers this hook; mark it @hookimpl(wrapper=True)"
    return f"{each.name} belongs to a {owner}"


def api_problem(plugin: object) -> str | None:
    """Return what is wrong with the plugin's ``api``, the version of the hooks it is written for."""
    api = inspect.getattr_static(plugin, "api", None)
    if type(api) is int and api == API:
        return None
    where = "module" if inspect.ismodule(plugin) else "class"
    if type(api) is not int:
        return f"it does not say for which version of the hooks it is; write `api = {API}` in the {where}"
    return f"it is for version {api} of the hooks, and this siteward has {API}; upgrade the older of the two"


def is_site_class(plugin: object) -> TypeGuard[type[Any]]:
    """Whether a global plugin is a class with ``SiteOptions``, of which each open site has an instance."""
    return inspect.isclass(plugin) and inspect.getattr_static(plugin, "SiteOptions", None) is not None


def plugin_problems(plugin: object, group: str) -> list[str]:
    """Return every rule that a plugin of this group breaks, in words.

    A backend or resource manager is judged by its class or by an instance; so is a global plugin with SiteOptions,
    any other as it is.
    """
    if group != GLOBAL and inspect.ismodule(plugin):
        return ["the entry point names a module, not a class"]
    if plugin is None:
        return ["the entry point names nothing (None)"]
    problems = [words] if (words := api_problem(plugin)) else []
    attributes = list(_attributes(plugin))
    is_other_class = inspect.isclass(plugin) and not is_site_class(plugin)
    if group == GLOBAL and is_other_class and any(each.bound for each in attributes):
        words = "the entry point names a class; let it name an instance of it, or give the class SiteOptions"
        return [*problems, words]
    problems += [words for each in attributes if (words := _hook_problem(each, group))]
    count = Counter(each.hook for each in attributes if _MARK in each.marks and not each.is_wrapper)
    problems += [f"{hook} is missing, and required" for hook in _REQUIRED[group] if not count[hook]]
    twice = [hook for hook, times in count.items() if times > 1 and hook in _OWN[group]]
    problems += [f"{hook} is implemented more than once" for hook in twice]
    if group == BACKENDS and (devices := inspect.getattr_static(plugin, "devices", DEVICES[0])) not in DEVICES:
        problems.append(f"devices is {devices!r}; expected one of {', '.join(DEVICES)}")
    for name in _OPTION_CLASSES[group]:
        options = inspect.getattr_static(plugin, name, None)
        if options is not None and not (inspect.isclass(options) and attrs.has(options)):
            problems.append(f"{name} is not an attrs class")
    return problems


def backend_hooks(backend: object) -> frozenset[str]:
    """Return the names of the backend hooks that a backend (its class or an instance) implements."""
    return frozenset(
        each.hook
        for each in _attributes(backend)
        if each.hook in BACKEND_HOOKS and _MARK in each.marks and not each.is_wrapper
    )
