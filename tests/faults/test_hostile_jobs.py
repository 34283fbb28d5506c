"""Jobs that turn their own folder against the site."""

import os
import subprocess
import sys

import pytest

SITE = "name: s\nbackends: {process: {}}\ndefault_backend: process\nstate_dir: state\n"


@pytest.fixture
def run(tmp_path):
    """Run a shell script as a job by the command line, results to ``out``; the CompletedProcess."""

    def run(script, workspace=None):
        (tmp_path / "site.yaml").write_text(SITE)
        where = f"workspace: {workspace}\n" if workspace else ""
        (tmp_path / "job.yaml").write_text(f"name: j\nid: one\ncommand: [sh, -c, '{script}']\n{where}")
        command = [sys.executable, "-m", "siteward", "run", "job.yaml", "--site", "site.yaml", "--output", "out"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    return run


def test_a_replaced_job_directory_is_not_followed(run, tmp_path):
    """A job that puts a link in the place of its job directory gets nothing of the site copied to the results."""
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "key").write_text("TOP SECRET")
    done = run(f"mv ../work ../gone && ln -s {tmp_path}/private ../work")
    assert "something else in the place" in done.stderr
    assert not list((tmp_path / "out").rglob("key"))


@pytest.mark.parametrize(
    "replacement", ["mkfifo ../output.log", "ln -s {private} ../output.log", "mkdir ../output.log"]
)
def test_a_replaced_log_neither_hangs_nor_leaks(run, tmp_path, replacement):
    """Whatever a job puts in the place of its log, the run ends, and nothing else is read in its stead."""
    (tmp_path / "private").write_text("TOP SECRET")
    done = run("rm ../output.log; " + replacement.format(private=tmp_path / "private"))
    assert done.returncode in (0, 74)
    assert "Traceback" not in done.stderr
    assert "TOP SECRET" not in done.stdout + done.stderr
    copied = [path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not [data for data in copied if b"TOP SECRET" in data]


def test_a_state_dir_inside_the_workspace_is_left_out(run, tmp_path):
    """The whole folder may be the workspace though the site keeps its state in it."""
    assert run("ls", workspace=".").returncode == 0
    assert (tmp_path / "out" / "s" / "job.yaml").is_file()
    assert not (tmp_path / "out" / "s" / "state").exists()


def test_stray_files_do_not_stop_gc(run, tmp_path):
    """gc passes over what is no job's folder."""
    assert run("true").returncode == 0
    (tmp_path / "state" / "jobs" / "stray").touch()
    os.symlink("/etc", tmp_path / "state" / "jobs" / "link")
    command = [sys.executable, "-m", "siteward", "gc", "--site", "site.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "state" / "jobs" / "stray").exists()


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_change_no_exit_code(run, tmp_path, closed):
    """A command whose standard streams are closed does its work and says so by its code."""
    run("exit 3")
    command = f"{sys.executable} -m siteward wait one --site site.yaml {closed}"
    done = subprocess.run(command, shell=True, cwd=tmp_path, timeout=60, stderr=subprocess.DEVNULL)
    assert done.returncode == 1
