"""`report_file`: each end that concerns others is one line of JSON, once, whatever is killed."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from attrs import evolve

from siteward import Context, FailureReport, FileError, JobRef, Reason, ended
from siteward_report_sinks.file import ReportFile

from .conftest import fail


def lines(path):
    return [json.loads(line) for line in Path(path).read_bytes().splitlines()]


def an_end(job_id="j-1", code=101, attempt=1, site="clinic", **more):
    """Return a ref and a result with its report, as observers get them."""
    result = ended(exit_code=code, ended_at=5.0)
    report = FailureReport(
        site=site, job_id=job_id, backend="process", code=code, reason="Error", reportable=code != 1, **more
    )
    return JobRef(site=site, backend="process", job_id=job_id, attempt=attempt), evolve(result, report=report)


@pytest.fixture
def sink(tmp_path):
    """Make a sink that writes to one file."""

    def make(**options):
        context = Context(site="clinic", backend="report_file", directory=tmp_path, log=None, base_dir=tmp_path)
        return ReportFile(context, ReportFile.SiteOptions(path="reports.jsonl", **options))

    return make


def test_a_line_for_each_failure(sites, tmp_path):
    """With what the report says and what it means; successes, and what concerns nobody, leave none."""
    site = sites.open(report_file={"path": "reports.jsonl"})
    for code in (0, 1, 101, 102):
        fail(site, code, id=f"job-{code}")
    first, second = lines(tmp_path / "reports.jsonl")
    assert first.keys() == {
        *("schema", "site", "job_id", "attempt", "backend", "code", "reason", "message", "log_tail"),
        *("reportable", "disposition", "ended_at"),
    }
    assert (first["job_id"], first["code"], first["disposition"]) == ("job-101", 101, "FAIL_RUN")
    assert (first["site"], first["attempt"], first["log_tail"]) == ("clinic", 1, "from clinic")
    assert (second["job_id"], second["disposition"]) == ("job-102", "STOP_RUN")
    assert (tmp_path / "reports.jsonl").stat().st_mode & 0o777 == 0o600


def test_what_concerns_nobody_is_written_if_asked_for(sites, tmp_path):
    """Exit code 1, with the disposition IGNORE."""
    site = sites.open(report_file={"path": "reports.jsonl", "unreportable": True})
    fail(site, 1)
    assert [(each["code"], each["disposition"]) for each in lines(tmp_path / "reports.jsonl")] == [(1, "IGNORE")]


def test_an_end_that_is_told_again_is_written_once(sink, tmp_path):
    """By job, attempt and site; another attempt or another site's job of the same id is another end."""
    for _ in range(2):
        for end in (an_end(), an_end(attempt=2), an_end(site="other"), an_end("j-2")):
            sink().siteward_job_ended(*end)
    assert len(lines(tmp_path / "reports.jsonl")) == 4


def test_half_a_line_is_mended(sink, tmp_path):
    """Its writer was killed: the next line stands by itself, and the end that is told again is whole."""
    path = tmp_path / "reports.jsonl"
    sink().siteward_job_ended(*an_end("j-1"))
    whole = path.read_bytes()
    for rest in (b'{"job_id": "j-2", "mess', b"{"):
        path.write_bytes(whole + rest)
        sink().siteward_job_ended(*an_end("j-2"))
        assert [each["job_id"] for each in lines(path)] == ["j-1", "j-2"]
    path.write_bytes(b'{"half')
    sink().siteward_job_ended(*an_end("j-3"))
    assert [each["job_id"] for each in lines(path)] == ["j-3"]


def test_lines_that_are_not_ours_stay(sink, tmp_path):
    """A file that others write to as well is read with care."""
    path = tmp_path / "reports.jsonl"
    path.write_text('not json "j-1"\n["j-1"]\n{"job_id": "j-1"}\n')
    sink().siteward_job_ended(*an_end("j-1"))
    assert len(path.read_text().splitlines()) == 4


def test_writers_do_not_mix_their_lines(sink, tmp_path):
    """Threads with sinks of their own, long lines: each is whole, and there once."""

    def write(number):
        for each in range(20):
            sink().siteward_job_ended(*an_end(f"j-{number}-{each}", log_tail="x" * 8000))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len({each["job_id"] for each in lines(tmp_path / "reports.jsonl")}) == 80


def test_a_rotated_file_gets_a_successor(sink, tmp_path):
    """A line goes to the file of that name, not to the one that was moved away."""
    path = tmp_path / "reports.jsonl"
    sink().siteward_job_ended(*an_end("j-1"))
    path.rename(tmp_path / "old")
    sink().siteward_job_ended(*an_end("j-2"))
    assert [each["job_id"] for each in lines(path)] == ["j-2"]


def test_every_character_can_be_written(sink, tmp_path):
    """Half a surrogate pair, which UTF-8 cannot hold, too."""
    sink().siteward_job_ended(*an_end(log_tail="é\n\x00\ud800"))
    assert lines(tmp_path / "reports.jsonl")[0]["log_tail"].startswith("é\n\x00")


def test_a_folder_that_is_not_there_is_told_at_once(sites):
    """Before any job fails."""
    with pytest.raises(FileError, match=r"plugins\.report_file\.path: there is no folder"):
        sites.open(report_file={"path": "nowhere/reports.jsonl"})
    with pytest.raises(FileError, match=r"plugins\.report_file\.path: is missing"):
        sites.open(report_file={})


def test_without_a_block_it_does_nothing(sites, tmp_path):
    """A sink needs to be told where to."""
    fail(sites.open())
    assert sorted(os.listdir(tmp_path)) == ["state-clinic"]


KILLED = """
import os, sys
from pathlib import Path
from siteward import Job, Plugins, Site, SiteFile, hookimpl
from siteward_report_sinks.file import ReportFile

class Killer:
    api = 1
    @hookimpl
    def siteward_job_ended(self, ref, result):
        os.kill(os.getpid(), 9)

plugins = Plugins()
plugins.add("siteward.plugins", "report_file", ReportFile)
plugins.add("siteward.plugins", "zz_killer", Killer())
folder = Path(sys.argv[1])
data = {"name": "clinic", "backends": {"process": {}}, "default_backend": "process", "state_dir": "state-clinic"}
data["plugins"] = {"report_file": {"path": "reports.jsonl"}}
with Site(SiteFile.from_mapping(data, base_dir=folder), plugins=plugins) as site:
    site.launch(Job.from_mapping({"name": "j", "id": "j-1", "command": ["sh", "-c", "exit 101"]})).wait(60)
"""


def test_a_parent_killed_after_it_told_leaves_one_line(sites, tmp_path):
    """The next one tells the end again; the file knows it."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], timeout=100)
    assert done.returncode == -9
    assert len(lines(tmp_path / "reports.jsonl")) == 1
    site = sites.open(report_file={"path": "reports.jsonl"})
    assert site.attach("j-1").wait(60).reason is Reason.ERROR
    assert [each["job_id"] for each in lines(tmp_path / "reports.jsonl")] == ["j-1"]
