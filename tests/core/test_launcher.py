"""Which backend a site uses for a job (design: "Choosing the backend"), and typed calls to it."""

import attrs
import pytest

from siteward import BackendError, Job, LaunchError, NoBackend, OptionsRefused, Plugins, PortableResources
from siteward.config import Problems
from siteward.launcher import Launcher, choose_backend, conflicts, offered_backends, read_options, where_offered

from .fake import Control, fake, job


def spec(**launcher_spec):
    return Job.from_mapping({"name": "j", "command": ["x"], "launcher_spec": launcher_spec})


def _text():
    return attrs.field(default="", type=str)


OFFERED = {
    "nothing": ({}, {}),
    "the default's": ({"default": {"docker": {"image": "a"}}}, {"docker": {"image": "a"}}),
    "the site's own": ({"site-1": {"k8s": {"image": "a"}}}, {"k8s": {"image": "a"}}),
    "another site's do not count": ({"site-2": {"k8s": {}}}, {}),
    "both, under their names": ({"default": {"docker": {}}, "site-1": {"k8s": {}}}, {"docker": {}, "k8s": {}}),
    "merged key by key": (
        {"default": {"docker": {"image": "a", "cpus": 1}}, "site-1": {"docker": {"image": "b"}}},
        {"docker": {"image": "b", "cpus": 1}},
    ),
    "merged shallowly": (
        {"default": {"docker": {"kwargs": {"a": 1, "b": 2}}}, "site-1": {"docker": {"kwargs": {"a": 3}}}},
        {"docker": {"kwargs": {"a": 3}}},
    ),
    "an explicit {} counts as present": ({"site-1": {"process": {}}}, {"process": {}}),
    "an explicit {} takes nothing from the default's": (
        {"default": {"docker": {"image": "a"}}, "site-1": {"docker": {}}},
        {"docker": {"image": "a"}},
    ),
}


@pytest.mark.parametrize(("launcher_spec", "offered"), OFFERED.values(), ids=OFFERED)
def test_what_a_job_offers(launcher_spec, offered):
    """`default` merged with the site's own, per backend name, the site winning."""
    assert offered_backends(spec(**launcher_spec), "site-1") == offered


BOTH = {"default": {"docker": {"a": 1, "both": 1}}, "site-1": {"docker": {"b": 1, "both": 2}}}
ONLY_DEFAULT, ONLY_SITE = {"default": {"docker": {"a": 1}}}, {"site-1": {"docker": {"a": 1}}}
WHERE = {
    "the default's": (BOTH, "a", "launcher_spec.default.docker"),
    "the site's own": (BOTH, "b", "launcher_spec.site-1.docker"),
    "both: the site's wins": (BOTH, "both", "launcher_spec.site-1.docker"),
    "deep inside": (BOTH, "a.x[2].y", "launcher_spec.default.docker"),
    "in a list": (BOTH, "a[2]", "launcher_spec.default.docker"),
    "missing in both": (BOTH, "c", "launcher_spec.site-1.docker"),
    "missing in the default": (ONLY_DEFAULT, "c", "launcher_spec.default.docker"),
    "the whole block": (ONLY_DEFAULT, "", "launcher_spec.default.docker"),
    "missing in the site's own": (ONLY_SITE, "c", "launcher_spec.site-1.docker"),
    "a block that is not there": ({}, "c", "launcher_spec.site-1.docker"),
}


@pytest.mark.parametrize(("launcher_spec", "option", "path"), WHERE.values(), ids=WHERE)
def test_where_a_job_offers_an_option(launcher_spec, option, path):
    """A mistake is told at the place in the job file where it is."""
    assert where_offered(spec(**launcher_spec), "site-1", "docker", option) == path


def test_where_a_legacy_job_offers_an_option():
    """In the site's block of `resource_spec`, if `launcher_spec` does not name the backend."""
    legacy = job(resource_spec={"site-1": {"docker": {"a": 1}}}, launcher_spec={})
    assert where_offered(legacy, "site-1", "docker", "a") == "resource_spec.site-1.docker"


CHOSEN = {
    "the only one": (["docker"], ("docker",), None, "docker"),
    "the only one that both have": (["docker", "k8s"], ("process", "docker"), None, "docker"),
    "of several, the first in the site's order": (["process", "docker", "k8s"], ("k8s", "process"), None, "k8s"),
    "whatever the job's order": (["k8s", "docker"], ("docker", "k8s"), None, "docker"),
    "of several, never the default for being it": (["process", "docker"], ("docker", "process"), "process", "docker"),
    "nothing offered: the default": ([], ("docker", "process"), "process", "process"),
}


@pytest.mark.parametrize(("offered", "enabled", "default", "chosen"), CHOSEN.values(), ids=CHOSEN)
def test_choice(offered, enabled, default, chosen):
    """One candidate is it; of several the first in the site file's order; with none offered, the default."""
    assert choose_backend(offered, enabled, default) == chosen


NONE = {
    "a container is never run as a bare process": (["docker"], ("process",), "process", {}, ["docker", "process"]),
    "nothing offered and no default": ([], ("docker", "k8s"), None, {}, ["docker, k8s", "default_backend"]),
    "what both sides have is named": (["k8s", "docker"], ("process",), None, {}, ["k8s, docker", "process"]),
    "a near miss is named": (
        ["procces"],
        ("process",),
        None,
        {},
        ["enables process. Did you mean 'process' for 'procces'? Enable one of them in"],
    ),
    "a reason that is a sentence": (["docker"], ("process",), None, {"docker": "no docker."}, ["no docker. Enable"]),
    "a broken plugin is named with its reason": (
        ["docker"],
        ("process",),
        None,
        {"docker": "ImportError: no docker", "other": "not of interest"},
        ["'docker' is broken: ImportError: no docker"],
    ),
}


@pytest.mark.parametrize(("offered", "enabled", "default", "broken", "words"), NONE.values(), ids=NONE)
def test_no_choice(offered, enabled, default, broken, words):
    """Without a candidate the error names what is offered, enabled, nearly meant, and broken."""
    with pytest.raises(NoBackend) as caught:
        choose_backend(offered, enabled, default, broken, site="clinic")
    assert "site 'clinic'" in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "not of interest" not in str(caught.value)
    assert (caught.value.offered, caught.value.enabled) == (tuple(offered), enabled)


class Blocks:
    """A backend that takes one option of each kind, and one of two kinds."""

    JobOptions = attrs.make_class("JobOptions", {"cpus": attrs.field(default=1, type=int), "image": _text()})
    SiteOptions = attrs.make_class("SiteOptions", {"volumes": _text()})
    StudyOptions = attrs.make_class("StudyOptions", {"secret_env": _text(), "image": _text()})


ELSEWHERE = {
    "a study's, in the site": ("SiteOptions", "secret_env", "it belongs in `studies.NAME.k8s` of a site file"),
    "a site's, in a study": ("StudyOptions", "volumes", "it belongs in `backends.k8s` of a site file"),
    "a site's, in a job": ("JobOptions", "volumes", "it belongs in `backends.k8s` of a site file"),
    "of two": (
        "SiteOptions",
        "image",
        "unknown key here; it belongs in a job's `launcher_spec` for k8s or `studies.NAME.k8s` of a site file",
    ),
    "nobody's": ("SiteOptions", "colour", "unknown key; expected one of volumes"),
    "nearly the block's own": ("SiteOptions", "volume", "unknown key; did you mean 'volumes'?"),
}


@pytest.mark.parametrize(("kind", "key", "words"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_an_option_of_another_block_is_told_with_its_place(kind, key, words):
    """Sites, studies and jobs have options of their own."""
    with pytest.raises(Problems) as caught:
        read_options(Blocks, "k8s", kind, {key: "x"})
    assert words in str(caught.value)


def test_a_kind_of_options_that_a_backend_lacks_is_nobodys_place():
    """Nor is one that is no attrs class."""
    backend = type("Bare", (), {"JobOptions": dict})
    with pytest.raises(Problems, match="colour: unknown key; expected one of none"):
        read_options(backend, "k8s", "SiteOptions", {"colour": 1})


class Broken:
    """No backend: it has none of the hooks."""

    api = 1


def test_broken_plugin_is_named_though_nothing_loaded_it_before(place):
    """A job that needs a backend whose plugin is broken is told so, although the site does not enable it."""
    place.plugins.append(("siteward.backends", "broken", Broken))
    with pytest.raises(NoBackend, match=r"'broken' is broken: .*siteward_launch_job is missing"):
        place.site().launch(job(launcher_spec={"default": {"broken": {}}}))


def test_nothing_is_left_of_a_job_without_a_backend(place):
    """A refused job has no row, no folder and no handle."""
    site = place.site()
    with pytest.raises(NoBackend):
        site.launch(job(launcher_spec={"default": {"other": {}}}))
    assert site.jobs() == []
    assert list((place.state_dir / "jobs").iterdir()) == []


@pytest.fixture
def launcher(tmp_path):
    """Make launchers of fake backends."""

    def make(*features):
        import logging

        from siteward import Context

        control = Control()
        plugins = Plugins(disabled=[])
        plugins.add("siteward.backends", "fake", fake(*features, control=control))
        context = Context(site="s", backend="fake", directory=tmp_path, log=logging.getLogger("test"))
        return Launcher(plugins, context, {}), control

    return make


def test_options_are_read_by_the_backend_s_own_class(launcher):
    """A wrong key or type is OptionsRefused, with every problem."""
    fakes, _ = launcher()
    assert fakes.job_options({"level": 3}, PortableResources()).level == 3
    with pytest.raises(OptionsRefused) as caught:
        fakes.job_options({"level": "3", "lewel": 3}, PortableResources())
    assert sorted(problem.path for problem in caught.value.problems) == ["level", "lewel"]


RESOLVING = {
    "an exception": (ZeroDivisionError("oh"), LaunchError, "cannot resolve.*ZeroDivisionError: oh"),
    "sys.exit": (SystemExit(3), LaunchError, r"sys\.exit\(3\)"),
    "its own refusal": (OptionsRefused(["too much"]), OptionsRefused, "too much"),
}


@pytest.mark.parametrize(("error", "kind", "words"), RESOLVING.values(), ids=RESOLVING)
def test_resolving_that_fails_starts_nothing(launcher, error, kind, words):
    """Whatever resolve_options raises is a LaunchError in words."""
    fakes, control = launcher("resolve")

    def fault(_options):
        raise error

    control.faults["resolve"] = fault
    with pytest.raises(kind, match=words):
        fakes.job_options({}, PortableResources())


WRONG = {"launch": ("launch_job", {"request": None}), "poll": ("poll_job", {"ref": None})}


@pytest.mark.parametrize("hook", ["launch", "poll"])
def test_a_wrong_answer_is_the_backend_s_error(launcher, hook):
    """What is no JobRef or JobStatus is refused by name of the hook."""
    fakes, control = launcher()
    control.faults[hook] = lambda *_: "nonsense"
    control.faults["launch done"] = lambda *_: "nonsense"
    argument = type("Any", (), {"job_id": "a", "attempt": 1})()
    with pytest.raises(BackendError, match=rf"siteward_{hook}_job returned str"):
        getattr(fakes, hook)(argument)


def test_fallbacks_of_a_three_hook_backend(launcher):
    """Without the optional hooks: no watch, no logs, no list, no render, and nothing to check or remove."""
    fakes, _ = launcher()
    assert fakes.watch(lambda *_: None) is False
    assert fakes.list_jobs() is None
    assert fakes.collect(None, None) == "returned"
    fakes.remove(None)
    assert [finding.level for finding in fakes.check()] == ["ok"]
    for call, words in (
        (lambda: fakes.read_logs(None, follow=False, tail=None), "keeps no logs"),
        (lambda: fakes.render(None), "cannot render"),
    ):
        with pytest.raises(BackendError, match=words):
            call()


def test_an_unknown_answer_of_collect_is_partial(launcher):
    """Only `returned`, `partial` and `lost` are taken at their word."""
    fakes, control = launcher("collect")
    control.faults["collect"] = lambda *_: "most of it"
    folder = fakes.context.directory
    assert fakes.collect(None, folder) == "partial"


def test_a_check_that_raises_is_a_finding(launcher):
    """doctor goes on, and says which backend's check failed."""
    fakes, control = launcher("check")

    def fault():
        raise OSError("no socket")

    control.faults["check"] = fault
    [finding] = fakes.check()
    assert (finding.level, finding.subject) == ("fail", "fake")
    assert "no socket" in finding.message


def test_what_resource_spec_says_is_not_said_again_in_options():
    """An option that a portable key names too is refused, with the key."""
    from attrs import field, frozen

    @frozen(kw_only=True)
    class Options:
        gpus: int | None = field(default=None, metadata={"portable": "num_of_gpus"})

    [problem] = conflicts(Options, {"gpus": 1}, PortableResources(num_of_gpus=1))
    assert "num_of_gpus" in problem.message
    assert conflicts(Options, {"gpus": 1}, PortableResources()) == []
    assert conflicts(Options, {}, PortableResources(num_of_gpus=1)) == []
