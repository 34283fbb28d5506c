"""The loader: only what is needed, each by itself, and every rule that pluggy would let pass in silence."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import pluggy
import pytest

from siteward.errors import PluginError
from siteward.hookspecs import BACKEND_HOOKS, PLUGIN_HOOKS, RESOURCE_HOOKS, hookimpl
from siteward.pluginrules import BACKENDS, GLOBAL, RESOURCES, plugin_problems
from siteward.plugins import Plugins, backend_hooks

other_hookimpl = pluggy.HookimplMarker("other")


class Good:
    api = 1

    def __init__(self, context: Any = None, options: Any = None) -> None:
        self.options = options

    @hookimpl
    def siteward_launch_job(self, request):
        return "launched"

    @hookimpl
    def siteward_poll_job(self, ref):
        return "polled"

    @hookimpl
    def siteward_terminate_job(self, ref, grace):
        return None


class GoodManager:
    api = 1

    def __init__(self, context: Any = None, options: Any = None) -> None:
        pass

    @hookimpl
    def siteward_check_resources(self, requirement, job_id): ...

    @hookimpl
    def siteward_cancel_resources(self, token): ...

    @hookimpl
    def siteward_allocate_resources(self, token, job_id): ...

    @hookimpl
    def siteward_free_resources(self, token): ...

    @hookimpl
    def siteward_report_resources(self): ...


class GoodGlobal:
    api = 1

    @hookimpl(wrapper=True)
    def siteward_launch_job(self, request):
        return f"wrapped {(yield)}"

    @hookimpl
    def siteward_filter_failure_report(self, report): ...

    @hookimpl
    def siteward_job_ended(self, result): ...


def made(base: type, **members: Any) -> type:
    """Return a plugin class with these members changed; None takes one away."""
    kept = {name: value for name, value in vars(base).items() if not name.startswith("__") or name == "__init__"}
    members = {**kept, **members}
    return type("Plugin", (), {name: value for name, value in members.items() if value is not ...})


def hook(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    return hookimpl(**options)(function)


def plain(self, ref): ...


def yielding(self, ref):
    yield


async def coroutine(self, ref): ...


async def async_generator(self, ref):
    yield


def wrapper(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def inner(*args, **kwargs):
        return function(*args, **kwargs)

    return inner


def copied(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a fresh function, so that markers of one test are not seen by the next."""
    return type(function)(function.__code__, function.__globals__, function.__name__, function.__defaults__)


class Loud:
    """Raises when anybody evaluates its properties."""

    @property
    def noise(self):
        raise RuntimeError("evaluated")


# group, the plugin's class, words of the refusal (None: it is fine)
RULES: dict[str, tuple[str, type, str | None]] = {
    "a backend of three hooks": (BACKENDS, Good, None),
    "a resource manager": (RESOURCES, GoodManager, None),
    "a global plugin": (GLOBAL, GoodGlobal, None),
    "a property that raises": (BACKENDS, made(Good, noise=Loud.noise), None),
    "fewer arguments": (BACKENDS, made(Good, siteward_terminate_job=hook(lambda self, ref: None)), None),
    "arguments in another order": (
        BACKENDS,
        made(Good, siteward_terminate_job=hook(lambda self, grace, ref: None)),
        None,
    ),
    "another name for self": (BACKENDS, made(Good, siteward_poll_job=hook(lambda this, ref: None)), None),
    "a static method": (BACKENDS, made(Good, siteward_poll_job=staticmethod(hook(lambda ref: None))), None),
    "a class method": (BACKENDS, made(Good, siteward_poll_job=classmethod(hook(lambda cls, ref: None))), None),
    "a marker above a class method": (
        BACKENDS,
        made(Good, siteward_poll_job=hookimpl(classmethod(lambda cls, ref: None))),
        None,
    ),
    "a decorated hook": (BACKENDS, made(Good, siteward_poll_job=hook(wrapper(lambda self, ref: None))), None),
    "logs as a generator": (BACKENDS, made(Good, siteward_read_logs=hook(copied(yielding))), None),
    "another name by specname": (
        BACKENDS,
        made(Good, siteward_poll_job=..., look=hook(copied(plain), specname="siteward_poll_job")),
        None,
    ),
    "an optional unknown hook": (BACKENDS, made(Good, siteward_new=hook(copied(plain), optionalhook=True)), None),
    "a backend that observes": (BACKENDS, made(Good, siteward_job_launched=hook(copied(plain))), None),
    "a backend that wraps itself": (
        BACKENDS,
        made(Good, timed=hook(copied(yielding), wrapper=True, specname="siteward_poll_job")),
        None,
    ),
    "other projects' hooks beside": (
        BACKENDS,
        made(Good, pytest_configure=other_hookimpl(lambda self, config: None)),
        None,
    ),
    "no api": (BACKENDS, made(Good, api=...), "write `api = 1` in the class"),
    "an api of tomorrow": (BACKENDS, made(Good, api=2), "version 2 of the hooks, and this siteward has 1"),
    "an api of text": (BACKENDS, made(Good, api="1"), "write `api = 1`"),
    "an api of true": (BACKENDS, made(Good, api=True), "write `api = 1`"),
    "an api that is computed": (BACKENDS, made(Good, api=property(lambda self: 1)), "write `api = 1`"),
    "no poll": (BACKENDS, made(Good, siteward_poll_job=...), "siteward_poll_job is missing"),
    "a poll that is only wrapped": (
        BACKENDS,
        made(Good, siteward_poll_job=hook(copied(yielding), wrapper=True)),
        "siteward_poll_job is missing",
    ),
    "two polls": (
        BACKENDS,
        made(Good, look=hook(copied(plain), specname="siteward_poll_job")),
        "siteward_poll_job is implemented more than once",
    ),
    "an unknown hook": (
        BACKENDS,
        made(Good, siteward_pol_job=hook(copied(plain))),
        "no hook siteward_pol_job (did you mean siteward_poll_job?)",
    ),
    "an undecorated hook": (
        BACKENDS,
        made(Good, siteward_read_logs=plain),
        "siteward_read_logs is not marked as a hook",
    ),
    "an undecorated unknown hook": (BACKENDS, made(Good, siteward_helper=plain), "siteward_helper is not marked"),
    "an undecorated property": (BACKENDS, made(Good, siteward_loud=Loud.noise), "siteward_loud is not marked"),
    "another project's marker": (
        BACKENDS,
        made(Good, siteward_poll_job=other_hookimpl(copied(plain))),
        "siteward_poll_job has the marker of other",
    ),
    "an async hook": (BACKENDS, made(Good, siteward_poll_job=hook(copied(coroutine))), "siteward_poll_job is async"),
    "an async generator": (
        BACKENDS,
        made(Good, siteward_read_logs=hook(copied(async_generator))),
        "siteward_read_logs is async",
    ),
    "an argument that is not passed": (
        BACKENDS,
        made(Good, siteward_poll_job=hook(lambda self, reference: None)),
        "has an argument 'reference' that is never passed; the hook passes ref",
    ),
    "a default that hides a typing error": (
        BACKENDS,
        made(Good, siteward_poll_job=hook(lambda self, ref, tial=None: None)),
        "has an argument 'tial'",
    ),
    "keywords that are never filled": (
        BACKENDS,
        made(Good, siteward_poll_job=hook(lambda self, **kwargs: None)),
        "takes **kwargs, which is never filled",
    ),
    "keyword-only arguments": (
        BACKENDS,
        made(Good, siteward_poll_job=hook(lambda self, *, ref: None)),
        "takes ref, which is never filled",
    ),
    "a partial": (
        BACKENDS,
        made(Good, siteward_poll_job=hook(functools.partial(plain, None))),
        "is not a plain function",
    ),
    "a yield without wrapper": (
        BACKENDS,
        made(Good, siteward_poll_job=hook(copied(yielding))),
        "siteward_poll_job has a yield; mark it @hookimpl(wrapper=True)",
    ),
    "a wrapper without yield": (
        BACKENDS,
        made(Good, look=hook(copied(plain), wrapper=True, specname="siteward_poll_job")),
        "is marked as a wrapper but has no yield",
    ),
    "a backend that hands out resources": (
        BACKENDS,
        made(Good, siteward_free_resources=hook(lambda self, token: None)),
        "siteward_free_resources belongs to a resource manager",
    ),
    "a manager that launches": (
        RESOURCES,
        made(GoodManager, siteward_poll_job=hook(copied(plain))),
        "siteward_poll_job belongs to a backend",
    ),
    "half a manager": (RESOURCES, made(GoodManager, siteward_free_resources=...), "siteward_free_resources is missing"),
    "options that are no attrs class": (BACKENDS, made(Good, JobOptions=dict), "JobOptions is not an attrs class"),
    "devices that come in no known way": (
        BACKENDS,
        made(Good, devices="mounts"),
        "devices is 'mounts'; expected one of env, ids, counts",
    ),
    "a global plugin that launches": (
        GLOBAL,
        made(GoodGlobal, siteward_launch_job=hook(lambda self, request: None, tryfirst=True)),
        "siteward_launch_job: only the backend itself answers this hook",
    ),
    "a global plugin that reserves": (
        GLOBAL,
        made(GoodGlobal, siteward_check_resources=hook(lambda self, requirement: None)),
        "only the resource manager itself answers",
    ),
    "an old wrapper": (
        GLOBAL,
        made(GoodGlobal, siteward_poll_job=hook(copied(yielding), hookwrapper=True)),
        None,
    ),
    "a wrapper of a filter": (
        GLOBAL,
        made(GoodGlobal, siteward_filter_failure_report=hook(copied(yielding), wrapper=True, specname=None)),
        "has an argument 'ref'",
    ),
    "a wrapper of an observer": (
        GLOBAL,
        made(GoodGlobal, siteward_job_launched=hook(copied(yielding), wrapper=True)),
        "siteward_job_launched: filters and observers cannot be wrapped",
    ),
    "an old wrapper of an observer": (
        GLOBAL,
        made(GoodGlobal, siteward_job_launched=hook(copied(yielding), hookwrapper=True)),
        "filters and observers cannot be wrapped",
    ),
}


def registered(plugins: Plugins, manager: pluggy.PluginManager) -> dict[str, int]:
    hooks = [*BACKEND_HOOKS, *RESOURCE_HOOKS, *PLUGIN_HOOKS]
    return {name: len(getattr(manager.hook, name).get_hookimpls()) for name in hooks}


@pytest.mark.parametrize("name", RULES)
def test_each_rule_is_checked_when_a_plugin_is_loaded(name: str) -> None:
    """A plugin that breaks a rule is broken, with the rule in words, and the others go on."""
    group, cls, words = RULES[name]
    plugins = Plugins(disabled=())
    plugins.add(group, "subject", cls() if group == GLOBAL else cls, distribution="subject-dist")
    plugins.add(GLOBAL, "zz-good", GoodGlobal())
    [record] = [record for record in plugins.records() if record.name == "subject"]
    assert (record.status, record.distribution) == ("loaded" if words is None else "broken", "subject-dist")
    assert words is None or words in record.reason
    assert "zz-good" in [name for name, _ in plugins.global_plugins()]
    assert plugins.broken() == ([] if words is None else [record])


@pytest.mark.parametrize("name", [name for name in RULES if RULES[name][0] != GLOBAL])
def test_each_rule_is_checked_when_a_plugin_is_registered(name: str) -> None:
    """An instance is judged like its class, and a refused one leaves nothing in the manager."""
    group, cls, words = RULES[name]
    plugins = Plugins(disabled=())
    manager = plugins.make_manager()
    before = registered(plugins, manager)
    register = plugins.register_backend if group == BACKENDS else plugins.register_resource_manager
    if words is None:
        register(manager, cls(), "subject")
        assert registered(plugins, manager) != before
        return
    with pytest.raises(PluginError, match="'subject' is broken: ") as caught:
        register(manager, cls(), "subject")
    assert words in str(caught.value)
    assert caught.value.name == "subject"
    assert registered(plugins, manager) == before
    assert manager.list_name_plugin() == []
    register(manager, Good() if group == BACKENDS else GoodManager(), "good")


def test_all_broken_rules_are_told_at_once() -> None:
    """An author need not come back for each."""
    cls = made(Good, api=..., siteward_poll_job=..., siteward_new=hook(copied(plain)))
    assert len(plugin_problems(cls, BACKENDS)) == 3


def test_wrappers_of_global_plugins_surround_the_backend() -> None:
    """A wrapper sees the backend's answer, and cannot take its place."""
    plugins = Plugins(disabled=())
    plugins.add(GLOBAL, "wrapping", GoodGlobal())
    manager = plugins.make_manager()
    plugins.register_backend(manager, Good(), "good")
    assert manager.hook.siteward_launch_job(request=None) == "wrapped launched"


def test_a_manager_holds_one_backend() -> None:
    """A second one would never be asked."""
    plugins = Plugins(disabled=())
    manager = plugins.make_manager()
    plugins.register_backend(manager, Good(), "first")
    with pytest.raises(PluginError, match="'first' is in it"):
        plugins.register_backend(manager, Good(), "second")


def test_one_object_under_two_names_is_refused_once() -> None:
    """Its second name is broken, the first works."""
    plugins, plugin = Plugins(disabled=()), GoodGlobal()
    plugins.add(GLOBAL, "a", plugin)
    plugins.add(GLOBAL, "b", plugin)
    assert [name for name, _ in plugins.global_plugins()] == ["a"]
    assert [record.name for record in plugins.broken()] == ["b"]


def a_module(**members: Any) -> ModuleType:
    module = ModuleType("a_plugin")
    vars(module).update(members)
    return module


def test_a_module_can_be_a_global_plugin() -> None:
    """Its functions are hooks; modules that it imports are not, whatever their names."""
    plugins = Plugins(disabled=())
    hooks = {"siteward_job_ended": hook(lambda ref, result: None)}
    plugins.add(GLOBAL, "module", a_module(api=1, siteward_docker=ModuleType("siteward_docker"), **hooks))
    assert plugins.global_plugins()[0][0] == "module"


REFUSED = {
    "a module without api": (GLOBAL, a_module(), "write `api = 1` in the module"),
    "a class as global plugin": (GLOBAL, GoodGlobal, "names a class; let it name an instance"),
    "nothing": (GLOBAL, None, "names nothing"),
    "a module as backend": (BACKENDS, a_module(api=1), "does not name a class"),
    "a function as backend": (BACKENDS, lambda context, options: Good(), "does not name a class"),
    "an instance as backend": (BACKENDS, Good(), "does not name a class"),
    "nothing as resource manager": (RESOURCES, None, "does not name a class"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_entry_point_names_what_its_group_asks_for(name: str) -> None:
    """Classes for backends and managers; modules or objects for the rest."""
    group, plugin, words = REFUSED[name]
    plugins = Plugins(disabled=())
    plugins.add(group, "subject", plugin)
    [record] = [record for record in plugins.records() if record.name == "subject"]
    assert words in record.reason


def test_hooks_of_a_backend_are_known_without_making_one() -> None:
    """Its class and an instance say the same; wrappers and other plugins' hooks do not count."""
    cls = made(
        Good,
        siteward_list_jobs=hook(lambda self: []),
        siteward_job_launched=hook(copied(plain)),
        timed=hook(lambda self: (yield), wrapper=True, specname="siteward_check_backend"),
    )
    expected = {"siteward_launch_job", "siteward_poll_job", "siteward_terminate_job", "siteward_list_jobs"}
    assert backend_hooks(cls) == backend_hooks(cls()) == expected


def test_a_frozen_attrs_class_with_slots_is_a_fine_backend() -> None:
    """Whatever kind of class an author likes."""
    cls = attrs.frozen(type("Slotted", (), {k: v for k, v in vars(made(Good)).items() if k != "__init__"}))
    plugins = Plugins(disabled=())
    manager = plugins.make_manager()
    plugins.register_backend(manager, cls(), "slotted")
    assert manager.hook.siteward_poll_job(ref=None) == "polled"


def test_a_name_that_is_not_there_is_told_with_the_nearest_and_the_broken() -> None:
    """What is installed, what was probably meant, and what is broken, all in one error."""
    plugins = Plugins(disabled=())
    plugins.add(BACKENDS, "docker", Good)
    plugins.add(BACKENDS, "k8s", made(Good, api=...), distribution="siteward-k8s")
    plugins.records()
    with pytest.raises(PluginError, match="no backend 'dokcer'; did you mean 'docker'\\?") as caught:
        plugins.backend("dokcer")
    assert "k8s of siteward-k8s (it does not say" in str(caught.value)
    with pytest.raises(PluginError, match="backend 'k8s' of siteward-k8s is broken: it does not say"):
        plugins.backend("k8s")
    with pytest.raises(PluginError, match="no resource manager 'docker'"):
        plugins.resource_manager("docker")


def test_disabled_plugins_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """By name, from the environment or from the program; and said so."""
    monkeypatch.setenv("SITEWARD_DISABLED_PLUGINS", "docker, noisy")
    for plugins in (Plugins(), Plugins(disabled=["docker", "noisy"])):
        plugins.add(BACKENDS, "docker", Good)
        plugins.add(GLOBAL, "noisy", GoodGlobal())
        plugins.add(GLOBAL, "quiet", GoodGlobal())
        assert "docker" not in plugins.names(BACKENDS)
        assert [name for name, _ in plugins.global_plugins()] == ["quiet"]
        assert {r.name: r.status for r in plugins.records() if r.distribution == "(added)"} == {
            "docker": "disabled",
            "noisy": "disabled",
            "quiet": "loaded",
        }
        with pytest.raises(PluginError, match="disabled by SITEWARD_DISABLED_PLUGINS"):
            plugins.backend("docker")


def test_a_group_that_does_not_exist_is_refused() -> None:
    """A typing error in a program's own registration is told at once."""
    with pytest.raises(ValueError, match="expected one of"):
        Plugins(disabled=()).add("siteward.backend", "x", Good)


# --- real entry points: distributions on a path of their own -------------------------------------------------

BACKEND_SOURCE = textwrap.dedent(
    """
    from siteward.hookspecs import hookimpl
    class Backend:
        api = 1
        def __init__(self, context, options): pass
        @hookimpl
        def siteward_launch_job(self, request): ...
        @hookimpl
        def siteward_poll_job(self, ref): ...
        @hookimpl
        def siteward_terminate_job(self, ref, grace): ...
    """
)


class Environment:
    """A folder of installed distributions, and a Python that sees them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(self, distribution: str, entry_points: dict[str, list[str]], **modules: str) -> None:
        info = self.folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        lines = [line for group, points in entry_points.items() for line in (f"[{group}]", *points)]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        for name, source in modules.items():
            (self.folder / f"{name}.py").write_text(source)

    def run(self, program: str, **env: str) -> Any:
        """Run a program that prints JSON, with ``plugins`` at hand."""
        head = "import json, sys\nfrom siteward.plugins import *\nfrom siteward.errors import PluginError\n"
        head += "plugins = Plugins()\n"
        paths = [str(self.folder), *(path for path in sys.path if path)]
        done = subprocess.run(
            [sys.executable, "-c", head + textwrap.dedent(program)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **env},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path)


RECORDS = "print(json.dumps({r.name: [r.status, r.origin, r.reason] for r in plugins.records()}))"


def test_a_broken_plugin_never_stops_another(environment: Environment) -> None:
    """Whatever a module does when it is imported, it is told with its distribution, and the good one works."""
    sources = {
        "raising": "raise RuntimeError('no luck')",
        "leaving": "import sys; sys.exit(3)",
        "needing": "import a_module_that_is_not_there",
        "typo": "def f(:",
        "empty": "",
    }
    for name, source in sources.items():
        environment.install(f"dist-{name}", {BACKENDS: [f"{name} = p_{name}:Backend"]}, **{f"p_{name}": source})
    environment.install("dist-odd", {BACKENDS: ["odd = not a module!"]})
    environment.install("dist-good", {BACKENDS: ["good = p_good:Backend"]}, p_good=BACKEND_SOURCE)
    told = environment.run(RECORDS)
    assert told["good"] == ["loaded", "dist-good 1.0", ""]
    words = {
        "raising": "RuntimeError: no luck",
        "leaving": "it called sys.exit(3)",
        "needing": "No module named 'a_module_that_is_not_there'",
        "typo": "SyntaxError",
        "empty": "has no attribute 'Backend'",
        "odd": "",
    }
    for name, reason in words.items():
        assert told[name][:2] == ["broken", f"dist-{name} 1.0"]
        assert reason in told[name][2]


def test_unreadable_metadata_is_told_and_stops_nobody(environment: Environment) -> None:
    """A distribution whose entry points are garbage is shown as broken by its own name."""
    environment.install("dist-garbage", {BACKENDS: ["this line has no equals sign"]})
    environment.install("dist-good", {BACKENDS: ["good = p_good:Backend"]}, p_good=BACKEND_SOURCE)
    told = environment.run(RECORDS)
    assert told["good"][0] == "loaded"
    assert told["dist-garbage"][0] == "broken"
    assert "cannot be read" in told["dist-garbage"][2]


def test_only_what_is_asked_for_is_loaded(environment: Environment) -> None:
    """Importing siteward, listing names and using one backend import no other plugin."""
    for name in ("one", "two"):
        environment.install(f"dist-{name}", {BACKENDS: [f"{name} = p_{name}:Backend"]}, **{f"p_{name}": BACKEND_SOURCE})
    environment.install("dist-global", {GLOBAL: ["seen = p_global"]}, p_global="api = 1")
    steps = environment.run(
        """
        def loaded(): return sorted(m for m in sys.modules if m.startswith("p_"))
        steps = [loaded()]
        plugins.names(BACKENDS); plugins.records(load=False); steps.append(loaded())
        plugins.backend("one"); steps.append(loaded())
        plugins.global_plugins(); steps.append(loaded())
        plugins.records(); steps.append(loaded())
        print(json.dumps(steps))
        """
    )
    assert steps == [[], [], ["p_one"], ["p_global", "p_one"], ["p_global", "p_one", "p_two"]]


def test_a_name_claimed_twice_is_refused_for_both(environment: Environment) -> None:
    """Neither wins, both are named, neither is imported, and the same name in another group is no clash."""
    for name in ("a", "b"):
        environment.install(f"dist-{name}", {BACKENDS: [f"same = p_{name}:Backend"]}, **{f"p_{name}": BACKEND_SOURCE})
    environment.install("dist-c", {GLOBAL: ["same = p_c"]}, p_c="api = 1")
    told = environment.run(
        """
        try: plugins.backend("same")
        except PluginError as error: words = str(error)
        records = [[r.group, r.distribution, r.status] for r in plugins.records()]
        print(json.dumps([words, plugins.names(BACKENDS), records, [m for m in ("p_a", "p_b") if m in sys.modules]]))
        """
    )
    words, names, records, imported = told
    assert "dist-a 1.0 (p_a:Backend)" in words
    assert "dist-b 1.0 (p_b:Backend)" in words
    assert "same" not in names
    assert imported == []
    assert [BACKENDS, "dist-a", "broken"] in records
    assert [BACKENDS, "dist-b", "broken"] in records
    assert [GLOBAL, "dist-c", "loaded"] in records


def test_two_copies_of_one_distribution_are_one(environment: Environment, tmp_path: Path) -> None:
    """The first on the path counts, as for imports; a distribution is no rival of itself."""
    environment.install("Dist.One", {BACKENDS: ["one = p_one:Backend"]}, p_one=BACKEND_SOURCE)
    second = Environment(tmp_path / "second")
    second.folder.mkdir()
    second.install("dist-one", {BACKENDS: ["one = p_old:Backend"]})
    told = environment.run(f"sys.path.append({str(second.folder)!r})\n{RECORDS}")
    assert told["one"][0] == "loaded"


def test_the_environment_disables_before_anything_is_imported(environment: Environment) -> None:
    """A plugin that harms at import is left out by its name."""
    environment.install("dist-bad", {GLOBAL: ["bad = p_bad"]}, p_bad="import os; os._exit(1)")
    told = environment.run(RECORDS, SITEWARD_DISABLED_PLUGINS="x,bad")
    assert told["bad"][0] == "disabled"
