"""Promises about news: the end of a job is told, once, without being asked."""

from __future__ import annotations

from siteward.ends import JobState, Result
from siteward.request import JobStatus
from siteward.testing.contract.ending import end_of
from siteward.testing.kit import Kit, Recorder, Spy
from siteward.testing.promises import needs, without


class Watching:
    """A backend that watches tells of every change by itself."""

    @needs("siteward_watch_jobs", files=True)
    def test_watch_tells_running_then_the_end(self, kit: Kit) -> None:
        """The watch tells that a job runs, and then its exact end, while nobody polls."""
        news = Recorder()
        launcher = kit.launcher(publish=news)
        request = kit.request(launcher, kit.argv("wait", "go", "42"))
        kit.start(launcher, request)
        kit.wait_for(lambda: _states(news, request.job_id)[-1:] == [JobState.RUNNING], "the watch tells of RUNNING")
        kit.ready(request)
        kit.let_go(request)
        kit.wait_for(lambda: _states(news, request.job_id)[-1:] == [JobState.FAILED], "the watch tells of the end")
        result = news.of(request.job_id)[-1].result
        assert result is not None
        assert end_of(result) == ("FAILED", "Error", 1, 42, None)
        assert not news.errors

    @needs("siteward_watch_jobs")
    def test_watch_tells_every_end(self, kit: Kit) -> None:
        """The watch tells the exact end of every job, however short; never two different ones."""
        news = Recorder()
        launcher = kit.launcher(publish=news)
        ids = [kit.start(launcher, kit.request(launcher, kit.sh(f"exit {code}"))).job_id for code in range(5)]
        kit.wait_for(lambda: all(_ends(news, job_id) for job_id in ids), "the watch tells of every end")
        for code, job_id in enumerate(ids):
            assert {result and result.exit_code for result in _ends(news, job_id)} == {code}
        assert not news.errors

    @needs("siteward_watch_jobs")
    def test_ends_need_no_poll(self, kit: Kit) -> None:
        """With a working watch every job's true end arrives, though every poll fails."""
        spy = Spy()
        spy.blind = True
        site = kit.site(spy=spy)
        for code in (0, 42, 3):
            assert kit.run(site, kit.sh(f"exit {code}"))[1].exit_code == code

    @needs("siteward_watch_jobs", "siteward_close_backend", files=True, processes=True)
    def test_nothing_is_told_after_close(self, kit: Kit) -> None:
        """After close the watch is silent, though jobs go on and end."""
        news = Recorder()
        launcher = kit.launcher(publish=news)
        request = kit.request(launcher, kit.argv("wait"))
        kit.start(launcher, request)
        kit.ready(request)
        kit.in_time(launcher.close, "close returns")
        told = len(news.news)
        kit.let_go(request)
        kit.gone(request.job_id)
        other = kit.launcher()
        ref = kit.start(other, kit.request(other, kit.sh("exit 0")))
        kit.polled_end(other, ref)
        assert not kit.comes(lambda: len(news.news) > told), f"told after close: {news.news[told:]}"

    @needs("siteward_watch_jobs", files=True)
    def test_watch_sees_jobs_of_before(self, kit: Kit) -> None:
        """A watch that begins while a job runs tells of that job's end too."""
        first = kit.launcher()
        request = kit.request(first, kit.argv("wait", "go", "6"))
        kit.start(first, request)
        kit.ready(request)
        first.close()
        news = Recorder()
        kit.launcher(publish=news)
        kit.let_go(request)
        kit.wait_for(lambda: _ends(news, request.job_id), "the watch tells of the end of an older job")
        assert [result and result.exit_code for result in _ends(news, request.job_id)] == [6]

    @needs("siteward_watch_jobs")
    def test_old_news_does_no_harm(self, kit: Kit) -> None:
        """News told twice, late or from any thread changes nothing: the first end stays, and is observed once."""
        spy = Spy()
        handle, result = kit.run(kit.site(spy=spy), kit.sh("exit 3"))
        publish, ref = spy.publish, handle.ref
        assert publish is not None
        assert ref is not None
        kit.in_time(lambda: publish(ref, JobStatus(state=JobState.RUNNING)), "publish returns")
        kit.in_time(lambda: publish(ref, JobStatus(state=JobState.SUCCEEDED)), "publish returns")
        assert handle.wait(timeout=1) == result
        assert [end.exit_code for end in spy.ends] == [3]

    @without("siteward_watch_jobs")
    def test_without_a_watch_ends_are_polled(self, kit: Kit) -> None:
        """Without siteward_watch_jobs, the end is seen by polling."""
        spy = Spy()
        handle, result = kit.run(kit.site(spy=spy), kit.sh("exit 42"))
        assert result.exit_code == 42
        assert handle.job_id in spy.polls


def _states(news: Recorder, job_id: str) -> list[JobState]:
    return [status.state for status in news.of(job_id)]


def _ends(news: Recorder, job_id: str) -> list[Result | None]:
    return [status.result for status in news.of(job_id) if status.state.ended]
