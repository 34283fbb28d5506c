"""``siteward run`` and ``render``: verdicts, progress, output, results, signals, detaching."""

import json
import os
import pty
import signal

import pytest

from .cli_kit import BACKEND, until

FAIL_AT_SITE_1 = "import sys; sys.exit({} if sys.argv[1] == 'site-1' else 0)"
SLEEP = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)
RESULT_KEYS = {
    "job_id",
    "site",
    "backend",
    "state",
    "return_code",
    "exit_code",
    "signal",
    "reason",
    "message",
    "started_at",
    "ended_at",
    "log_tail",
    "workspace",
    "usage",
    "report",
}


@pytest.fixture
def sites(cli):
    """Two sites, as options of the command line."""
    return ["--site", cli.site("site-1"), "--site", cli.site("site-2")]


@pytest.mark.parametrize(
    ("exit_code", "verdict", "code"),
    [(0, "SUCCEEDED", 0), (3, "FAILED", 1), (101, "FAILED", 101), (102, "STOPPED", 102), (104, "FAILED", 104)],
)
def test_the_exit_code_is_the_verdicts(cli, sites, exit_code, verdict, code):
    """`run --json` prints the verdict, its code and each site's result; the exit code is the same."""
    done = cli("run", cli.job(FAIL_AT_SITE_1.format(exit_code)), *sites, "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, document["verdict"], document["code"]) == (code, verdict, code)
    assert document.keys() == {"verdict", "code", "jobs"}
    assert [job["site"] for job in document["jobs"]] == ["site-1", "site-2"]
    assert all(job.keys() == RESULT_KEYS for job in document["jobs"])
    assert document["jobs"][0]["exit_code"] == exit_code
    assert "site-1  RUNNING" in done.stderr


def test_a_site_that_fails_the_run_ends_the_others(cli, sites):
    """The cause is named with the last lines of its output; the other site's job was ended by the run."""
    script = "import sys, time; print('boom') if sys.argv[1] == 'site-1' else time.sleep(600); sys.exit(101)"
    done = cli("run", cli.job(script), *sites)
    assert done.returncode == 101
    lines = done.stdout.splitlines()
    assert lines[0].startswith("job job-")
    assert {"site-1  RUNNING", "site-2  RUNNING"} <= set(lines)
    assert any(line.startswith("site-2  ABORTED") for line in lines)
    assert any(line.startswith("FAILED (101): site-1") for line in lines)
    assert lines[-2:] == ["last lines of site-1's output:", "  boom"]
    assert done.stderr == ""


def test_every_files_mistakes_are_told_at_once(cli):
    """Mistakes in the job file and in two site files, their backends' blocks too, come together; nothing starts."""
    job = cli.job(launcher_spec={"default": {BACKEND: {"no_such_option": 1}}})
    job.write_text(job.read_text().replace("name: job", "nmae: job"))
    bad = cli.site("site-2", max_jobs="many")
    done = cli("run", job, "--site", cli.site("site-1"), "--site", bad)
    assert done.returncode == 2
    for words in ("job.yaml: nmae", "did you mean 'name'?", "site-2.yaml: max_jobs"):
        assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (cli.folder / "state").exists()


def test_mistakes_that_only_sites_can_see_are_told_at_once(cli, sites):
    """What each site's backend refuses is told with the job file's name and the path where it is in it."""
    job = cli.job(launcher_spec={"default": {BACKEND: {"no_such_option": 1}}})
    done = cli("run", job, *sites)
    assert done.returncode == 2
    for site in ("site-1", "site-2"):
        assert f"job.yaml: launcher_spec.default.{BACKEND}.no_such_option: at site '{site}'" in done.stderr
    assert cli.json("ps", "--all", *sites[:2]) == []


def test_a_platform_that_refuses_is_exit_code_2(cli):
    """A backend that raises is told in words, and nothing is left behind."""
    site = cli.site(backends={"bare": {}}, default_backend="bare")
    done = cli("run", cli.job(), "--site", site)
    assert done.returncode == 2
    assert "this is a bug" in done.stderr
    assert "Traceback" not in done.stderr
    assert cli.json("ps", "--all", "--site", site) == []


def test_a_platform_that_refuses_later_ends_the_run(cli):
    """Once a job is launched somewhere, a site that cannot start its own is a cause, and is shown."""
    bad = cli.site("site-2", backends={"bare": {}}, default_backend="bare")
    done = cli("run", cli.job(SLEEP), "--site", cli.site("site-1"), "--site", bad, "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, document["verdict"]) == (101, "FAILED")
    jobs = {job["site"]: job for job in document["jobs"]}
    assert (jobs["site-1"]["state"], jobs["site-2"]["reason"]) == ("ABORTED", "LaunchFailed")
    assert "site-2  FAILED" in done.stderr


def test_a_site_that_is_not_needed_is_left_out(cli):
    """With min_sites the others start, and the site that cannot is named with its reason."""
    bad = cli.site("site-2", resources={"units": {"free": "/nowhere"}})
    done = cli("run", cli.job(min_sites=1), "--site", cli.site("site-1"), "--site", bad)
    assert done.returncode == 0
    assert "site-2 is left out: every unit is taken" in done.stdout


def test_no_site_of_the_job_given_is_exit_code_2(cli):
    done = cli("run", cli.job(sites=["elsewhere"]), "--site", cli.site())
    assert done.returncode == 2
    assert "elsewhere" in done.stderr


def test_sites_come_from_the_environment_too(cli):
    """SITEWARD_SITE_FILE holds several sites' files, separated by colons."""
    files = f"{cli.site('site-1')}:{cli.site('site-2')}"
    done = cli("run", cli.job(), "--json", env={**cli.env, "SITEWARD_SITE_FILE": files})
    assert [job["site"] for job in json.loads(done.stdout)["jobs"]] == ["site-1", "site-2"]


# --- resources ---


def test_resources_refused_is_verdict_refused(cli):
    """Refused before anything started: verdict REFUSED, exit code 104, each site's reason in words."""
    site = cli.site(resources={"units": {"free": "/nowhere"}})
    done = cli("run", cli.job(), "--site", site, "--json")
    assert done.returncode == 104
    assert json.loads(done.stdout) == {"verdict": "REFUSED", "code": 104, "jobs": []}
    assert "site-1: every unit is taken" in done.stderr
    detached = cli("run", cli.job(), "--site", site, "--detach")
    assert (detached.returncode, detached.stdout) == (104, "")
    assert "every unit is taken" in detached.stderr


def test_resources_are_waited_for(cli):
    """With --wait-resources the run starts when they are free, and says meanwhile what it waits for."""
    free = cli.folder / "free"
    process = cli.start(
        "run", cli.job(), "--site", cli.site(resources={"units": {"free": str(free)}}), "--wait-resources", 60
    )
    assert b"waiting for resources: site-1: every unit is taken" in process.stderr.readline()
    free.touch()
    assert process.wait(30) == 0


def test_what_a_site_never_has_is_not_waited_for(cli):
    """--wait-resources ends at once, with the site's reason; `render` says the same."""
    site = cli.site(resources={"units": {"free": "/nowhere"}})
    job = cli.job(resource_spec={"site-1": {"units": 3}})
    done = cli("run", job, "--site", site, "--wait-resources", 600)
    assert done.returncode == 104
    assert (
        "REFUSED (104): 0 of 1 sites can start it, and waiting cannot change that. site-1: there are 2 un"
        in done.stdout
    )
    done = cli("render", job, "--site", site)
    assert done.returncode == 2
    assert "there are 2 units" in done.stderr


@pytest.mark.parametrize(("number", "more"), [(signal.SIGINT, []), (signal.SIGTERM, []), (signal.SIGINT, ["--detach"])])
def test_waiting_for_resources_can_be_given_up(cli, number, more):
    """A signal while nothing is started ends the wait at once; nothing is left behind."""
    site = cli.site(resources={"units": {"free": "/nowhere"}})
    process = cli.start("run", cli.job(), "--site", site, "--wait-resources", 600, *more)
    process.stderr.readline()
    process.send_signal(number)
    assert process.wait(30) == 130
    assert b"nothing was started" in process.stderr.read()
    assert cli.json("ps", "--all", "--site", site) == []


# --- following and results ---


def test_follow_shows_each_line_after_its_sites_name(cli, sites):
    """Every line comes, the last without its newline too, before the word that its job has ended."""
    script = "import sys; print('a'); print('b', end='')"
    lines = cli("run", cli.job(script), *sites, "--follow").stdout.splitlines()
    for site in ("site-1", "site-2"):
        own = [line for line in lines if line.startswith(site) and not line.endswith(("PENDING", "RUNNING"))]
        assert own[:2] == [f"{site} | a", f"{site} | b"]
        assert own[2].startswith(f"{site}  SUCCEEDED")


def test_follow_with_json_keeps_stdout_for_the_document(cli):
    done = cli("run", cli.job("print('hello')"), "--site", cli.site(), "--follow", "--json")
    assert json.loads(done.stdout)["verdict"] == "SUCCEEDED"
    assert "site-1 | hello" in done.stderr.splitlines()


def test_output_brings_results_home_for_failures_too(cli, sites):
    """DIR/<site>/ is the job directory, links as links, and DIR/<site>.log all that the job printed."""
    script = (
        "import os, sys; print('said', sys.argv[1]); os.mkdir('d'); open('d/f', 'w').write('data')\n"
        "os.symlink('/etc/passwd', 'link'); os.mkfifo('pipe'); sys.exit(101 if sys.argv[1] == 'site-1' else 0)"
    )
    folder = cli.folder / "new" / "results"
    done = cli("run", cli.job(script), *sites[:2], "--output", folder)
    assert done.returncode == 101
    assert (folder / "site-1" / "d" / "f").read_text() == "data"
    assert os.readlink(folder / "site-1" / "link") == "/etc/passwd"
    assert (folder / "site-1.log").read_text() == "said site-1\n"
    assert not (folder / "site-1" / "pipe").exists()
    assert "pipe: is neither a file, a folder nor a link" in done.stderr


def test_output_never_writes_over_anything(cli, sites):
    """A folder that is there and not empty is refused beforehand with exit code 2; an empty one is used."""
    (cli.folder / "results" / "site-1").mkdir(parents=True)
    (cli.folder / "results" / "site-2").mkdir()
    (cli.folder / "results" / "site-2" / "precious").touch()
    done = cli("run", cli.job(), *sites, "--output", "results")
    assert done.returncode == 2
    assert "results/site-2" in done.stderr
    assert "results/site-1" not in done.stderr
    assert not (cli.folder / "state").exists()
    (cli.folder / "results" / "site-2" / "precious").unlink()
    assert cli("run", cli.job(), *sites, "--output", "results").returncode == 0
    (cli.folder / "file").touch()
    assert cli("run", cli.job(), *sites, "--output", "file/results").returncode == 2


def test_output_stays_inside_for_hostile_site_names(cli):
    """A site called `..` gets a safe name; nothing is written outside DIR."""
    site = cli.site("x").rename(cli.folder / "up.yaml")
    site.write_text(site.read_text().replace("name: x", 'name: ".."'))
    done = cli("run", cli.job("open('f', 'w')"), "--site", site, "--output", "out/here")
    assert done.returncode == 0, done.stderr
    assert os.listdir(cli.folder / "out") == ["here"]
    names = sorted(os.listdir(cli.folder / "out" / "here"))
    assert len(names) == 2
    assert (cli.folder / "out" / "here" / names[0] / "f").exists()


# --- signals ---


def running(process):
    """Wait until a job of a run that is followed says that it is up."""
    for line in process.stdout:
        if b"| up" in line:
            return


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_ends_the_jobs_politely(cli, number):
    """Ctrl-C once, or SIGTERM: the jobs get TERM and their grace; the verdict is ABORTED, the exit code 9."""
    script = (
        "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: (print('bye'), sys.exit(0)))\n"
        "print('up')\ntime.sleep(600)"
    )
    process = cli.start("run", cli.job(script), "--site", cli.site(), "--follow")
    running(process)
    process.send_signal(number)
    rest = process.stdout.read().decode()
    assert process.wait(30) == 9
    assert "ending the jobs; Ctrl-C again kills them" in rest
    assert "site-1 | bye" in rest
    assert "ABORTED (9)" in rest


def test_a_second_ctrl_c_kills(cli):
    """A job that ignores TERM is killed without waiting for the rest of its grace."""
    process = cli.start("run", cli.job(STUBBORN), "--site", cli.site(grace=600), "--follow")
    running(process)
    process.send_signal(signal.SIGINT)
    until(lambda: b"ending" in process.stdout.readline())
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 9
    assert "killing the jobs" in process.stdout.read().decode()


def test_sigterm_twice_does_not_kill(cli):
    """Only Ctrl-C gets impatient: a supervisor that sends SIGTERM again leaves the jobs their grace."""
    process = cli.start("run", cli.job(STUBBORN), "--site", cli.site(grace=1), "--follow")
    running(process)
    process.send_signal(signal.SIGTERM)
    until(lambda: b"ending" in process.stdout.readline())
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 9
    assert "killing the jobs" not in process.stdout.read().decode()


def test_a_third_ctrl_c_leaves_jobs_that_cannot_be_ended(cli):
    """When the platform ends nothing, the user gets the terminal back all the same."""
    site = cli.site(backends={"immortal": {}}, default_backend="immortal")
    process = cli.start("run", cli.job(), "--site", site)
    until(lambda: b"RUNNING" in process.stdout.readline())
    for words in (b"ending", b"killing", b"leaving"):
        process.send_signal(signal.SIGINT)
        until(lambda words=words: words in process.stdout.readline())
    assert process.wait(30) == 130


def test_the_jobs_go_on_when_nobody_reads(cli):
    """`siteward run … | head -1` ends its jobs as ever; the verdict is theirs and stderr stays quiet."""
    script = "import time\nfor i in range(2000): print('x' * 100)\nopen('done', 'w')"
    site = cli.site()
    process = cli.start("run", cli.job(script), "--site", site, "--follow")
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(30) == 0
    assert process.stderr.read() == b""
    (job,) = cli.json("ps", "--all", "--site", site)
    assert (cli.folder / "state" / "site-1" / "jobs" / job["job_id"] / "work" / "done").exists()
    process.stdout = None


def test_a_terminal_shows_a_live_table(cli):
    """On a terminal the table is drawn anew as states change, and job output cannot command the terminal."""
    script = "print('\\x1b]0;owned\\x07\\x1b[2Jhello')"
    ours, theirs = pty.openpty()
    env = {**cli.env, "TERM": "xterm", "COLUMNS": "60"}
    done = cli("run", cli.job(script), "--site", cli.site(), "--follow", stdout=theirs, capture_output=False, env=env)
    os.close(theirs)
    shown = os.read(ours, 1 << 20).decode()
    os.close(ours)
    assert done.returncode == 0
    assert "owned" not in shown
    assert "\x1b[2J" not in shown
    for words in ("hello", "MESSAGE", "SUCCEEDED", "site-1 succeeded"):
        assert words in shown


# --- detaching ---


def test_detach_leaves_a_driver_behind(cli, sites):
    """The command is over once the jobs are launched; another process sees them end, results are brought home."""
    script = "import os, time\nos.mkfifo('pipe')\nwhile not os.path.exists('go'): time.sleep(0.02)\nprint('went')"
    document = cli.json("run", cli.job(script), *sites, "--detach", "--output", "results")
    assert document["verdict"] is None
    assert [job["return_code"] for job in document["jobs"]] == [127, 127]
    job_id = document["jobs"][0]["job_id"]
    assert document["jobs"][0].keys() == RESULT_KEYS
    assert len(cli.drivers()) == 1
    status = cli.json("status", job_id, *sites[:2])
    assert status["state"] in ("PENDING", "RUNNING")
    assert (status["return_code"], status["log_tail"], status["exit_code"]) == (127, None, None)
    for site in ("site-1", "site-2"):
        (cli.folder / "state" / site / "jobs" / job_id / "work" / "go").touch()
    assert cli("wait", job_id, *sites[:2]).returncode == 0
    until(lambda: not cli.drivers())
    assert (cli.folder / "results" / "site-2.log").read_text() == "went\n"
    assert (cli.folder / "results" / "site-1" / "go").exists()
    (told,) = [event for event in cli.json("events", job_id, *sites[:2]) if event["kind"] == "not copied"]
    assert "pipe: is neither" in told["message"]


def test_detach_tells_what_went_wrong(cli):
    """What only the driver could find out comes back with the right exit code; no driver is left."""
    site = cli.site(backends={BACKEND: {"no_such_option": 1}})
    for job_site in (site, cli.site("site-2", backends={"bare": {}}, default_backend="bare")):
        done = cli("run", cli.job(), "--site", job_site, "--detach")
        assert done.returncode == 2
        assert "no_such_option" in done.stderr or "this is a bug" in done.stderr
        assert done.stdout == ""
    until(lambda: not cli.drivers())


def test_a_detached_run_is_ended_by_sigterm(cli):
    """SIGTERM to the driver is one Ctrl-C."""
    site = cli.site()
    job_id = cli.detach(cli.job(SLEEP), "--site", site)
    (driver,) = cli.drivers()
    os.kill(driver, signal.SIGTERM)
    assert cli("wait", job_id, "--site", site).returncode == 9


def test_a_driver_lets_go_of_its_callers_streams(cli):
    """`$(siteward run --detach …)` returns: the driver holds neither the pipe nor the folder it came from."""
    cli.detach(cli.job(SLEEP), "--site", cli.site())
    (driver,) = cli.drivers()
    assert [os.readlink(f"/proc/{driver}/fd/{fd}") for fd in range(3)] == [os.devnull] * 3
    assert os.readlink(f"/proc/{driver}/cwd") == "/"
    assert os.getsid(driver) not in (os.getsid(0), driver)


# --- render ---


def test_render_starts_nothing_and_shows_no_secret(cli, monkeypatch):
    """`render` prints what would be submitted, with secrets masked, or says that the backend cannot."""
    site = cli.site(
        "site-1", backends={BACKEND: {}, "bare": {}}, job_secrets={"token": {"env": "TOKEN"}}, state_dir="./state/r"
    )
    env = {**cli.env, "TOKEN": "hush-hush"}
    job = cli.job(secrets={"FED": "token"}, env={"A": "b"})
    for more in ([], ["--json"]):
        done = cli("render", job, "--site", site, *more, env=env)
        assert done.returncode == 0, done.stderr
        assert "hush-hush" not in done.stdout + done.stderr
        assert "***" in done.stdout
    assert cli.json("ps", "--all", "--site", site) == []
    done = cli("render", cli.job(launcher_spec={"default": {"bare": {}}}), "--site", site)
    assert done.returncode == 2
    assert "cannot render" in done.stderr
