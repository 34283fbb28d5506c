"""Jobs as containers of a real engine: how they start, what they may, how they end."""

from __future__ import annotations

import os
import threading

import pytest

from siteward import JobState, LaunchRefused, OptionsRefused, Site

from .helpers import DEADLINE, Sites, end_of, job, output, run, sh, until

LOST = ("LOST", "Deleted", 104, None)


# --- what a job may -----------------------------------------------------------------------------------------


def test_a_job_has_few_rights(sites: Sites, site: Site):
    """It is not root, has no capabilities, gets no new privileges, and writes only to its directory and /tmp."""
    handle, result = run(
        site,
        sh(
            "id -u; grep -E 'CapEff|NoNewPrivs' /proc/self/status; touch /tmp/x && echo tmp; touch here && echo here;"
            " touch /etc/x 2>/dev/null || echo read-only; ls /var/run/docker.sock 2>/dev/null; true"
        ),
    )
    assert result.state is JobState.SUCCEEDED, result
    uid = "65534" if os.geteuid() == 0 else str(os.geteuid())
    words = output(handle).split()
    assert words == [uid, "CapEff:", "0" * 16, "NoNewPrivs:", "1", "tmp", "here", "read-only"]


@pytest.mark.parametrize("mode", ["bind", "copy"])
def test_files_come_back_as_the_sites_own(sites: Sites, mode: str):
    """Whoever wrote them in the container, and whatever they are."""
    site = sites.open(job_directory=mode)
    handle, result = run(
        site, sh("mkdir d; echo hi > d/f; ln -s /etc/passwd l; chmod 4777 d/f; mkfifo p; cat d/f; exit 3")
    )
    assert (end_of(result), result.log_tail) == (("FAILED", "Error", 1, 3), "hi")
    found = handle.job_dir / "d" / "f"
    assert found.read_text() == "hi\n"
    assert (found.stat().st_uid, found.stat().st_mode & 0o7000) == (os.geteuid(), 0)
    assert result.workspace == ("returned" if mode == "bind" else "partial"), "a pipe and a link out stay behind"


def test_folders_deeper_than_a_recursion_come_back(sites: Sites, site: Site):
    """A job that puts thousands of them into each other loses no file, and nobody the right to remove them."""
    handle, result = run(site, sh("for n in $(seq 1500); do mkdir d; cd d; done; touch last"))
    assert (result.state, result.workspace) == (JobState.SUCCEEDED, "returned"), result
    assert (handle.job_dir / "/".join("d" * 1500) / "last").stat().st_uid == os.geteuid()
    site.close()
    keep = sites.open(fields={"keep": {"jobs": 0, "days": 0}})
    assert [each.job_id for each in keep.gc()] == [handle.job_id]
    assert not handle.job_dir.exists()


def test_only_so_much_is_taken_back(sites: Sites):
    """With copies, a job cannot fill the site's disk."""
    site = sites.open(job_directory="copy", max_collect=100_000)
    handle, result = run(site, sh("echo a > a; head -c 5000000 /dev/zero > b"))
    assert (result.state, result.workspace) == (JobState.SUCCEEDED, "partial")
    assert not (handle.job_dir / "b").exists()


def test_limits_are_the_kernels(sites: Sites, site: Site):
    """CPUs and memory are set; a job that outgrows its memory ends as OOMKilled."""
    ask = {"resource_spec": {"@default": {"num_of_cpus": 1, "memory": "32Mi"}}}
    handle = site.launch(sh("head -c 200000000 /dev/zero | tail -c 150000000 | wc -c; exec tail /dev/zero", **ask))
    until(lambda: handle.done() or sites.containers(handle), "there is a container")
    assert end_of(handle.wait(DEADLINE)) == ("FAILED", "OOMKilled", 104, 137)
    assert "memory" in handle.wait().message


def test_a_childs_end_for_memory_is_not_the_jobs(site: Site):
    """A job that survives the loss of a child has succeeded; its message says what happened."""
    ask = {"resource_spec": {"@default": {"memory": "32Mi"}}}
    _, result = run(site, sh("tail /dev/zero; sleep 0.2; exit 0", **ask))
    assert result.state is JobState.SUCCEEDED
    assert "memory limit" in result.message


def test_more_than_the_site_allows_starts_nothing(sites: Sites):
    """The refusal says how much it may be."""
    site = sites.open(max_memory=64 * 2**20)
    with pytest.raises(OptionsRefused, match="the site allows 67108864"):
        site.launch(sh("true", resource_spec={"@default": {"memory": "1Gi"}}))
    assert site.jobs() == []
    assert site.platform_jobs() == []


def test_the_images_entrypoint_is_not_used(sites: Sites):
    """What runs is the job's command; an entrypoint that the job names comes before it."""
    spec = {"launcher_spec": {"default": {"docker": {"entrypoint": ["echo", "first"]}}}}
    handle, _ = run(sites.open(), job("second", "third", **spec))
    assert output(handle) == "first second third\n"


# --- how it ends --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["no-such-program"], ["./no-such-file"], ["/etc"], ["./plain"]])
def test_a_command_that_cannot_start(site: Site, sites: Sites, command: list[str]):
    """It is a job that ended as LaunchFailed, with words for people."""
    (sites.folder / "app").mkdir()
    (sites.folder / "app" / "plain").write_text("no program")
    found = site.launch(
        type(job("x")).from_mapping({"name": "test", "command": command, "workspace": "app"}, base_dir=sites.folder)
    )
    result = found.wait(DEADLINE)
    assert end_of(result)[:3] == ("FAILED", "LaunchFailed", 101)
    assert "cannot be started" in result.message


@pytest.mark.parametrize("code", [126, 127, 101, 143])
def test_a_jobs_own_codes_are_its_own(site: Site, code: int):
    """126 and 127 mean a command that cannot start only when it was not started."""
    _, result = run(site, sh(f"exit {code}"))
    expected = {143: ("FAILED", "Signal", 1, 143), 101: ("FAILED", "Error", 101, 101)}
    assert end_of(result) == expected.get(code, ("FAILED", "Error", 1, code))


def test_removed_by_hand_is_lost(sites: Sites, site: Site):
    """Nobody can say how it would have ended; it is seen at once, without a poll."""
    handle = site.launch(sh("sleep 100"))
    assert handle.wait_until(JobState.RUNNING, DEADLINE)
    sites.api.remove_container(sites.container(handle)["Id"], force=True)
    assert end_of(handle.wait(DEADLINE)) == LOST


def test_killed_by_hand_is_a_signal(sites: Sites, site: Site):
    """A kill from outside is an end like any other."""
    handle = site.launch(sh("sleep 100"))
    assert handle.wait_until(JobState.RUNNING, DEADLINE)
    sites.api.kill(sites.container(handle)["Id"])
    assert end_of(handle.wait(DEADLINE)) == ("FAILED", "Signal", 1, 137)


def test_paused_by_hand_still_runs(sites: Sites, site: Site):
    """A paused job runs, says so, goes on when let go, and can be ended with time to save."""
    handle = site.launch(sh("trap 'touch saved; exit 5' TERM; touch ready; while :; do sleep 0.05; done"))
    until((handle.job_dir / "ready").exists, "the job is ready")
    container = sites.container(handle)["Id"]
    sites.api.pause(container)
    until(lambda: "paused" in handle.status().message, "the pause is seen")
    assert handle.status().state is JobState.RUNNING
    sites.api.unpause(container)
    until(lambda: "paused" not in handle.status().message, "that it goes on is seen")
    sites.api.pause(container)
    handle.terminate(grace=30)
    assert end_of(handle.wait(DEADLINE)) == ("ABORTED", "Aborted", 9, 5)
    assert (handle.job_dir / "saved").exists()


def test_a_job_that_handles_no_signals_ends_on_term(site: Site):
    """Process 1 of a container would ignore it."""
    handle = site.launch(sh("sleep 100; true"))
    assert handle.wait_until(JobState.RUNNING, DEADLINE)
    handle.terminate(grace=50)
    assert end_of(handle.wait(30)) == ("ABORTED", "Aborted", 9, 143)


# --- the engine's side --------------------------------------------------------------------------------------


def test_nothing_is_left_on_the_engine(sites: Sites):
    """Containers and volumes go when results are stored."""
    before = {volume["Name"] for volume in sites.api.volumes()["Volumes"] or ()}
    site = sites.open(job_directory="copy")
    handles = [run(site, sh("exit 1"))[0] for _ in range(2)]
    until(lambda: not any(map(sites.containers, handles)), "the containers are removed")
    assert {volume["Name"] for volume in sites.api.volumes()["Volumes"] or ()} == before


def test_two_installations_do_not_see_each_other(sites: Sites):
    """Though their sites have one name, and their jobs one id."""
    one, other = sites.open(state="a"), sites.open(state="b")
    handles = [each.launch(sh("sleep 100", id="same-id")) for each in (one, other)]
    assert len(sites.containers(handles[0])) == 2
    assert [len(each.platform_jobs()) for each in (one, other)] == [1, 1]
    handles[0].terminate(grace=0)
    assert handles[0].wait(DEADLINE).state is JobState.ABORTED
    assert handles[1].wait_until(JobState.RUNNING, DEADLINE)
    assert other.gc(running=True) == []
    handles[1].terminate(grace=0)
    handles[1].wait(DEADLINE)


def test_gc_removes_what_was_left_over(sites: Sites):
    """From labels alone, with the store lost: ended containers, and running ones only when asked."""
    site = sites.open()
    running, ended = site.launch(sh("sleep 100")), site.launch(sh("sleep 1"))
    assert running.wait_until(JobState.RUNNING, DEADLINE)
    assert ended.wait_until(JobState.RUNNING, DEADLINE)
    site.close()
    until(lambda: sites.container(ended)["State"]["Status"] == "exited", "the second job ends")
    (sites.folder / "state").rename(sites.folder / "lost")
    again = sites.open()
    assert [(each.kind, each.job_id) for each in again.gc()] == [("orphan", ended.job_id)]
    assert sites.containers(ended) == []
    assert [each.job_id for each in again.gc(running=True)] == [running.job_id]
    assert sites.containers(running) == []


def test_a_container_that_has_the_name_is_not_taken_for_the_job(sites: Sites, site: Site, busybox: str):
    """A name is taken by somebody else: nothing is launched, nothing of theirs is touched."""
    name = site.render(sh("true", id="taken"))["name"]
    theirs = sites.api.create_container(busybox, ["true"], name=name)["Id"]
    try:
        with pytest.raises(LaunchRefused, match="is not of this job"):
            site.launch(sh("true", id="taken"))
        assert site.jobs() == []
        assert sites.api.inspect_container(theirs)["State"]["Status"] == "created"
    finally:
        sites.api.remove_container(theirs)


def test_doctor_says_what_there_is(sites: Sites):
    """Engine and API versions, cgroups, networks, GPUs, disk, init; a network that is missing is a failure."""
    findings = {finding.subject: finding for finding in sites.open().doctor()}
    assert {"engine", "cgroups", "networks", "GPUs", "init"} <= findings.keys()
    assert sites.api.version()["Version"] in findings["engine"].message
    assert {finding.level for finding in findings.values()} == {"ok"}
    findings = {finding.subject: finding for finding in sites.open("site-2", "s2", network="nope").doctor()}
    assert findings["networks"].level == "fail"
    assert "docker network create nope" in findings["networks"].remedy


def test_threads_do_not_grow_with_jobs(sites: Sites, site: Site):
    """While jobs run there is one thread that watches and one that keeps time, however many jobs."""
    before = set(threading.enumerate())
    handles = [site.launch(sh("sleep 100")) for _ in range(12)]
    for handle in handles:
        assert handle.wait_until(JobState.RUNNING, DEADLINE)
    ours = until(lambda: len(set(threading.enumerate()) - before) <= 3, "only the threads that are needed are left")
    assert ours
    for handle in handles:
        handle.terminate(grace=0)
    for handle in handles:
        assert handle.wait(DEADLINE).state is JobState.ABORTED


def test_following_starts_before_the_job_and_ends_with_it(site: Site):
    """All of the output, in order, without the engine's timestamps."""
    handle = site.launch(sh("for i in 1 2 3; do echo $i; sleep 0.2; done; printf end >&2"))
    assert list(handle.logs(follow=True)) == [b"1\n", b"2\n", b"3\n", b"end"]


def test_a_label_that_looks_like_an_exit_code(sites: Sites):
    """The engine's events have labels beside what they tell, and one of that name in the code's place."""
    site = sites.open(labels={"exitCode": "0"})
    result = site.launch(sh("exit 9")).wait(DEADLINE)
    assert (result.state, result.exit_code) == (JobState.FAILED, 9)
