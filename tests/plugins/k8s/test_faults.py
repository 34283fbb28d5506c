"""What goes wrong between a site and its cluster: nothing is lost, and nothing has ended that has not."""

from __future__ import annotations

import base64
import threading
from typing import Any

import pytest

from siteward import JobState, LaunchRefused
from siteward.store import Phase
from siteward_k8s import record, transport
from siteward_k8s.place import Place

from ...cluster.proxy import Answer, Drop, Hold
from ..jobs import DEADLINE, end_of, run, sh, until
from .helpers import Sites
from .rights import rules

NEVER_RAN = ("FAILED", "LaunchFailed", 101, None)
ENDS_WHEN_ASKED = "trap 'exit 7' TERM; echo up > up; while :; do sleep 0.1; done"
SECRET = {"job_secrets": {"fed": {"file": "token"}}}
GATED = {"spec": {"schedulingGates": [{"name": "queue.example/wait"}]}}


def has_ended(sites: Sites, handle) -> bool:
    """Whether the job's container has ended, as the API server has it."""
    statuses = sites.pod(handle)["status"].get("containerStatuses", ())
    return any("terminated" in each["state"] for each in statuses if each["name"] == "job")


def name_of(site, job_id: str) -> str:
    """Return the name that a job's pod will have."""
    owner = (site.state_dir / "plugins/k8s/owner").read_text().strip()
    return Place(owner=owner, site="site-1", backend="k8s", options=None, namespace="").pod_name(job_id, 1)


# --- requests and answers that get lost ---------------------------------------------------------------------


def test_the_answer_to_create_is_lost(api_proxy, proxied_sites: Sites):
    """The pod exists, and is found: it is the job, which runs once."""
    site = proxied_sites.open()
    api_proxy.fault(Drop(), r"/pods(\?|$)", method="POST")
    handle = site.launch(sh("echo run >> runs; exit 4"))
    assert handle.wait(DEADLINE).exit_code == 4
    assert (handle.job_dir / "runs").read_text() == "run\n"
    assert [event.kind for event in site.events(handle.job_id)].count("uncertain") == 1
    assert api_proxy.counts["POST", f"{proxied_sites.namespace.path}/pods"] == 1


def test_the_request_to_create_is_lost(api_proxy, proxied_sites: Sites, monkeypatch: pytest.MonkeyPatch):
    """There is no pod: the job never began, and is not launched again by itself; its Secret goes."""
    monkeypatch.setattr(record, "LAUNCH_WITHIN", 2.0)
    (proxied_sites.folder / "token").write_text("s3cr3t")
    site = proxied_sites.open(fields=SECRET)
    api_proxy.fault(Drop(before=True), r"/pods(\?|$)", method="POST")
    handle = site.launch(sh("true", secrets={"TOKEN": "fed"}))
    result = handle.wait(DEADLINE)
    assert end_of(result) == NEVER_RAN
    assert "never created" in result.message
    until(lambda: not proxied_sites.namespace.names("secrets"), "the Secret is removed")
    assert not proxied_sites.pods()


def test_a_lost_answer_to_the_secret_is_a_refusal(api_proxy, proxied_sites: Sites):
    """Before the pod there is nothing to be uncertain about: the launch is refused, and leaves nothing."""
    (proxied_sites.folder / "token").write_text("s3cr3t")
    site = proxied_sites.open(fields=SECRET)
    api_proxy.fault(Drop(), "/secrets$", method="POST")
    with pytest.raises(LaunchRefused, match="create the secret"):
        site.launch(sh("true", secrets={"TOKEN": "fed"}))
    assert site.jobs() == []
    assert not proxied_sites.pods()
    assert not proxied_sites.namespace.names("secrets")


def test_an_outage_while_jobs_run(api_proxy, proxied_sites: Sites):
    """They are unreachable, not ended; ends that nobody saw come afterwards, and so does a stop that was asked for."""
    site = proxied_sites.open()
    ends, stopped, stays = (
        site.launch(sh(script)) for script in ("sleep 4; echo x > x; exit 10", ENDS_WHEN_ASKED, ENDS_WHEN_ASKED)
    )
    for handle in (ends, stopped, stays):
        handle.wait_until(JobState.RUNNING, DEADLINE)
    with api_proxy.outage():
        until(lambda: not any(handle.status().reachable for handle in (ends, stopped, stays)), "the outage is told")
        stopped.terminate(grace=30)
        with pytest.raises(LaunchRefused, match="cannot be reached"):
            site.launch(sh("true"))
        until(lambda: has_ended(proxied_sites, ends), "its pod has ended")
        assert not any(handle.done() for handle in (ends, stopped, stays))
        assert not has_ended(proxied_sites, stopped)
    assert ends.wait(DEADLINE).exit_code == 10
    assert (ends.job_dir / "x").exists()
    assert end_of(stopped.wait(DEADLINE)) == ("ABORTED", "Aborted", 9, 7)
    assert (stopped.job_dir / "up").exists()
    until(lambda: stays.status().reachable, "the other is seen again")
    assert stays.status().state is JobState.RUNNING
    stays.terminate(grace=30)
    assert stays.wait(DEADLINE).exit_code == 7
    assert len(site.jobs()) == 3, "the refused launch left nothing"


def test_a_pod_that_comes_late_is_ended_if_that_was_asked_for(api_proxy, proxied_sites: Sites, monkeypatch):
    """The API server took its time over a create whose answer nobody waited for; a stop came before it was done."""
    monkeypatch.setattr(transport, "_ANSWER_WITHIN", 2.0)
    site, released = proxied_sites.open(job_directory="none"), threading.Event()
    held = api_proxy.fault(Hold(released=released), r"/pods(\?|$)", method="POST")
    handle = site.launch(sh("trap '' TERM; sleep 3600"))
    assert held.seen == 1
    handle.terminate(grace=1)
    with pytest.raises(TimeoutError):
        handle.wait(1)
    released.set()
    assert handle.wait(DEADLINE).state is JobState.ABORTED
    until(lambda: not proxied_sites.pods(), "the pod goes")


@pytest.mark.parametrize("action", [Drop(before=True), Drop(), Answer(status=500)], ids=["request", "answer", "500"])
def test_files_come_and_go_in_the_end(api_proxy, proxied_sites: Sites, action):
    """Commands in pods that fail on their way are tried again, in and out."""
    site = proxied_sites.open()
    fault = api_proxy.fault(action, "/exec", times=2)
    handle = site.launch(sh("echo run >> runs; sleep 1; exit 4"))
    until(lambda: handle.status().state is JobState.RUNNING, "it runs")
    assert fault.seen == 2
    fault = api_proxy.fault(action, "/exec", times=2)
    result = handle.wait(DEADLINE)
    assert (result.exit_code, result.workspace, fault.seen) == (4, "returned", 2)
    assert (handle.job_dir / "runs").read_text() == "run\n"


# --- names that are taken -----------------------------------------------------------------------------------


def test_a_pod_of_its_name_that_is_not_ours(sites: Sites):
    """The launch is refused in words, and what is there stays; no Secret is left."""
    (sites.folder / "token").write_text("s3cr3t")
    site = sites.open(fields=SECRET)
    run(site, sh("true"))
    name = name_of(site, "mine")
    theirs = sites.namespace.run(name, "sleep", "1000")
    with pytest.raises(LaunchRefused, match=f"has a pod '{name}' that is not this job's"):
        site.launch(sh("true", id="mine", secrets={"TOKEN": "fed"}))
    assert sites.namespace.pod(name)["metadata"]["uid"] == theirs["metadata"]["uid"]
    assert "deletionTimestamp" not in sites.namespace.pod(name)["metadata"]
    assert not sites.namespace.names("secrets")


def test_a_strangers_pod_survives_an_uncertain_launch(api_proxy, proxied_sites: Sites, monkeypatch):
    """A job that never began is cleared away; what is not its own is not, whatever its name."""
    monkeypatch.setattr(record, "LAUNCH_WITHIN", 2.0)
    sites = proxied_sites
    site = sites.open()
    run(site, sh("true"))
    api_proxy.fault(Drop(before=True), r"/pods(\?|$)", method="POST")
    handle = site.launch(sh("true", id="mine"))
    theirs = sites.namespace.run(name_of(site, "mine"), "sleep", "1000")
    assert end_of(handle.wait(DEADLINE)) == NEVER_RAN
    until(lambda: site.row("mine").phase is Phase.REMOVED, "it is cleared away")
    assert "deletionTimestamp" not in sites.namespace.pod(theirs["metadata"]["name"])["metadata"]


def test_a_leftover_secret_is_written_anew(sites: Sites):
    """One of ours has an earlier launch's values; one that is not ours is nobody's to overwrite."""
    (sites.folder / "token").write_text("new")
    site = sites.open(fields=SECRET)
    run(site, sh("true"))
    path = f"{sites.namespace.path}/secrets"
    old = {"data": {"TOKEN": base64.b64encode(b"old").decode()}}
    owner = (site.state_dir / "plugins/k8s/owner").read_text().strip()
    ours = {"name": name_of(site, "ours"), "labels": {"siteward.dev/owner": owner}}
    sites.namespace.api.create(path, {"metadata": ours, **old})
    handle = site.launch(sh("test $TOKEN = new", id="ours", secrets={"TOKEN": "fed"}))
    theirs = name_of(site, "theirs")
    sites.namespace.api.create(path, {"metadata": {"name": theirs}, **old})
    with pytest.raises(LaunchRefused, match="not siteward's"):
        site.launch(sh("true", id="theirs", secrets={"TOKEN": "fed"}))
    assert handle.wait(DEADLINE).state is JobState.SUCCEEDED
    until(lambda: sites.namespace.names("secrets") == [theirs], "only ours goes")


def test_a_job_id_that_comes_again(sites: Sites):
    """Regression (8.1, 10): a relaunch failed for the pod of an earlier launch; now gc makes room for it."""
    site = sites.open(pod_template=GATED)
    site.launch(sh("exit 3", id="again"))
    site.close()
    for file in (sites.folder / "state").glob("siteward.db*"):
        file.rename(sites.folder / file.name)
    (sites.folder / "state/jobs/again").rename(sites.folder / "again")
    site = sites.open()
    with pytest.raises(LaunchRefused, match="siteward gc"):
        site.launch(sh("exit 4", id="again"))
    assert [(each.kind, each.job_id) for each in site.gc()] == [("orphan", "again")]
    until(lambda: not sites.pods(), "the orphan goes")
    assert site.launch(sh("exit 4", id="again")).wait(DEADLINE).exit_code == 4


# --- rights that are missing --------------------------------------------------------------------------------


def without(verb: str, resource: str) -> list[dict[str, Any]]:
    """Return a site's rights but for one."""
    return [
        {**rule, "verbs": [each for each in rule["verbs"] if not (each == verb and resource in rule["resources"])]}
        for rule in rules("transfer")
    ]


def test_nothing_may_be_run_in_pods(namespace, tmp_path):
    """A job directory cannot come: the job ends soon, and says what to grant. FLARE's would have waited for ever."""
    sites = Sites(namespace, namespace.user("no-exec", rules()), tmp_path)
    try:
        _, result = run(sites.open(), sh("true"))
        assert end_of(result) == NEVER_RAN
        assert "pods/exec" in result.message
        assert "Grant" in result.message
        until(lambda: not sites.pods(), "the pod goes")
    finally:
        sites.close()


def test_watching_is_forbidden(namespace, tmp_path):
    """Jobs are looked at now and then instead: their ends come, and their files."""
    sites = Sites(namespace, namespace.user("no-watch", without("watch", "pods")), tmp_path)
    try:
        site = sites.open(fields={"poll_interval": 1})
        handle = site.launch(sh("echo x > x; exit 6"))
        stopped = site.launch(sh(ENDS_WHEN_ASKED))
        assert handle.wait(DEADLINE).exit_code == 6
        assert (handle.job_dir / "x").exists()
        stopped.wait_until(JobState.RUNNING, DEADLINE)
        stopped.terminate(grace=30)
        assert end_of(stopped.wait(DEADLINE)) == ("ABORTED", "Aborted", 9, 7)
        assert (stopped.job_dir / "up").exists()
    finally:
        sites.close()
