"""What jobs keep when they end badly, pods and nodes that go away, other ways for files, and other clusters."""

from __future__ import annotations

import kubernetes.client
import pytest

from siteward import JobState, LaunchRefused
from siteward_k8s import transfer, verdicts

from ..jobs import DEADLINE, end_of, run, sh, until
from .helpers import Sites

WAITS = "trap 'exit 7' TERM; echo up > up; while :; do sleep 0.1; done"
GATED = {"spec": {"schedulingGates": [{"name": "queue.example/wait"}]}}


def test_files_come_home_whatever_the_end(sites: Sites, site):
    """Also of a job that ran out of memory, out of time, or was ended on request."""
    small = {"resource_spec": {"@default": {"memory": "32Mi"}}}
    handles = {
        "OOMKilled": site.launch(sh("echo x > kept; exec tail /dev/zero", **small)),
        "DeadlineExceeded": site.launch(sh("echo x > kept; sleep 3600", timeout=3)),
        "Aborted": site.launch(sh(f"echo x > kept; {WAITS}")),
        "Signal": site.launch(sh("echo x > kept; kill -9 $$")),
    }
    handles["Aborted"].wait_until(JobState.RUNNING, DEADLINE)
    handles["Aborted"].terminate(grace=30)
    for reason, handle in handles.items():
        result = handle.wait(DEADLINE)
        assert (result.reason.value, result.workspace) == (reason, "returned"), result
        assert (handle.job_dir / "kept").read_text() == "x\n", reason


def test_a_job_that_kills_all_around_it(sites: Sites, site):
    """It may: its helper runs as the same user. Its files are lost then, and said to be; its end is its own."""
    script = """
until grep -qs siteward-contro[l] /proc/[0-9]*/cmdline; do sleep 0.1; done
for each in /proc/[0-9]*; do [ $each = /proc/$$ ] || kill -9 ${each#/proc/}; done 2>/dev/null; exit 3
"""
    _, result = run(site, sh(script))
    assert (end_of(result), result.workspace) == (("FAILED", "Error", 1, 3), "lost")
    until(lambda: not sites.pods(), "the pod goes")


def test_a_kubelet_that_does_not_answer(cluster, sites: Sites, site, monkeypatch: pytest.MonkeyPatch):
    """A job that is to be ended has not ended before that can be seen; its end and its files are true then."""
    if not cluster.own:
        pytest.skip("needs a cluster of our own: unset SITEWARD_TEST_KUBECONFIG")
    monkeypatch.setitem(transfer._run.__kwdefaults__, "timeout", 5.0)
    handle = site.launch(sh(WAITS))
    handle.wait_until(JobState.RUNNING, DEADLINE)
    with cluster.frozen_kubelet():
        handle.terminate(grace=20)
        with pytest.raises(TimeoutError):
            handle.wait(4)
    assert end_of(handle.wait(DEADLINE)) == ("ABORTED", "Aborted", 9, 7)
    assert (handle.job_dir / "up").exists()


def test_a_site_that_does_it_otherwise_later(sites: Sites, site):
    """A job's files come home the way that was meant when it was launched."""
    handle = site.launch(sh("sleep 3; touch up; exit 4"))
    handle.wait_until(JobState.RUNNING, DEADLINE)
    site.close()
    handle = sites.open(job_directory="none").attach(handle.job_id)
    result = handle.wait(DEADLINE)
    assert (result.exit_code, result.workspace) == (4, "returned")
    assert (handle.job_dir / "up").exists()


def test_a_stop_while_the_job_directory_is_sent(sites: Sites, site):
    """The job never starts, and says so; nothing stays."""
    (sites.folder / "app").mkdir()
    (sites.folder / "app/big").write_bytes(b"x" * 80_000_000)
    handle = site.launch(sh("exit 3", workspace="app", base_dir=sites.folder))
    until(lambda: sites.pod(handle)["status"].get("initContainerStatuses", [{}])[0].get("state", {}).get("running"))
    handle.terminate(grace=5)
    assert handle.wait(DEADLINE).state is JobState.ABORTED
    until(lambda: not sites.pods(), "the pod goes")


# --- pods and nodes that go -----------------------------------------------------------------------------------


def test_a_pod_that_was_deleted_while_nobody_looked(sites: Sites, site):
    """It is lost, and said to be; the job beside it is not."""
    gone, stays = site.launch(sh(WAITS)), site.launch(sh(WAITS))
    for handle in (gone, stays):
        handle.wait_until(JobState.RUNNING, DEADLINE)
    site.close()
    name = sites.pod(gone)["metadata"]["name"]
    sites.namespace.api.delete(f"{sites.namespace.path}/pods/{name}", grace=0)
    site = sites.open()
    assert end_of(site.attach(gone.job_id).wait(DEADLINE)) == ("LOST", "Deleted", 104, None)
    handle = site.attach(stays.job_id)
    handle.terminate(grace=30)
    assert end_of(handle.wait(DEADLINE)) == ("ABORTED", "Aborted", 9, 7)


def test_nodes_that_are_gone(cluster, sites: Sites, monkeypatch: pytest.MonkeyPatch):
    """One whose pod somebody deletes then is lost with its node; one that is to be ended does not wait for it."""
    monkeypatch.setattr(verdicts, "_OVERDUE", 1.0)
    with cluster.fake_nodes(2) as nodes:
        options = {"node_selector": nodes.selector, "tolerations": list(nodes.tolerations), "job_directory": "none"}
        # Only an administrator may see nodes here.
        site = sites.open(kubeconfig=str(cluster.kubeconfig), **options)
        deleted, ended = site.launch(sh("true")), site.launch(sh("true"))
        for handle in (deleted, ended):
            until(lambda handle=handle: sites.pod(handle)["spec"].get("nodeName"), "it has a node")
            nodes.set_running(sites.namespace.name, sites.pod(handle)["metadata"]["name"], container="job")
            handle.wait_until(JobState.RUNNING, DEADLINE)
        for name in list(nodes.names):
            nodes.remove(name)
        name = sites.pod(deleted)["metadata"]["name"]
        sites.namespace.api.delete(f"{sites.namespace.path}/pods/{name}", grace=1)
        ended.terminate(grace=1)
        assert end_of(deleted.wait(2 * DEADLINE)) == ("LOST", "NodeLost", 104, None)
        result = ended.wait(2 * DEADLINE)
        assert end_of(result) == ("ABORTED", "Aborted", 9, None)
        assert "its node is gone" in result.message


# --- a claim ----------------------------------------------------------------------------------------------------


def test_job_directories_on_a_claim(cluster, claimed_sites: Sites, tmp_path):
    """Files go and come without a command in any pod, also of a job that is ended; nothing stays on the claim."""
    app = tmp_path / "app"
    app.mkdir()
    (app / "input").write_text("hi\n")
    execs = count_execs(cluster)
    site = claimed_sites.open()
    handle, result = run(
        site, sh("cat input > out; mkdir d; ln -s ../out d/link; exit 3", workspace="app", base_dir=tmp_path)
    )
    assert (end_of(result), result.workspace) == (("FAILED", "Error", 1, 3), "returned")
    assert (handle.job_dir / "d/link").resolve().read_text() == "hi\n"
    ended = site.launch(sh(WAITS))
    ended.wait_until(JobState.RUNNING, DEADLINE)
    folder = tmp_path / "claim"
    until(lambda: [*folder.glob("*/*/up")], "it is up")
    ended.terminate(grace=30)
    assert end_of(ended.wait(DEADLINE)) == ("ABORTED", "Aborted", 9, 7)
    assert (ended.job_dir / "up").exists()
    with pytest.raises(LaunchRefused, match="dnsPolicy"):
        claimed_sites.open("site-2", pod_template={"spec": {"dnsPolicy": "Nonsense"}}).launch(sh("true"))
    until(lambda: not [*folder.glob("*/*")], "no job directory is left")
    assert count_execs(cluster) == execs


def test_a_claim_that_is_away_for_a_while(claimed_sites: Sites, tmp_path):
    """What a job left there comes when it is back; it is not lost."""
    site, folder = claimed_sites.open(), tmp_path / "claim"
    handle = site.launch(sh("touch up; sleep 2; exit 4"))
    until(lambda: [*folder.glob("*/*/up")], "it runs")
    folder.rename(tmp_path / "away")
    folder.mkdir()
    until(lambda: any(event.kind == "ended" for event in site.events(handle.job_id)), "it ends")
    folder.rmdir()
    (tmp_path / "away").rename(folder)
    result = handle.wait(DEADLINE)
    assert (result.exit_code, result.workspace) == (4, "returned")
    assert (handle.job_dir / "up").exists()


def count_execs(cluster) -> int:
    return sum(count for (_verb, _resource, part, _code), count in cluster.requests().items() if part == "exec")


# --- several at once --------------------------------------------------------------------------------------------


def test_two_clusters_in_one_process(cluster, sites: Sites, proxied_sites: Sites, api_proxy):
    """Each site has its own way and user, and the client library's own configuration is nobody's."""
    library = vars(kubernetes.client.Configuration.get_default_copy())
    before = {key: value for key, value in library.items() if isinstance(value, (str, dict, bool, int, type(None)))}
    handles = [sites.open(state="here").launch(sh("exit 5")), proxied_sites.open(state="there").launch(sh("exit 6"))]
    assert [handle.wait(DEADLINE).exit_code for handle in handles] == [5, 6]
    assert api_proxy.counts["POST", f"{sites.namespace.path}/pods"] == 1
    library = vars(kubernetes.client.Configuration.get_default_copy())
    assert {key: library[key] for key in before} == before


def test_a_launch_waits_for_no_pod(sites: Sites):
    """Regression (8.1, 1): a launch blocked until the pod ran, and the server lost clients after 20 s."""
    site = sites.open()
    held = sites.open("site-2", "two", pod_template=GATED).launch(sh("true"))
    assert held.status().state is JobState.PENDING
    assert run(site, sh("exit 4"))[1].exit_code == 4
    assert held.status().state is JobState.PENDING
    held.terminate()
    assert held.wait(DEADLINE).state is JobState.ABORTED
