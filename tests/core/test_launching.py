"""From a job to something that runs: what is checked, what the backend gets, what is left when it fails."""

import os
import stat
import threading

import pytest

from siteward import (
    DuplicateJob,
    FileError,
    Job,
    JobState,
    LaunchError,
    LaunchRefused,
    LaunchUncertain,
    OptionsRefused,
    Reason,
    ResourcesRefused,
    StoreError,
    Unreachable,
    WorkspaceError,
)
from siteward.store import Phase, Store

from .fake import job, until
from .managers import units, with_units


def raising(error):
    """Return a fault that raises."""

    def fault(*_):
        raise error

    return fault


def nothing_left(place, site):
    """Whether a launch that failed left no row, no folder and no driven job."""
    folders = list((place.state_dir / "jobs").iterdir())
    return site.jobs() == [] and folders == [] and site._parts.driver.jobs() == []


REFUSALS = {
    "the platform says no": (LaunchRefused("quota"), LaunchRefused, "quota"),
    "any exception, and the platform has no such job": (OSError("no route"), LaunchError, "OSError: no route"),
    "sys.exit": (SystemExit(2), LaunchError, r"sys\.exit\(2\)"),
}


@pytest.mark.parametrize("managed", [False, True], ids=["", "with resources"])
@pytest.mark.parametrize(("error", "kind", "words"), REFUSALS.values(), ids=REFUSALS)
def test_a_launch_that_fails_before_anything_exists_leaves_nothing(places, error, kind, words, managed):
    """An exception, and no row, folder, lock, reservation or allocation; the id can be used again."""
    manager = units()
    place = places("watch", "list", **(with_units(manager) if managed else {}))
    place.control.faults["launch"] = raising(error)
    site = place.site()
    for _ in range(2):
        with pytest.raises(kind, match=words):
            site.launch(job(id="a"))
        assert nothing_left(place, site)
    assert (manager.free, manager.held) == (1, {})
    place.control.faults.clear()
    handle = site.launch(job(id="a"))
    place.end("a")
    assert handle.wait(10).state is JobState.SUCCEEDED


class Nothing:
    """No ref."""


SETTLED = {
    "uncertain": (lambda ref: LaunchUncertain(ref), "answer was lost"),
    "any exception, and the platform has the job": (lambda _: OSError("reset by peer"), "reset by peer"),
    "no ref returned": (None, "returned Nothing"),
}


@pytest.mark.parametrize("features", [("watch", "list"), ("list",)], ids=["watched", "polled"])
@pytest.mark.parametrize(("make", "words"), SETTLED.values(), ids=SETTLED)
def test_a_launch_that_fails_after_something_exists_gives_a_handle(places, features, make, words):
    """The job is there, so it is followed like any other; its history says what happened."""
    place = places(*features)

    def fault(request):
        if make is None:
            return Nothing()
        raise make(place.control.backends[-1].ref(request.job_id))

    place.control.faults["launch done"] = fault
    site = place.site()
    handle = site.launch(job(id="a"))
    place.end("a", exit_code=3)
    assert handle.wait(10).exit_code == 3
    assert words in next(event.message for event in site.events("a") if event.kind == "uncertain")


def test_an_uncertain_launch_of_which_nothing_came_ends(place):
    """No watch tells of a job that never existed: it is looked at, and is lost."""
    ref = lambda request: place.control.backends[-1].ref(request.job_id)  # noqa: E731
    place.control.faults["launch"] = lambda request: raising(LaunchUncertain(ref(request)))()
    result = place.site().launch(job(id="a")).wait(10)
    assert result.state is JobState.LOST


@pytest.mark.parametrize("exists", [False, True])
def test_whether_a_job_exists_is_settled_as_soon_as_the_platform_answers(place, exists):
    """Neither launch nor list answers: the handle is pending and unreachable, then settled, never launched again."""
    place.control.faults["launch done" if exists else "launch"] = raising(OSError("reset"))
    place.control.faults["list"] = raising(OSError("no route"))
    site = place.site()
    handle = site.launch(job(id="a"))
    until(lambda: not handle.status().reachable)
    assert handle.state is JobState.PENDING
    assert handle.ref is None
    del place.control.faults["list"]
    if exists:
        place.end("a", exit_code=4)
        assert handle.wait(10).exit_code == 4
    else:
        assert handle.wait(10).reason is Reason.LAUNCH_FAILED
    assert place.control.count("launch") == 1


def test_the_ref_is_stored_and_given(place):
    """What launch returned is the handle's ref, and in the store."""
    site = place.site()
    handle = site.launch(job(id="a"))
    assert handle.ref == site.row("a").ref == place.control.backends[-1].ref("a")
    place.end("a")
    handle.wait(10)


# --- what the backend gets ---


@pytest.fixture
def request_of(place):
    """Launch a job and return the request that the backend got."""

    def launch(each, **file):
        site = place.site(**file)
        site.launch(each)
        [(request,)] = place.control.calls["launch"]
        place.end(each.id)
        return request

    return launch


def test_env_precedence(places):
    """Site, study, job, site_spec, allocation, secrets, SITEWARD_*: each goes before those on its left."""
    place = places("watch", **with_units(units()))
    file = {
        "env": dict.fromkeys(("ONLY_SITE", "STUDY", "JOB", "SPEC", "LEVEL", "SECRET"), "site"),
        "studies": {"s": {"env": dict.fromkeys(("STUDY", "JOB", "SPEC", "LEVEL", "SECRET"), "study")}},
        "job_secrets": {"x": {"env": "TEST_SECRET"}},
    }
    each = job(
        id="a",
        study="s",
        env=dict.fromkeys(("JOB", "SPEC", "LEVEL"), "job"),
        site_spec={"site-1": {"env": dict.fromkeys(("SPEC", "LEVEL"), "spec")}},
        secrets={"SECRET": "x"},
    )
    os.environ["TEST_SECRET"] = "secret"
    try:
        site = place.site(**file)
        site.launch(each)
    finally:
        del os.environ["TEST_SECRET"]
    [(request,)] = place.control.calls["launch"]
    assert request.environment("/here") == {
        "ONLY_SITE": "site",
        "STUDY": "study",
        "JOB": "job",
        "SPEC": "spec",
        "LEVEL": "allocation",
        "UNITS": "1",
        "DEVICE": "0",
        "SECRET": "secret",
        "SITEWARD_SITE": "site-1",
        "SITEWARD_JOB_ID": "a",
        "SITEWARD_JOB_DIR": "/here",
        "SITEWARD_BACKEND": "fake",
        "SITEWARD_ATTEMPT": "1",
    }
    assert request.allocation.devices == ["u0"]
    place.end("a")


RUNS = {
    "the job's command": ({"command": ["a", "b"]}, ["a", "b"]),
    "the job's module": ({"module": "pkg.mod", "args": ["x"]}, ["py", "-u", "-m", "pkg.mod", "x"]),
    "the site's own command": ({"command": ["a"], "site_spec": {"site-1": {"command": ["c"]}}}, ["c"]),
    "the site's own command beside a module": (
        {"module": "m", "args": ["x"], "site_spec": {"site-1": {"command": ["c"]}}},
        ["c"],
    ),
    "the site's own module, the job's args": (
        {"module": "m", "args": ["x"], "site_spec": {"site-1": {"module": "n"}}},
        ["py", "-u", "-m", "n", "x"],
    ),
    "the site's own args": (
        {"module": "m", "args": ["x"], "site_spec": {"site-1": {"args": ["y"]}}},
        ["py", "-u", "-m", "m", "y"],
    ),
    "another site's does not count": ({"command": ["a"], "site_spec": {"site-2": {"command": ["c"]}}}, ["a"]),
    "replaced once, other braces stay": (
        {"command": ["a", "{site}", "{job_id}-{job_dir}", "{{site}}", "{other}", "{}"]},
        ["a", "site-1", "a-/d", "{site-1}", "{other}", "{}"],
    ),
}


@pytest.mark.parametrize(("fields", "argv"), RUNS.values(), ids=RUNS)
def test_what_runs(request_of, fields, argv):
    """The site's own part of the job goes before the job's."""
    base = {"name": "j", "id": "a", "sites": ["site-1", "site-2"], "launcher_spec": {"default": {"fake": {}}}}
    assert request_of(Job.from_mapping({**base, **fields})).argv("py", "/d") == argv


def test_the_request_is_complete(request_of, place):
    """Options, resources, labels, timeout and the site's grace."""
    each = job(
        name="n",
        id="a",
        timeout=7,
        launcher_spec={"default": {"fake": {"level": 2}}},
        resource_spec={"@default": {"num_of_cpus": 2, "memory": "1Gi"}, "site-1": {"num_of_gpus": 1}},
        study="s",
    )
    request = request_of(each, studies={"s": {"fake": {"room": "r1"}}})
    assert (request.options.level, request.study.room, request.study_name) == (2, "r1", "s")
    resources = request.resources
    assert (resources.num_of_cpus, resources.memory, resources.num_of_gpus) == (2, 2**30, 1)
    assert (request.timeout, request.grace, request.backend, request.attempt) == (7, 0.5, "fake", 1)
    assert request.labels == {"site": "site-1", "job-id": "a", "attempt": "1", "name": "n"}
    assert request.job_dir == place.state_dir / "jobs" / "a" / "work"


def test_all_that_is_wrong_is_told_at_once(place):
    """Options, study and secrets of one job: one OptionsRefused with every problem, paths as in the files."""
    each = job(
        study="cancr",
        secrets={"A": "tokn", "B": "token"},
        launcher_spec={"default": {"fake": {"level": "high"}}, "site-1": {"fake": {"lewel": 1}}},
    )
    site = place.site(studies={"cancer": {}}, job_secrets={"token": {"env": "NOT_SET_ANYWHERE"}})
    with pytest.raises(OptionsRefused) as caught:
        site.launch(each)
    problems = {problem.path: problem for problem in caught.value.problems}
    assert set(problems) == {
        "launcher_spec.default.fake.level",
        "launcher_spec.site-1.fake.lewel",
        "study",
        "secrets.A",
        "secrets.B",
    }
    assert (problems["study"].suggestion, problems["secrets.A"].suggestion) == ("cancer", "token")
    assert "NOT_SET_ANYWHERE" in problems["secrets.B"].message
    assert nothing_left(place, site)


def test_mistakes_in_a_study_s_block_are_told_when_the_site_is_opened(place):
    """Not when the first job comes."""
    with pytest.raises(FileError) as caught:
        place.site(studies={"s": {"fake": {"rom": "x"}, "docker": {}}}, backends={"fake": {"mots": 1}})
    assert sorted(problem.path for problem in caught.value.problems) == [
        "backends.fake.mots",
        "studies.s.docker",
        "studies.s.fake.rom",
    ]


def test_a_site_that_the_job_does_not_name(place):
    """It is refused, and its sites are named."""
    with pytest.raises(LaunchError, match="site-7, site-8"):
        place.site().launch(job(sites=["site-7", "site-8"]))


# --- secrets ---


def test_a_secret_is_in_the_job_s_environment_alone(places, caplog):
    """Not in the store, the job's folder, logs, reprs, errors or what render shows."""
    value = "hush-7Yq2"
    place = places("watch", "list", "render")
    (place.path / "token").write_text(value + "\n")
    caplog.set_level(0)
    site = place.site(job_secrets={"token": {"file": "token"}})
    each = job(id="a", secrets={"TOKEN": "token"})
    shown = site.render(each)
    assert shown["env"]["TOKEN"] == "***"
    handle = site.launch(each)
    [(request,)] = place.control.calls["launch"]
    assert request.environment("/d")["TOKEN"] == value
    assert value not in repr(request) + str(request.secrets) + repr(handle.ref)
    place.end("a", exit_code=101)
    handle.wait(10)
    site.close()
    for path in place.state_dir.rglob("*"):
        if path.is_file():
            assert value.encode() not in path.read_bytes(), path
    assert value not in caplog.text


# --- the job directory ---


def test_the_workspace_is_the_start_of_the_job_directory(place):
    """Its contents, at the root; links stay links; folders are private whatever the workspace's mode."""
    app = place.path / "app"
    (app / "pkg").mkdir(parents=True)
    (app / "pkg" / "main.py").write_text("x")
    (app / "my file.sh").write_text("#!")
    (app / "my file.sh").chmod(0o755)
    (app / "link").symlink_to("/etc/hostname")
    app.chmod(0o755)
    data = {"name": "j", "id": "a", "command": ["x"], "workspace": "app", "launcher_spec": {"default": {"fake": {}}}}
    handle = place.site().launch(Job.from_mapping(data, base_dir=place.path))
    work = handle.job_dir
    assert sorted(path.name for path in work.iterdir()) == ["link", "my file.sh", "pkg"]
    assert (work / "link").is_symlink()
    assert os.access(work / "my file.sh", os.X_OK)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (work, work.parent)] == [0o700, 0o700]
    assert sorted(path.name for path in app.iterdir()) == ["link", "my file.sh", "pkg"]
    place.end("a")


def test_a_workspace_with_a_special_file_is_refused(places):
    """A FIFO would block whoever copies it; nothing is left, resources included."""
    manager = units()
    place = places("watch", **with_units(manager))
    app = place.path / "app"
    app.mkdir()
    os.mkfifo(app / "pipe")
    data = {"name": "j", "command": ["x"], "workspace": "app", "launcher_spec": {"default": {"fake": {}}}}
    site = place.site()
    with pytest.raises(WorkspaceError, match="pipe"):
        site.launch(Job.from_mapping(data, base_dir=place.path))
    assert nothing_left(place, site)
    assert manager.free == 1


def test_what_a_crash_left_of_a_launch_is_no_job(place):
    """A folder without a row (killed before the intent was stored) does not keep the id."""
    folder = place.state_dir / "jobs" / "a"
    (folder / "work").mkdir(parents=True)
    (folder / "work" / "half").write_text("")
    handle = place.site().launch(job(id="a"))
    assert list(handle.job_dir.iterdir()) == []
    place.end("a")
    assert handle.wait(10).state is JobState.SUCCEEDED


@pytest.mark.parametrize("when", ["running", "ended", "in another site"])
def test_an_id_is_used_once(places, when):
    """DuplicateJob, whoever has it; the job that has it is left alone, and no reservation is made or kept."""
    manager = units(free=5)
    place = places("watch", **with_units(manager))
    site = place.site()
    handle = site.launch(job(id="a"))
    if when == "ended":
        place.end("a")
        handle.wait(10)
    second = place.site() if when == "in another site" else site
    with pytest.raises(DuplicateJob, match="'a'"):
        second.launch(job(id="a"))
    assert place.platform.get("a")["launches"] == 1
    if when != "ended":
        place.end("a")
    assert handle.wait(10).state is JobState.SUCCEEDED
    until(lambda: manager.free == 5)


def test_of_launches_of_one_id_at_one_time_one_wins(place):
    """All others get DuplicateJob, and the winner's folder stays."""
    sites = [place.site(), place.site()]
    outcomes = []

    def launch(site):
        try:
            outcomes.append(site.launch(job(id="a")))
        except DuplicateJob as error:
            outcomes.append(error)

    threads = [threading.Thread(target=launch, args=[sites[number % 2]]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    [winner] = [each for each in outcomes if not isinstance(each, DuplicateJob)]
    assert len(outcomes) == 8
    assert winner.job_dir.is_dir()
    place.end("a", exit_code=3)
    assert winner.wait(10).exit_code == 3


def test_an_interrupted_launch_is_settled_by_the_next_driver(place):
    """Ctrl-C inside launch: nothing is undone that may exist; the next site finds the job."""
    place.control.faults["launch done"] = raising(KeyboardInterrupt())
    site = place.site()
    with pytest.raises(KeyboardInterrupt):
        site.launch(job(id="a"))
    place.end("a", exit_code=8)
    assert place.site().attach("a").wait(10).exit_code == 8


# --- staging ---


def test_the_job_directory_is_staged_after_the_launch(places):
    """The launch does not wait for it."""
    place = places("watch", "stage")
    go = threading.Event()
    place.control.faults["stage"] = lambda *_: go.wait(20) and None
    handle = place.site().launch(job(id="a"))
    assert handle.state is JobState.PENDING
    go.set()
    until(lambda: place.platform.get("a").get("staged") == [])
    place.end("a")
    assert handle.wait(10).state is JobState.SUCCEEDED


def test_a_backend_with_nothing_to_stage_is_not_asked(places):
    """Its options may leave it nothing to do, whatever hooks it has; also for the next driver."""
    place = places("watch", "stage")
    place.backend.stages = False
    site = place.site()
    site.launch(job(id="a"))
    site.close()
    handle = place.site().attach("a")
    place.end("a")
    assert handle.wait(10).state is JobState.SUCCEEDED
    assert place.control.count("stage") == 0


def test_staging_is_tried_again(places):
    """An error or two of the platform are no end."""
    place = places("watch", "stage")
    errors = iter([OSError("reset"), Unreachable("no route")])

    def fault(*_):
        if (error := next(errors, None)) is not None:
            raise error

    place.control.faults["stage"] = fault
    site = place.site()
    handle = site.launch(job(id="a"))
    until(lambda: "staged" in place.platform.get("a"))
    place.end("a")
    assert handle.wait(10).state is JobState.SUCCEEDED
    assert [event.message for event in site.events("a") if event.kind == "cannot stage"] == ["reset", "no route"]


def test_inputs_that_cannot_come_end_the_job(places, monkeypatch):
    """LaunchFailed, with the reason, and the platform's job is ended."""
    monkeypatch.setattr("siteward.settling.time.sleep", lambda _seconds: None)
    place = places("watch", "stage")
    place.control.faults["stage"] = raising(OSError("no space there"))
    result = place.site().launch(job(id="a")).wait(20)
    assert (result.reason, int(result.return_code)) == (Reason.LAUNCH_FAILED, 101)
    assert "no space there" in result.message
    assert place.platform.get("a")["stops"] == [0.0]


def test_a_stop_does_not_wait_for_the_staging(places):
    """A job that is still being staged can be ended at once."""
    place = places("watch", "stage")
    inside, go = threading.Event(), threading.Event()

    def fault(*_):
        inside.set()
        go.wait(20)

    place.control.faults["stage"] = fault
    handle = place.site().launch(job(id="a"))
    inside.wait(20)
    handle.terminate()
    assert handle.wait(10).reason is Reason.ABORTED
    go.set()


# --- resources ---


def test_resources_are_checked_allocated_and_freed(places):
    """In this order; freed when the result is stored; the allocation is the job's alone."""
    manager = units()
    place = places("watch", **with_units(manager))
    before = dict(os.environ)
    site = place.site()
    handle = site.launch(job(id="a"))
    with pytest.raises(ResourcesRefused) as caught:
        site.launch(job(id="b"))
    assert caught.value.refusal.reason == "units"
    assert dict(os.environ) == before
    place.end("a")
    handle.wait(10)
    until(lambda: manager.free == 1)
    assert manager.log == [("check", "a"), ("allocate", "t-a"), ("check", "b"), ("free", "t-a")]
    assert site.resources() == {"units": {"free": 1}}


def test_a_prepared_job_can_be_left(places):
    """cancel gives the reservation back, once."""
    manager = units()
    place = places("watch", **with_units(manager))
    prepared = place.site().prepare(job(id="a"))
    assert manager.free == 0
    prepared.cancel()
    prepared.cancel()
    assert manager.log == [("check", "a"), ("cancel", "t-a")]


MANAGERS = {
    "check": (ResourcesRefused, "oh no", 1),
    "allocate": (LaunchError, "oh no", 1),
}


@pytest.mark.parametrize("error", [ValueError("oh no"), SystemExit("oh no")], ids=["raises", "exits"])
@pytest.mark.parametrize(("hook", "kind", "words", "free"), [(k, *v) for k, v in MANAGERS.items()], ids=MANAGERS)
def test_a_manager_that_fails_refuses(places, hook, kind, words, free, error):
    """An exception of check or allocate is a no in words; nothing is started or kept."""
    manager = units(1, {hook: error})
    place = places("watch", **with_units(manager))
    site = place.site()
    with pytest.raises(kind, match=words):
        site.launch(job(id="a"))
    assert manager.free == free
    assert nothing_left(place, site)


def test_a_manager_that_cannot_take_things_back_hides_no_error(places):
    """The launch's own error is told, and nothing else is left behind."""
    manager = units(2, {"cancel": ValueError("cannot cancel"), "free": ValueError("cannot free")})
    place = places("watch", "list", **with_units(manager))
    place.control.faults["launch"] = raising(LaunchRefused("quota"))
    site = place.site()
    with pytest.raises(LaunchRefused, match="quota"):
        site.launch(job(id="a"))
    assert nothing_left(place, site)
    manager.faults["allocate"] = ValueError("cannot allocate")
    with pytest.raises(LaunchError, match="cannot allocate"):
        site.launch(job(id="b"))
    assert nothing_left(place, site)


def test_resources_that_cannot_be_freed_do_not_hold_the_end_back(places):
    """After some tries the end is told; the history says what failed."""
    manager = units(1, {"free": OSError("lease is stuck")})
    place = places("watch", **with_units(manager))
    site = place.site()
    handle = site.launch(job(id="a"))
    place.end("a")
    assert handle.wait(20).state is JobState.SUCCEEDED
    assert "lease is stuck" in next(e.message for e in site.events("a") if e.kind == "cannot free resources")


def test_what_is_not_promised_is_in_the_result(places):
    """Also when another process sees the end, and in the history; nothing is said of a job that never ran."""
    manager = units()
    manager.notes = ("2 seats asked and not promised",)
    place = places("watch", **with_units(manager))
    first = place.site()
    first.launch(job(id="a"))
    first.close()
    second = place.site()
    place.end("a")
    assert second.attach("a").wait(20).message.endswith("; 2 seats asked and not promised")
    assert [event.message for event in second.events("a") if event.kind == "not promised"] == list(manager.notes)


def test_where_nothing_is_held_nothing_is_freed(places):
    """The job's end waits for no manager."""
    manager = units()
    manager.to_free = False
    place = places("watch", **with_units(manager))
    site = place.site()
    handle = site.launch(job(id="a"))
    place.end("a")
    handle.wait(20)
    assert [hook for hook, _ in manager.log] == ["check", "allocate"]
    assert site.row("a").token is None


@pytest.mark.parametrize(
    ("devices", "variable", "ids"),
    [(None, "0", ["u0"]), ("env", "0", ["u0"]), ("ids", None, ["u0"]), ("counts", None, [])],
)
def test_a_backend_says_how_its_jobs_come_to_devices(places, devices, variable, ids):
    """By variables, by ids, or by counts alone; what names no device reaches all."""
    place = places("watch", **with_units(units()))
    if devices is not None:
        place.backend.devices = devices
    place.site().launch(job(id="a"))
    ((request,),) = place.control.calls["launch"]
    env = request.environment("/job")
    assert (env.get("DEVICE"), env["UNITS"], list(request.allocation.devices)) == (variable, "1", ids)


@pytest.mark.parametrize("portable", [False, True])
def test_a_manager_may_count_cpus_and_memory(places, portable):
    """One that says so is told them too, memory in bytes."""
    manager = units()
    manager.portable = portable
    place = places("watch", **with_units(manager))
    spec = {"@default": {"num_of_cpus": 2}, "site-1": {"memory": "1Gi", "units": 1}}
    place.site().prepare(job(id="a", resource_spec=spec))
    counted = {"num_of_cpus": 2, "memory": 2**30} if portable else {}
    assert manager.asked == {"units": 1, **counted}


# --- the queue (max_jobs) ---


def test_a_queued_job_that_can_never_have_its_resources_ends(places):
    """What the site has no longer when its turn comes is not waited for: LaunchFailed, in the manager's words."""
    manager = units(2, most=2)
    place = places("watch", max_jobs=1, **with_units(manager))
    site = place.site()
    site.launch(job(id="a"))
    waiting = site.launch(job(id="b"))
    manager.most = 0
    place.end("a")
    result = waiting.wait(20)
    assert (result.reason, result.message) == (Reason.LAUNCH_FAILED, "1 units asked, there are 0")


def test_more_than_max_jobs_wait(places):
    """They are PENDING with no ref, start in order as others end, and say so in their history."""
    place = places("watch", max_jobs=1)
    site = place.site()
    handles = [site.launch(job(id=name)) for name in ("a", "b", "c")]
    assert place.platform.jobs() == ["a"]
    assert [handle.state for handle in handles] == [JobState.PENDING] * 3
    assert [handle.ref is None for handle in handles] == [False, True, True]
    assert [row.phase for row in site.jobs()] == [Phase.LAUNCHED, Phase.QUEUED, Phase.QUEUED]
    for name, handle in zip("abc", handles, strict=True):
        until(lambda name=name: place.platform.get(name))
        place.end(name)
        assert handle.wait(10).state is JobState.SUCCEEDED
    assert [request.job_id for (request,) in place.control.calls["launch"]] == ["a", "b", "c"]
    kinds = [event.kind for event in site.events("b")]
    assert kinds[0] == "queued"
    assert kinds.index("admitted") < kinds.index("launched")


def test_a_queued_job_that_is_stopped_never_starts(places):
    """ABORTED, nothing was launched, and those behind it move up."""
    place = places("watch", max_jobs=1)
    site = place.site()
    first, second, third = (site.launch(job(id=name)) for name in "abc")
    second.terminate()
    assert second.wait(10).reason is Reason.ABORTED
    place.end("a")
    first.wait(10)
    until(lambda: place.platform.get("c"))
    place.end("c")
    third.wait(10)
    assert place.platform.get("b") is None


def test_a_stop_at_the_moment_of_admission_is_not_lost(places):
    """Stopped just when its turn comes, a job either never starts or is ended; never runs on alone."""
    for _ in range(8):
        place = places("watch", "list", max_jobs=1)
        site = place.site()
        first, second = site.launch(job(id="a")), site.launch(job(id="b"))
        stopper = threading.Thread(target=second.terminate, kwargs={"grace": 0})
        ender = threading.Thread(target=place.end, args=["a"])
        ender.start()
        stopper.start()
        ender.join(20)
        stopper.join(20)
        assert second.wait(10).reason is Reason.ABORTED
        assert first.wait(10).state is JobState.SUCCEEDED
        data = place.platform.get("b")
        assert data is None or data["end"] is not None


def test_a_queued_job_whose_launch_fails_ends_and_frees_its_slot(places):
    """LaunchFailed with the platform's words; the next one starts."""
    place = places("watch", "list", max_jobs=1)
    site = place.site()
    first, second, third = (site.launch(job(id=name)) for name in "abc")
    place.control.faults["launch"] = lambda request: (
        raising(LaunchRefused("quota"))() if request.job_id == "b" else None
    )
    place.end("a")
    result = second.wait(10)
    assert (result.reason, result.message) == (Reason.LAUNCH_FAILED, "quota")
    until(lambda: place.platform.get("c"))
    place.end("c")
    assert third.wait(10).state is JobState.SUCCEEDED
    first.wait(10)


def test_resources_refused_at_a_job_s_turn_let_it_wait(places):
    """It says in words what it waits for, lets others pass, and starts when there are enough."""
    manager = units(free=2)
    place = places("watch", "remove", max_jobs=2, **with_units(manager))
    site = place.site()
    need = lambda name, count: job(id=name, resource_spec={"site-1": {"units": count}})  # noqa: E731
    first = site.launch(need("a", 2))
    manager.free = 2
    big = site.prepare(need("b", 2))
    manager.held.clear()
    manager.free = 0
    second = site.start(big)
    until(lambda: "asked" in second.status().message)
    assert second.state is JobState.PENDING
    assert "2 units asked, 0 free" in site.row("b").message
    manager.free = 2
    until(lambda: place.platform.get("b"))
    place.end("b")
    place.end("a")
    assert second.wait(10).state is first.wait(10).state is JobState.SUCCEEDED


def test_a_job_that_waits_for_resources_can_be_stopped(places):
    """Also when the stop comes in the middle of a try."""
    manager = units(free=1)
    place = places("watch", max_jobs=1, **with_units(manager))
    site = place.site()
    prepared = site.prepare(job(id="a"))
    manager.held.clear()
    manager.free = 0
    handle = site.start(prepared)
    until(lambda: "asked" in handle.status().message)
    handle.terminate()
    assert handle.wait(10).reason is Reason.ABORTED
    assert place.platform.jobs() == []


def test_a_failure_of_the_queue_is_not_one_of_the_launch(places, monkeypatch):
    """Once a job is queued it stays, although its slot cannot be taken just now."""
    place = places("watch", max_jobs=1)
    site = place.site()
    real, broken = Store.count_active, [True]

    def count_active(self):
        if broken:
            raise StoreError("disk full")
        return real(self)

    monkeypatch.setattr(Store, "count_active", count_active)
    handle = site.launch(job(id="a"))
    assert handle.state is JobState.PENDING
    broken.clear()
    until(lambda: place.platform.get("a"))
    place.end("a")
    assert handle.wait(10).state is JobState.SUCCEEDED


def test_a_closing_site_takes_no_job_out_of_the_queue(places):
    """What waits when the site is closed waits still, and is started by the next one."""
    for _ in range(6):
        place = places("watch", "list", max_jobs=1)
        site = place.site()
        for name in "ab":
            site.launch(job(id=name))
        ender = threading.Thread(target=place.end, args=["a"])
        ender.start()
        site.close()
        ender.join(20)
        again = place.site()
        until(lambda place=place: place.platform.get("b"))
        place.end("b", exit_code=5)
        assert again.attach("b").wait(10).exit_code == 5
        assert again.attach("a").wait(10).exit_code == 0
