"""Commands about jobs that other processes have started, or still drive."""

import json
import os
import signal

import pytest

from .cli_kit import BACKEND, until

SLEEP = "import time; print('up', flush=True); time.sleep(600)"
WAIT_FOR_GO = "import os, sys, time\nwhile not os.path.exists('go'): time.sleep(0.02)\nprint('went'); sys.exit(5)"


@pytest.fixture
def site(cli):
    return ["--site", cli.site()]


def go(cli, job_id):
    """Let a job go on that waits for it."""
    (cli.folder / "state" / "site-1" / "jobs" / job_id / "work" / "go").touch()


def test_ended_jobs_are_listed_with_all(cli, site):
    """`ps` lists what has not ended, `ps --all` everything, with reason, age and message."""
    assert cli("run", cli.job("raise SystemExit(5)"), *site).returncode == 1
    assert cli.json("ps", *site) == []
    (job,) = cli.json("ps", "--all", *site)
    assert (job["state"], job["reason"], job["backend"]) == ("FAILED", "Error", BACKEND)
    assert job["message"] == "the job exited with code 5"
    table = cli("ps", "--all", *site).stdout.splitlines()
    assert table[0].split() == ["JOB", "ID", "BACKEND", "STATE", "REASON", "AGE", "MESSAGE"]
    assert table[1].split()[:4] == [job["job_id"], BACKEND, "FAILED", "Error"]
    assert "--all lists all" in cli("ps", *site).stderr


def test_an_ended_job_explains_itself(cli, site):
    """`status` has the result and the last lines, `events` the history, `logs` the output, `wait` the code."""
    document = json.loads(cli("run", cli.job("print('why'); raise SystemExit(103)"), *site, "--json").stdout)
    job_id = document["jobs"][0]["job_id"]
    assert cli.json("status", job_id, *site) == document["jobs"][0]
    assert cli.json("wait", job_id, *site) == document["jobs"][0]
    status = cli("status", job_id, *site)
    assert status.returncode == 0
    for words in ("FAILED", "103 (exit code 103)", "  why"):
        assert words in status.stdout
    kinds = [event["kind"] for event in cli.json("events", job_id, *site)]
    assert kinds[0] == "launching"
    assert {"launched", "ended"} <= set(kinds)
    assert "exited with code 103" in cli("events", job_id, *site).stdout
    assert cli("logs", job_id, *site).stdout == "why\n"
    assert cli("wait", job_id, *site).returncode == 103
    stopped = cli("stop", job_id, *site)
    assert stopped.returncode == 0
    assert "had ended before" in stopped.stderr


def test_an_id_that_is_nearly_right_gets_a_hint(cli, site):
    """From every command that takes one, also for the job's name alone."""
    job_id = cli.detach(cli.job(), *site)
    for command in ("status", "events", "logs", "wait", "stop"):
        for typed in (job_id[:-1] + "x", job_id.partition("-")[0]):
            done = cli(command, typed, *site)
            assert done.returncode == 2
            assert f"Did you mean {job_id!r}?" in done.stderr


def test_stop_from_another_process_ends_the_job_and_stops_the_run(cli, site):
    """The driver hears of it: the job is ABORTED, whoever waits gets 9, the run that it belongs to is STOPPED."""
    process = cli.start("run", cli.job(SLEEP), *site, "--json")
    (job,) = until(lambda: [job for job in cli.json("ps", *site) if job["state"] == "RUNNING"])
    stopped = cli("stop", job["job_id"], *site)
    assert (stopped.returncode, "ABORTED" in stopped.stdout) == (0, True)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 9
    assert json.loads(out)["verdict"] == "STOPPED"
    assert cli("wait", job["job_id"], *site).returncode == 9


def test_stop_kills_when_the_grace_is_over(cli, site):
    """--grace 0 ends a job at once that ignores TERM."""
    script = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{SLEEP}"
    job_id = cli.detach(cli.job(script), "--site", cli.site(grace=600))
    until(lambda: cli("logs", job_id, *site).stdout == "up\n")
    document = cli.json("stop", job_id, "--grace", 0, *site)
    assert (document["state"], document["signal"]) == ("ABORTED", signal.SIGKILL)


def test_logs_of_a_running_job_are_followed_to_its_end(cli, site):
    """`logs -f` from another process shows what comes until the job has ended; --tail begins near the end."""
    job_id = cli.detach(cli.job(f"print('one'); print('two')\n{WAIT_FOR_GO}"), *site)
    until(lambda: cli("logs", job_id, *site).stdout == "one\ntwo\n")
    follower = cli.start("logs", "-f", "--tail", 1, job_id, *site)
    assert follower.stdout.readline() == b"two\n"
    go(cli, job_id)
    assert follower.communicate(timeout=30)[0] == b"went\n"
    assert follower.returncode == 0
    assert cli("logs", "--tail", 1, job_id, *site).stdout == "went\n"
    assert cli("logs", "--tail", 0, job_id, *site).stdout == ""


def test_wait_goes_on_when_the_driver_is_killed(cli, site):
    """After `kill -9` of a detached driver whoever waits takes the job over and has its true end."""
    job_id = cli.detach(cli.job(WAIT_FOR_GO), *site)
    waiter = cli.start("wait", job_id, *site)
    (driver,) = cli.drivers()
    os.kill(driver, signal.SIGKILL)
    until(lambda: "adopted" in [event["kind"] for event in cli.json("events", job_id, *site)])
    go(cli, job_id)
    out, _ = waiter.communicate(timeout=30)
    assert waiter.returncode == 1
    assert b"exited with code 5" in out


@pytest.mark.parametrize("command", ["wait", "stop"])
def test_a_job_whose_driver_has_died_is_taken_over(cli, site, command):
    """`wait` and `stop` that come after the driver's death drive the job to its end themselves."""
    job_id = cli.detach(cli.job(WAIT_FOR_GO), *site)
    (driver,) = cli.drivers()
    os.kill(driver, signal.SIGKILL)
    until(lambda: not cli.drivers())
    go(cli, job_id) if command == "wait" else None
    done = cli(command, job_id, *site)
    state, code = ("FAILED", 1) if command == "wait" else ("ABORTED", 0)
    assert (done.returncode, state in done.stdout) == (code, True), done.stderr
    assert cli.json("status", job_id, *site)["state"] == state


def test_ctrl_c_leaves_the_job_that_is_waited_for(cli, site):
    """Who waits may leave; the job goes on."""
    job_id = cli.detach(cli.job(SLEEP), *site)
    waiter = cli.start("wait", job_id, *site)
    until(lambda: len(os.listdir(f"/proc/{waiter.pid}/task")) > 1)
    waiter.send_signal(signal.SIGINT)
    assert waiter.wait(30) == 130
    assert b"Traceback" not in waiter.stderr.read()
    assert [job["job_id"] for job in cli.json("ps", *site)] == [job_id]


def test_looking_starts_nothing(cli, site):
    """`ps`, `status` and `events` work while another process drives the job, and change nothing."""
    job_id = cli.detach(cli.job(SLEEP), *site)
    until(lambda: cli.json("status", job_id, *site)["state"] == "RUNNING")
    before = sorted(cli.folder.glob("state/**/*"))
    for command in (["ps"], ["ps", "--all", "--json"], ["status", job_id], ["events", job_id]):
        assert cli(*command, *site).returncode == 0
    assert sorted(cli.folder.glob("state/**/*")) == before
    (row,) = cli.json("ps", *site)
    assert row["started_at"] is not None


def test_a_queued_job_says_what_it_waits_for(cli):
    """With max_jobs running, `ps` says that a job is queued; `stop` takes it out of the queue."""
    site = ["--site", cli.site(max_jobs=1)]
    first, second = (cli.detach(cli.job(SLEEP), *site) for _ in range(2))
    rows = {job["job_id"]: job for job in cli.json("ps", *site)}
    assert rows.keys() == {first, second}
    assert rows[second]["state"] == "PENDING"
    assert "max_jobs" in rows[second]["message"]
    assert "ABORTED" in cli("stop", second, *site).stdout


def test_ps_platform_asks_the_platform(cli, site):
    """`ps --platform` lists what the platform runs, with what the store knows of it."""
    job_id = cli.detach(cli.job(SLEEP), *site)
    until(lambda: cli.json("status", job_id, *site)["state"] == "RUNNING")
    (job,) = cli.json("ps", "--platform", *site)
    assert job == {"job_id": job_id, "backend": BACKEND, "attempt": 1, "state": "RUNNING"}
    assert job_id in cli("ps", "--platform", *site).stdout


def test_gc_applies_retention(cli):
    """`gc --dry-run` says what would go, `gc` removes it, and then there is nothing to remove."""
    site = ["--site", cli.site(keep={"jobs": 0})]
    assert cli("run", cli.job(), *site).returncode == 0
    (stray := cli.folder / "state" / "site-1" / "jobs" / "stray").mkdir()
    dry = cli.json("gc", "--dry-run", *site)
    assert {each["kind"] for each in dry} == {"job", "folder"}
    assert len(cli.json("ps", "--all", *site)) == 1
    assert stray.exists()
    assert cli("gc", *site).returncode == 0
    assert cli.json("ps", "--all", *site) == []
    assert not stray.exists()
    assert "nothing to remove" in cli("gc", *site).stderr


def test_resources_shows_what_the_manager_reports(cli):
    site = ["--site", cli.site(resources={"units": {"free": "/nowhere"}})]
    report = {"units": {"free": False, "units": {"licence": ["a", "b"]}}}
    assert cli.json("resources", *site) == report
    assert 'units.units.licence  ["a", "b"]' in cli("resources", *site).stdout


def test_a_corrupt_store_is_told_in_words(cli, site):
    """Exit code 2 and what to do about it."""
    assert cli("run", cli.job(), *site).returncode == 0
    store = cli.folder / "state" / "site-1" / "siteward.db"
    for path in store.parent.glob("siteward.db*"):
        path.unlink()
    store.write_bytes(b"not a database" * 100)
    done = cli("ps", *site)
    assert done.returncode == 2
    assert "corrupt" in done.stderr
    assert "Traceback" not in done.stderr
    store.unlink()


def test_no_secret_is_shown_anywhere(cli):
    """A secret's value is in no document, no table, no store and no log of ours."""
    site = ["--site", cli.site(job_secrets={"token": {"env": "TOKEN"}})]
    env = {**cli.env, "TOKEN": "hush-hush"}
    job = cli.job("import os; assert os.environ['FED'] == 'hush' + '-hush'", secrets={"FED": "token"})
    done = cli("run", job, *site, "--json", "--output", "out", env=env)
    assert done.returncode == 0, done.stderr
    job_id = json.loads(done.stdout)["jobs"][0]["job_id"]
    shown = [done, *(cli(*command, *site) for command in (["ps", "--all", "--json"], ["status", job_id, "--json"]))]
    assert not any("hush-hush" in each.stdout + each.stderr for each in shown)
    files = [path for path in cli.folder.rglob("*") if path.is_file()]
    assert not [path for path in files if b"hush-hush" in path.read_bytes()]
