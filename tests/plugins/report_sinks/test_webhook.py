"""`report_webhook`: each report reaches its receiver, once, sooner or later, and nothing secret reaches a log."""

import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from siteward import FileError, JobState, Plugins, Site, safe_name
from siteward_report_sinks.spool import Spool
from siteward_report_sinks.webhook import ReportWebhook

from .conftest import fail
from .test_file import KILLED


def until(condition, what, deadline=60):
    give_up = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < give_up, f"{what} did not happen in {deadline} s"
        time.sleep(0.01)


def block(receiver, **more):
    """Return the options of a webhook that tries often."""
    return {"url": receiver.url, "ca_file": str(receiver.ca_file), "longest_pause": 0.05, **more}


def spool_folder(folder, name="clinic"):
    return folder / f"state-{name}" / "plugins" / safe_name("report_webhook")


def spool(folder, name="clinic"):
    return Spool(spool_folder(folder, name))


def test_a_report_is_delivered(sites, receiver, monkeypatch):
    """As JSON, by POST, with the token and a key that tells it from any other; what concerns nobody is not."""
    monkeypatch.setenv("HOOK_TOKEN", "bearer-secret\n")
    site = sites.open(report_webhook=block(receiver, token={"env": "HOOK_TOKEN"}, headers={"X-Team": "a"}))
    for code in (0, 1, 101):
        fail(site, code, id=f"job-{code}")
    [(_, record)] = receiver.wait_for(1)
    site.close()
    assert (record["job_id"], record["code"], record["disposition"]) == ("job-101", 101, "FAIL_RUN")
    headers = receiver.headers[0]
    assert headers["Authorization"] == "Bearer bearer-secret"
    assert (headers["X-Team"], headers["Idempotency-Key"]) == ("a", "clinic.job-101.1")
    assert headers["Content-Type"] == "application/json"
    assert len(receiver.got) == 1


@pytest.mark.parametrize("status", [500, 503, 429, 401, 404, 307])
def test_an_answer_that_is_no_yes_is_tried_again(sites, receiver, status):
    """With pauses, until it is a yes; a redirect is not followed, for it would carry the token elsewhere."""
    receiver.answers += [status, status]
    fail(sites.open(report_webhook=block(receiver)))
    assert [status for status, _ in receiver.wait_for(3)] == [status, status, 204]
    assert len({headers["Idempotency-Key"] for headers in receiver.headers}) == 1


@pytest.mark.parametrize("status", [400, 422])
def test_a_report_that_is_refused_is_put_aside(sites, receiver, status, tmp_path, caplog):
    """It is not tried for ever, its file stays, the log says so, and the next report goes its way."""
    receiver.answers += [status]
    site = sites.open(report_webhook=block(receiver))
    fail(site, id="job-a")
    receiver.wait_for(1)
    fail(site, id="job-b")
    assert [(status, record["job_id"]) for status, record in receiver.wait_for(2)][1] == (204, "job-b")
    site.close()
    assert [path.name for path in (spool_folder(tmp_path) / "refused").iterdir()] == ["job-a.1.json"]
    assert f"the report of job job-a is put aside: https://localhost:{receiver.port} answered {status}" in caplog.text


def test_one_report_that_fails_keeps_no_other_back(sites, receiver):
    """The receiver chokes on the first; the second arrives all the same."""
    receiver.gate.clear()
    receiver.answers += [500, 204]
    site = sites.open(report_webhook=block(receiver))
    fail(site, id="job-a")
    fail(site, id="job-b")
    receiver.gate.set()
    got = [(status, record["job_id"]) for status, record in receiver.wait_for(3)]
    assert sorted(job_id for status, job_id in got if status == 204) == ["job-a", "job-b"]


def test_a_receiver_that_is_away_holds_up_nothing_and_is_told_later(sites, receiver, tmp_path):
    """Jobs end as ever, the site closes, reports wait on the disk; who opens the site next delivers them, in order."""
    receiver.stop()
    site = sites.open(report_webhook=block(receiver))
    for name in ("job-a", "job-b"):
        assert fail(site, id=name).state is JobState.FAILED
    site.close()
    assert spool(tmp_path).waiting() == ["job-a.1", "job-b.1"]
    receiver.start()
    sites.open(report_webhook=block(receiver))
    assert [record["job_id"] for _, record in receiver.wait_for(2)] == ["job-a", "job-b"]
    until(lambda: spool(tmp_path).waiting() == [], "the end of the spool")


def test_a_receiver_that_comes_back_is_told_by_the_same_site(sites, receiver):
    """No new job, no new process is needed."""
    receiver.stop()
    site = sites.open(report_webhook=block(receiver))
    fail(site)
    receiver.start()
    assert receiver.wait_for(1)[0][0] == 204
    site.close()


def test_looking_at_a_site_delivers_nothing(sites, receiver, tmp_path):
    """Only who runs jobs does."""
    receiver.stop()
    site = sites.open(report_webhook=block(receiver))
    fail(site)
    site.close()
    receiver.start()
    plugins = Plugins()
    plugins.add("siteward.plugins", "report_webhook", ReportWebhook)
    with Site(site.file, plugins=plugins, adopt=False):
        pass
    assert receiver.got == []
    assert len(spool(tmp_path).waiting()) == 1


def test_closing_waits_for_the_first_try(sites, receiver):
    """A short command that has seen a failure does not leave it to the next."""
    site = sites.open(report_webhook=block(receiver))
    fail(site)
    site.close()
    assert [status for status, _ in receiver.got] == [204]


def test_closing_does_not_wait_for_ever(sites, receiver, tmp_path):
    """A receiver that does not answer is given `patience`, and the report stays."""
    receiver.gate.clear()
    site = sites.open(report_webhook=block(receiver, patience=0.05, timeout=0.5))
    fail(site, id="job-a")
    site.close()
    assert spool(tmp_path).waiting() == ["job-a.1"]
    receiver.gate.set()
    until(lambda: not _delivering(), "the end of the delivery's thread")


def _delivering():
    return [each for each in threading.enumerate() if each.name == "siteward-report-webhook"]


def test_the_certificate_is_checked(sites, receiver, tmp_path, caplog):
    """Without `ca_file` this receiver is nobody's; the report waits, and the log says why."""
    options = block(receiver)
    del options["ca_file"]
    site = sites.open(report_webhook=options)
    fail(site)
    site.close()
    assert receiver.got == []
    assert len(spool(tmp_path).waiting()) == 1
    assert "CERTIFICATE_VERIFY_FAILED" in caplog.text


@pytest.mark.parametrize("up", [True, False])
def test_nothing_secret_is_logged(sites, receiver, tmp_path, monkeypatch, caplog, up):
    """Neither token, path nor query of the address, at any level, whoever logs it."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("HOOK_TOKEN", "bearer-secret")
    (tmp_path / "url").write_text(f"{receiver.url}\n")
    receiver.answers += [500, 400]
    if not up:
        receiver.stop()
    options = block(receiver, url={"file": "url"}, token={"env": "HOOK_TOKEN"})
    site = sites.open(report_webhook=options)
    fail(site)
    site.close()
    if up:
        assert [path for path in receiver.paths if "very-secret-path" in path]
    assert "secret" not in caplog.text
    assert "bearer-secret" not in repr(site.file)


def test_a_token_is_read_anew(sites, receiver, tmp_path):
    """One that was wrong, or not there yet, is mended without a restart."""
    site = sites.open(report_webhook=block(receiver, token={"file": "token"}))
    fail(site)
    (tmp_path / "token").write_text("right\n")
    receiver.wait_for(1)
    assert receiver.headers[0]["Authorization"] == "Bearer right"


WRONG = {
    "no address": ({}, "url", "is missing"),
    "plain http": ({"url": "http://x.org/y"}, "url", "begins with https://"),
    "no host": ({"url": "https:///y"}, "url", "begins with https://"),
    "a login": ({"url": "https://a:b@x.org"}, "url", "give a login as a token"),
    "a port that is none": ({"url": "https://x.org:many"}, "url", "is not an address"),
    "a token in the file": ({"url": "https://x.org", "token": "abc"}, "token", "expected a mapping"),
    "a token from two places": ({"url": "https://x.org", "token": {"env": "A", "file": "b"}}, "token", "exactly one"),
    "a token from nowhere": ({"url": "https://x.org", "token": {}}, "token", "exactly one"),
    "a header of ours": (
        {"url": "https://x.org", "headers": {"authorization": "x"}},
        "headers.authorization",
        "itself",
    ),
    "a header that is none": ({"url": "https://x.org", "headers": {"a b": "x"}}, "headers.a b", "not a header"),
    "a header with two lines": ({"url": "https://x.org", "headers": {"a": "x\ny"}}, "headers.a", "printable"),
    "no time at all": ({"url": "https://x.org", "timeout": 0}, "timeout", "above 0"),
}


@pytest.mark.parametrize(("options", "path", "words"), WRONG.values(), ids=WRONG)
def test_mistakes_in_its_block(sites, options, path, words):
    """Each is told when the site is opened, with its path."""
    with pytest.raises(FileError) as caught:
        sites.open(report_webhook=options)
    [problem] = caught.value.problems
    assert problem.path == f"plugins.report_webhook.{path}"
    assert words in problem.message


def test_a_parent_killed_after_it_told_leaves_one_report(sites, receiver, tmp_path):
    """What the killed process has spooled is delivered once, though the end is told again."""
    script = KILLED.replace("report_file", "report_webhook").replace(
        "siteward_report_sinks.file", "siteward_report_sinks.webhook"
    )
    script = script.replace("ReportFile", "ReportWebhook").replace('{"path": "reports.jsonl"}', repr(block(receiver)))
    receiver.stop()
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], timeout=100, stderr=subprocess.PIPE)
    assert done.returncode == -9, done.stderr
    assert spool(tmp_path).waiting() == ["j-1.1"]
    receiver.start()
    site = sites.open(report_webhook=block(receiver))
    site.attach("j-1").wait(60)
    receiver.wait_for(1)
    site.close()
    assert [record["job_id"] for _, record in receiver.got] == ["j-1"]


# --- the spool ---


def test_what_was_delivered_is_not_taken_again(tmp_path):
    """Nor what waits or was refused."""
    spool = Spool(tmp_path)
    assert spool.put("a", {"n": 1})
    assert not spool.put("a", {"n": 1})
    spool.delivered("a")
    assert not spool.put("a", {"n": 1})
    assert spool.put("b", {})
    spool.refused("b")
    assert not spool.put("b", {})
    assert spool.waiting() == []


def test_nothing_of_a_delivered_report_stays(tmp_path):
    """But that it was."""
    spool = Spool(tmp_path)
    spool.put("a", {"message": "text"})
    spool.delivered("a")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.read_bytes() for path in files] == [b""]


def test_one_delivers_at_a_time(tmp_path):
    """Two processes, or two sites of one process, do not deliver the same report twice."""
    with Spool(tmp_path).delivering() as first, Spool(tmp_path).delivering() as second:
        assert (first, second) == (True, False)
    with Spool(tmp_path).delivering() as again:
        assert again


def test_a_damaged_file_stops_no_other(tmp_path):
    """It is put aside."""
    spool = Spool(tmp_path)
    (tmp_path / "waiting" / "bad.json").write_text("{")
    spool.put("good", {"n": 1})
    assert [spool.read(key) for key in sorted(spool.waiting())] == [None, {"n": 1}]
    assert spool.waiting() == ["good"]


def test_old_marks_are_forgotten(tmp_path):
    """After a month; younger ones stay."""
    spool = Spool(tmp_path)
    for key in ("old", "new"):
        spool.put(key, {})
        spool.delivered(key)
    os.utime(tmp_path / "told" / "old.json", (1, 1))
    spool.forget()
    assert [path.name for path in Path(tmp_path, "told").iterdir()] == ["new.json"]
