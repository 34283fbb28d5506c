"""The launcher and its handle at a real site, without a federation around them."""

import threading

import psutil
import pytest
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey

from siteward import Site
from siteward_nvflare import ClientSitewardLauncher

from .parent import CODES, CREDENTIALS, DEADLINE, DEAF, FOREVER, PATIENT, UNKNOWN, ends

VARIABLES = ("NVFLARE_JOB_AUTH_TOKEN", "NVFLARE_JOB_TOKEN_SIGNATURE", "NVFLARE_JOB_SSID")


def test_the_launcher_offers_itself(parent):
    """For every job, once: FLARE fails the jobs of a site with none or two."""
    fl_ctx = parent.context()
    parent.launcher.handle_event(EventType.BEFORE_JOB_LAUNCH, fl_ctx)
    assert fl_ctx.get_prop(FLContextKey.JOB_LAUNCHER) == [parent.launcher]


ENDS = {**CODES, "any other exit": ("os._exit(7)", 1), "killed by another": ("os.kill(os.getpid(), 9)", 1)}


@pytest.mark.parametrize("case", ENDS)
def test_codes_reach_flare_as_they_are(parent, case):
    """FLARE's own process and Docker launchers make 1 of 101 to 104, its Kubernetes launcher 9 of almost all."""
    behaviour, code = ENDS[case]
    assert ends(parent.launch(behaviour=behaviour)) == code


def test_what_a_job_sees(parent, monkeypatch):
    """Its own code and the site's on the path, credentials in its environment and nowhere else; blanks harm nothing."""
    monkeypatch.setenv("PARENTS_OWN", "1")
    (parent.root / "local" / "custom").mkdir()
    handle = parent.launch(behaviour="tell('seen', {'argv': sys.argv, 'env': dict(os.environ), 'path': sys.path})")
    seen = parent.told("job-1", "seen")
    assert ends(handle) == 0
    assert seen["argv"][1:3] == ["-m", str(parent.root)]
    assert seen["argv"][-3:] == ["--set", "secure_train=true", "print_conf=True"]
    assert str(parent.root / "job-1" / "app_site-1" / "custom") in seen["path"]
    assert str(parent.root / "local" / "custom") in seen["path"]
    assert {seen["env"][name] for name in VARIABLES} == {value for _, value in CREDENTIALS.values()}
    assert "PARENTS_OWN" not in seen["env"]


def test_secrets_are_in_no_file_and_no_command_line(parent):
    """While the job runs and afterwards, wherever siteward or the bridge write."""
    handle = parent.launch(behaviour=PATIENT)
    parent.told("job-1", "up")
    lines = [" ".join(each.info["cmdline"] or ()) for each in psutil.process_iter(["cmdline"])]
    handle.terminate()
    ends(handle)
    files = [path for path in parent.folder.rglob("*") if path.is_file() and path.suffix != ".key"]
    for _, secret in CREDENTIALS.values():
        assert not [line for line in lines if secret in line]
        assert not [path for path in files if secret.encode() in path.read_bytes()]


def test_a_running_job_has_no_code_and_waiting_goes_on(parent):
    """127 until the end; wait returns at the end and not before (FLARE's Docker launcher: at any error)."""
    handle = parent.launch(behaviour=PATIENT)
    parent.told("job-1", "up")
    waiter = threading.Thread(target=handle.wait)
    waiter.start()
    assert handle.poll() == UNKNOWN
    assert waiter.is_alive()
    handle.terminate()
    waiter.join(DEADLINE)
    assert not waiter.is_alive()
    assert handle.poll() == 9


def test_an_abort_gives_time(parent):
    """TERM first: the job may save what it has; FLARE's own launchers kill at once. Any number of times."""
    handle = parent.launch(behaviour=PATIENT)
    parent.told("job-1", "up")
    for _ in range(3):
        handle.terminate()
    assert ends(handle) == 9
    assert parent.told("job-1", "term") == 1
    handle.terminate()
    assert handle.poll() == 9


def test_a_job_that_does_not_heed_term_is_killed(parent):
    """After the site's grace period."""
    handle = parent.launch(behaviour=DEAF)
    pid = parent.told("job-1", "up")
    handle.terminate()
    assert ends(handle) == 9
    assert not psutil.pid_exists(pid)


def test_a_clean_up_is_nobody_s_abort(parent):
    """A job that the server does not know any more ends as lost; a real abort goes before that."""
    cleaned, aborted = parent.launch("job-1", FOREVER), parent.launch("job-2", FOREVER)
    cleaned._terminate_for_heartbeat_cleanup()
    aborted._terminate_for_heartbeat_cleanup()
    aborted.terminate()
    assert ends(cleaned) == 104
    assert ends(aborted) == 9


def test_a_slow_launch_answers_in_time(make, with_faults):
    """FLARE's server forgets a client after 20 s; the handle is there before, and an abort is remembered."""
    (with_faults / "delay").write_text("25")
    parent = make()
    launched = []
    thread = threading.Thread(target=lambda: launched.append(parent.launch(behaviour=FOREVER)))
    thread.start()
    thread.join(19)
    (handle,) = launched
    assert handle.poll() == UNKNOWN
    handle.terminate()
    assert ends(handle) == 9
    thread.join()


REFUSED = {
    "no such backend": ({"launcher_spec": {"site-1": {"docker": {"image": "x"}}}}, "offers docker.*enables process"),
    "an option that the backend has not": ({"launcher_spec": {"default": {"process": {"shm_size": "1g"}}}}, "shm_size"),
    "own code that is not authorised": ({"launcher_spec": {"default": {"process": {"image": "x"}}}}, "image|byoc"),
    "a study that the site has not": ({"study": "cancer"}, "no study 'cancer'"),
    "resources of a wrong shape": ({"resource_spec": {"site-1": {"num_of_cpus": "two"}}}, "num_of_cpus"),
    "more than the site allows": ({"resource_spec": {"site-1": {"num_of_cpus": 8}}}, "8 CPUs.*allows 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_start_is_told_at_once_and_leaves_nothing(make, case):
    """An exception in words, as FLARE's server shows it; no job, no folder, no reservation."""
    meta, words = REFUSED[case]
    parent = make(backends={"process": {"max_cpus": 1}})
    with pytest.raises(RuntimeError, match=words):
        parent.launch(**meta)
    assert parent.bridge.site.jobs() == []
    assert list((parent.folder / "state" / "jobs").iterdir()) == []


def test_a_wrong_site_file_is_told_when_flare_starts(tmp_path):
    """Not when the first job comes."""
    file = tmp_path / "site.yaml"
    file.write_text("name: x\nbackends: {}\n")
    with pytest.raises(ValueError, match="expected at least one backend"):
        ClientSitewardLauncher(str(file))


def test_studies_of_the_site_reach_the_job(make):
    """Their environment, by the name that the job's meta gives."""
    parent = make(studies={"cancer": {"env": {"MODE": "prod"}}})
    handle = parent.launch(behaviour="tell('mode', os.environ.get('MODE'))", study="cancer")
    assert ends(handle) == 0
    assert parent.told("job-1", "mode") == "prod"


# --- parents that come and go ---


def test_a_job_ends_with_its_parent(make):
    """As FLARE's own processes do, but with time to save."""
    parent = make()
    handle = parent.launch(behaviour=PATIENT)
    parent.told("job-1", "up")
    parent.close()
    assert handle.poll() == 9
    assert parent.told("job-1", "term") == 1


def test_a_parent_that_starts_again_ends_what_was_left(make):
    """And only that: jobs of another FLARE site, or of siteward's own users, go on."""
    first = make()
    other = make(name="site-2")
    mine, others = first.launch(behaviour=PATIENT), other.launch("job-2", PATIENT)
    first.told("job-1", "up")
    other.told("job-2", "up")
    second = make()
    assert ends(mine) == 9
    assert others.poll() == UNKNOWN
    assert second.launch("job-1", "").poll() in (UNKNOWN, 0)
    with Site.load(first.site_file, adopt=False) as site:
        assert {row.job_id for row in site.jobs()} == {"job-1-site-1", "job-1-site-1-2", "job-2-site-2"}


def test_a_job_that_is_launched_again_has_the_field_alone(make):
    """A server that restores a job does not run two processes that write one folder."""
    parent = make(name="server")
    first = parent.launch(behaviour=PATIENT)
    pid = parent.told("job-1", "up")
    second = parent.launch(behaviour=f"tell('alone', os.path.exists('/proc/{pid}'))")
    assert parent.told("job-1", "alone") is False
    assert ends(second) == 0
    assert ends(first) == 9
