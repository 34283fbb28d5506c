"""How a job starts and how it ends."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from siteward import Job, JobState, OptionsRefused, PortableResources, Reason
from siteward_process.backend import Backend

from .helpers import Place, Watch, poll_end, until

SH = "/bin/sh"


@pytest.mark.parametrize(
    ("script", "reason", "state", "code", "exit_code", "number"),
    [
        ("exit 0", Reason.COMPLETED, JobState.SUCCEEDED, 0, 0, None),
        ("exit 1", Reason.ERROR, JobState.FAILED, 1, 1, None),
        ("exit 42", Reason.ERROR, JobState.FAILED, 1, 42, None),
        ("exit 101", Reason.ERROR, JobState.FAILED, 101, 101, None),
        ("exit 104", Reason.ERROR, JobState.FAILED, 104, 104, None),
        ("exit 126", Reason.ERROR, JobState.FAILED, 1, 126, None),
        ("exit 127", Reason.ERROR, JobState.FAILED, 1, 127, None),
        ("exit 255", Reason.ERROR, JobState.FAILED, 1, 255, None),
        ("exit 143", Reason.SIGNAL, JobState.FAILED, 1, 143, 15),
        ("kill -KILL $$", Reason.SIGNAL, JobState.FAILED, 1, 137, 9),
        ("kill -SEGV $$", Reason.SIGNAL, JobState.FAILED, 1, 139, 11),
        ("kill -TERM $$", Reason.SIGNAL, JobState.FAILED, 1, 143, 15),
    ],
)
def test_every_end_is_told_as_it_was(place: Place, script, reason, state, code, exit_code, number):
    """Exit code and signal come through exactly; a job's own 126 and 127 are its own."""
    status = place.run(SH, "-c", script)
    result = status.result
    assert (result.reason, status.state, result.return_code) == (reason, state, code)
    assert (result.exit_code, result.signal) == (exit_code, number)


def write(path: Path, text: str, mode: int) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def make_missing(root: Path) -> str:
    return "no-such-command-anywhere"


def make_missing_path(root: Path) -> str:
    return "./no-such-file"


def make_not_executable(root: Path) -> str:
    return write(root / "plain.sh", "#!/bin/sh\n", 0o644)


def make_folder(root: Path) -> str:
    return str(root)


def make_bad_interpreter(root: Path) -> str:
    return write(root / "bad.sh", "#!/no/such/interpreter\n", 0o755)


def make_no_program(root: Path) -> str:
    return write(root / "words.txt", "just words\n", 0o755)


@pytest.mark.parametrize(
    ("make", "exit_code", "words"),
    [
        (make_missing, 127, "Install it"),
        (make_missing_path, 127, "relative to the job directory"),
        (make_not_executable, 126, "chmod +x"),
        (make_folder, 126, "chmod +x"),
        (make_bad_interpreter, 126, "interpreter"),
        (make_no_program, 126, "#! line"),
    ],
)
def test_a_command_that_cannot_start_is_a_job_that_failed_to_launch(watched, tmp_path, make, exit_code, words):
    """Launch gives a ref all the same; the end says what is wrong and what to do, by watch and by poll."""
    place, backend, watch = watched
    ref = backend.siteward_launch_job(place.request(make(tmp_path)))
    for status in (watch.end_of(ref), backend.siteward_poll_job(ref)):
        assert (status.state, status.result.reason) == (JobState.FAILED, Reason.LAUNCH_FAILED)
        assert (status.result.return_code, status.result.exit_code) == (101, exit_code)
        assert words in status.result.message


def test_a_job_directory_that_is_gone_is_a_job_that_failed_to_launch(place: Place):
    request = place.request("true")
    request.job_dir.rmdir()
    backend = place.backend()
    result = poll_end(backend, backend.siteward_launch_job(request)).result
    assert (result.reason, result.exit_code) == (Reason.LAUNCH_FAILED, None)
    assert str(request.job_dir) in result.message


def test_a_command_too_long_for_the_system_is_a_job_that_failed_to_launch(place: Place):
    result = place.run("true", "x" * 3_000_000).result
    assert result.reason is Reason.LAUNCH_FAILED
    assert "longer than the system takes" in result.message


def test_commands_are_found_on_the_jobs_own_path(place: Place, tmp_path):
    """PATH of the job, not of siteward, decides; a name with a slash is relative to the job directory."""
    tools = tmp_path / "tools"
    tools.mkdir()
    write(tools / "greet", "#!/bin/sh\necho from-tools > out\n", 0o755)
    request = place.request("greet", env={"PATH": f"{tools}:/usr/bin:/bin"})
    backend = place.backend()
    assert poll_end(backend, backend.siteward_launch_job(request)).state is JobState.SUCCEEDED
    assert (request.job_dir / "out").read_text() == "from-tools\n"
    request = place.request("bin/here")
    (request.job_dir / "bin").mkdir()
    write(request.job_dir / "bin" / "here", "#!/bin/sh\nexit 7\n", 0o755)
    assert poll_end(backend, backend.siteward_launch_job(request)).result.exit_code == 7


def test_arguments_never_meet_a_shell(place: Place):
    """Quotes, globs, newlines and bytes that are no UTF-8 arrive as they are; only siteward's words are replaced."""
    words = ["$HOME", "*", "a b", 'q"q', "line\nline", "", "{site}", "{other}", "ü\udcff"]
    code = "import os, sys; open('args', 'wb').write(b'\\0'.join(map(os.fsencode, sys.argv[1:])))"
    request = place.request(sys.executable, "-S", "-c", code, *words)
    backend = place.backend()
    assert poll_end(backend, backend.siteward_launch_job(request)).state is JobState.SUCCEEDED
    seen = (request.job_dir / "args").read_bytes().split(b"\0")
    assert seen == [os.fsencode(word) for word in [*words[:6], "here", *words[7:]]]


def test_a_jobs_environment_is_clean(place: Place, monkeypatch):
    """PATH, HOME, LANG, TZ, TMPDIR, USER, what inherit_env lists, the job's own: nothing else of siteward's."""
    for name, value in {"SECRET_OF_MINE": "x", "WANTED": "yes", "TZ": "UTC", "USER": "me"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TMPDIR", raising=False)
    backend = place.backend(inherit_env=("WANTED", "NOT_SET"))
    request = place.request("/usr/bin/env", env={"MINE": "1", "TZ": "CET"}, secrets={"TOKEN": "hush"})
    assert poll_end(backend, backend.siteward_launch_job(request)).state is JobState.SUCCEEDED
    seen = dict(line.split("=", 1) for line in request.log_file.read_text().splitlines())
    base = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "USER") if name in os.environ}
    ours = {
        "SITEWARD_SITE": "here",
        "SITEWARD_JOB_ID": request.job_id,
        "SITEWARD_JOB_DIR": str(request.job_dir),
        "SITEWARD_BACKEND": "process",
        "SITEWARD_ATTEMPT": "1",
    }
    assert seen == {**base, "WANTED": "yes", "MINE": "1", "TZ": "CET", "TOKEN": "hush", **ours}


def test_a_module_runs_with_the_sites_python(place: Place):
    request = place.request(command=None, module="this", args=("x",))
    backend = place.backend()
    assert poll_end(backend, backend.siteward_launch_job(request)).state is JobState.SUCCEEDED
    assert b"Zen" in request.log_file.read_bytes()
    assert request.argv(backend.siteward_render_job(request)["argv"][0], "") == [
        sys.executable,
        "-u",
        "-m",
        "this",
        "x",
    ]


def test_a_job_starts_with_a_clean_slate(place: Place):
    """No stray file descriptor, every signal at its default, none blocked, its own session, /dev/null to read."""
    code = (
        "import os, signal, time\n"
        "fds = {os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd') if n not in '012' and"
        " os.path.exists(f'/proc/self/fd/{n}')}\n"
        "status = dict(l.split(':', 1) for l in open('/proc/self/status').read().splitlines())\n"
        "print(sorted(fds - {f'/proc/{os.getpid()}/fd'}), os.readlink('/proc/self/fd/0'))\n"
        # Python ignores PIPE and XFSZ by itself; 32 and 33 are the C library's own.
        "mine = {signal.SIGPIPE, signal.SIGXFSZ, 32, 33}\n"
        "print(int(status['SigBlk'], 16), int(status['SigIgn'], 16) & ~sum(1 << n - 1 for n in mine))\n"
        "print(os.getsid(0) == os.getpid(), os.getcwd())\n"
    )
    other = open(os.devnull)  # noqa: SIM115
    os.set_inheritable(other.fileno(), True)
    before = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    try:
        request = place.request("python3", "-S", "-c", code)
        backend = place.backend()
        poll_end(backend, backend.siteward_launch_job(request))
    finally:
        signal.signal(signal.SIGUSR2, before)
        other.close()
    assert request.log_file.read_text() == f"[] /dev/null\n0 0\nTrue {request.job_dir}\n"


def test_a_job_cannot_ignore_what_python_ignores(place: Place):
    """SIGPIPE, which every Python program ignores, ends a job as it ends any other program."""
    assert place.run(SH, "-c", "kill -PIPE $$; exit 3").result.signal == signal.SIGPIPE


def test_usage_and_times_are_in_the_result(place: Place):
    code = "x = bytearray(80_000_000); import time; t = time.process_time()\nwhile time.process_time() < t + 0.2: pass"
    result = place.run("python3", "-S", "-c", code).result
    assert result.usage.cpu_seconds >= 0.2
    assert result.usage.peak_memory >= 80_000_000
    assert result.ended_at >= result.started_at > 1e9


def test_launching_again_starts_nothing(place: Place):
    """Launch is idempotent by job id and attempt, while the job runs and after its end; another attempt is another."""
    backend = place.backend()
    request = place.request(SH, "-c", "echo $$ >> starts")
    first = backend.siteward_launch_job(request)
    assert backend.siteward_launch_job(request) == first
    poll_end(backend, first)
    assert backend.siteward_launch_job(request) == first
    assert len((request.job_dir / "starts").read_text().split()) == 1
    from attrs import evolve

    second = backend.siteward_launch_job(evolve(request, attempt=2))
    assert second != first
    poll_end(backend, second)
    assert len((request.job_dir / "starts").read_text().split()) == 2


def test_a_watch_tells_of_running_then_of_the_end(watched):
    place, backend, watch = watched
    for _ in range(50):
        ref = backend.siteward_launch_job(place.request("true"))
        watch.end_of(ref)
        states = [status.state for known, status in watch.news if known == ref]
        assert states == [JobState.RUNNING, JobState.SUCCEEDED]


def test_nothing_is_published_after_close(place: Place):
    backend, watch = place.backend(), Watch()
    backend.siteward_watch_jobs(watch)
    ref = backend.siteward_launch_job(place.request(SH, "-c", "sleep 0.2"))
    backend.siteward_close_backend()
    count = len(watch.news)
    poll_end(place.backend(), ref)
    assert len(watch.news) == count


def test_removed_jobs_are_forgotten(place: Place):
    """A removed job is not listed, its record on disk goes, and its id can be launched anew."""
    backend = place.backend()
    request = place.request("true")
    ref = backend.siteward_launch_job(request)
    poll_end(backend, ref)
    assert backend.siteward_list_jobs() == [ref]
    backend.siteward_remove_job(ref)
    assert backend.siteward_list_jobs() == []
    assert (place.directory / "ends.log").stat().st_size == 0
    backend.siteward_remove_job(ref)
    again = backend.siteward_launch_job(request)
    assert again.data["start"] >= ref.data["start"]
    poll_end(backend, again)


def test_a_job_removed_while_it_runs_is_forgotten_at_its_end(place: Place):
    backend = place.backend()
    ref = backend.siteward_launch_job(place.request("sleep", "60"))
    backend.siteward_remove_job(ref)
    backend.siteward_terminate_job(ref, 0)
    until(lambda: backend.siteward_list_jobs() == [], "the job is forgotten")


def test_a_job_that_asks_for_more_than_the_site_allows_is_refused(place: Place):
    backend = place.backend(max_cpus=2, max_memory=2**30)
    with pytest.raises(OptionsRefused, match=r"4 CPUs, the site allows 2\. Ask for less") as refused:
        backend.siteward_launch_job(place.request("true", resources=PortableResources(num_of_cpus=4, memory=2**31)))
    assert len(refused.value.problems) == 2
    assert "bytes of memory" in str(refused.value)
    assert backend.siteward_list_jobs() == []


def test_render_shows_what_would_run_and_starts_nothing(place: Place):
    backend = place.backend()
    request = place.request("echo", "{job_id}", secrets={"TOKEN": "hush"}, env={"A": "b"}).masked()
    shown = backend.siteward_render_job(request)
    assert shown["argv"] == ["echo", request.job_id]
    assert shown["cwd"] == str(request.job_dir)
    assert (shown["env"]["A"], shown["env"]["TOKEN"]) == ("b", "***")
    assert shown["log"] == str(request.log_file)
    assert place.keeper_pid() is None


def test_every_option_says_what_it_is_for():
    from attrs import fields

    for options in (Backend.JobOptions, Backend.SiteOptions, Backend.StudyOptions):
        assert all(field.metadata["help"] for field in fields(options))
    assert Job  # the core is importable beside the plugin


def test_doctor_has_a_finding_for_all_that_a_job_needs(place: Place):
    findings = place.backend().siteward_check_backend()
    subjects = " ".join(finding.subject for finding in findings)
    for subject in (str(place.directory), "keeper", "python_path", "num_of_cpus", "memory", "output"):
        assert subject in subjects
    assert all(finding.remedy for finding in findings if finding.level != "ok")
    assert not [finding for finding in findings if finding.level == "fail"]


def test_doctor_says_what_is_broken(place: Place):
    place.directory.chmod(0o755)
    findings = place.backend(python_path="/no/such/python").siteward_check_backend()
    assert {finding.subject for finding in findings if finding.level == "fail"} == {
        f"directory {place.directory}",
        "python_path",
    }
