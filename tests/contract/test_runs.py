"""One run on three backends at once, with real processes: what one site's end does to the others, wherever it runs."""

import pytest

from siteward import Job, JobState, Plugins, Reason, Site, SiteFile, Verdict, run

from .backends import Minimal

BACKENDS = {"on-process": "process", "on-docker": "docker", "on-minimal": "minimal"}
DEADLINE = 100
SLEEP = "exec sleep 600"
# Answers its TERM with a failure that would be worse.
SPITEFUL = "trap 'exit 103' TERM; while :; do sleep 0.05; done"


@pytest.fixture(scope="module")
def trio(engine, busybox, tmp_path_factory):
    """Three sites, open, each with another backend."""
    pytest.importorskip("siteward_process", reason="needs siteward-process: install it")
    folder = tmp_path_factory.mktemp("trio")
    options = {"docker": {"docker_host": engine.host, "network": "none", "pull": "never", "default_image": busybox}}
    plugins = Plugins()
    plugins.add("siteward.backends", "minimal", Minimal)
    sites = []
    for name, backend in BACKENDS.items():
        data = {"name": name, "backends": {backend: options.get(backend, {})}, "default_backend": backend}
        data |= {"state_dir": f"state-{name}", "poll_interval": 0.05, "grace": 5}
        sites.append(Site(SiteFile.from_mapping(data, base_dir=folder), plugins=plugins))
    yield sites
    for site in sites:
        site.close()


def job(scripts, others=SLEEP, **fields):
    """Return a job with a shell script for some sites, and another for the rest."""
    spec = {name: {"command": ["sh", "-c", scripts.get(name, others)]} for name in BACKENDS}
    return Job.from_mapping({"name": "run", "sites": list(BACKENDS), "site_spec": spec, **fields})


def all_up(started):
    """Wait until every site's job runs."""
    for handle in started.handles.values():
        assert handle.wait_until(JobState.RUNNING, timeout=DEADLINE)


CAUSES = {
    "EXCEPTION": ("exit 101", Verdict.FAILED, 101, Reason.ERROR),
    "UNSAFE_COMPONENT": ("exit 102", Verdict.STOPPED, 102, Reason.ERROR),
    "CONFIG_ERROR": ("exit 103", Verdict.FAILED, 103, Reason.ERROR),
    "INFRASTRUCTURE_ERROR": ("exit 104", Verdict.FAILED, 104, Reason.ERROR),
}


@pytest.mark.parametrize("cause", BACKENDS)
@pytest.mark.parametrize(("script", "verdict", "code", "reason"), CAUSES.values(), ids=CAUSES)
def test_a_cause_ends_the_others_on_every_backend(trio, cause, script, verdict, code, reason):
    """FAIL_RUN and STOP_RUN, whichever backend it happens on; those ended by the run are ABORTED and no cause."""
    started = run(job({cause: script}, others=SPITEFUL), trio)
    assert started.wait(DEADLINE) is verdict
    assert (started.code, started.cause) == (code, cause)
    assert started.results[cause].reason is reason
    for name, result in started.results.items():
        if name != cause:
            assert (result.state, result.return_code) == (JobState.ABORTED, 9), result


@pytest.mark.parametrize("stopped", BACKENDS)
def test_one_sites_job_stopped_by_hand_stops_the_run(trio, stopped):
    """STOPPED with code 9 (ABORTED), which no worse end that follows from it overrides."""
    started = run(job({}, others=SPITEFUL), trio)
    all_up(started)
    started.handles[stopped].terminate()
    assert started.wait(DEADLINE) is Verdict.STOPPED
    assert (started.code, started.cause) == (9, stopped)
    assert {result.state for result in started.results.values()} == {JobState.ABORTED}


@pytest.mark.parametrize("noisy", BACKENDS)
def test_noise_on_any_backend_ends_nobody(trio, noisy):
    """A bare exit 1, and a death by signal, leave the others to their work; the lead decides."""
    lead = next(name for name in BACKENDS if name != noisy)
    started = run(job({noisy: "kill -9 $$"}, others="exit 0", lead=lead), trio)
    assert started.wait(DEADLINE) is Verdict.SUCCEEDED
    assert started.results[noisy].reason is Reason.SIGNAL
    assert not started.results[noisy].report.reportable


def test_ending_the_run_ends_every_backends_job(trio):
    """ABORTED 9, no cause, whatever the jobs answer."""
    started = run(job({}, others=SPITEFUL), trio)
    all_up(started)
    started.terminate()
    assert started.wait(DEADLINE) is Verdict.ABORTED
    assert (started.code, started.cause) == (9, None)
