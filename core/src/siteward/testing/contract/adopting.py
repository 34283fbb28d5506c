"""Promises about a launcher that dies or leaves: its jobs go on, and their true ends are found."""

from __future__ import annotations

from siteward.ends import JobState
from siteward.testing.contract.ending import end_of
from siteward.testing.kit import Kit
from siteward.testing.promises import needs


class Adopting:
    """A job does not need the process that launched it."""

    @needs(files=True)
    def test_leaving_a_site_leaves_its_jobs(self, kit: Kit) -> None:
        """Closing a site leaves its jobs running; the next one has their true ends."""
        site = kit.site()
        handle = kit.launch(site, kit.argv("wait", "go", "42"))
        kit.reached(handle)
        kit.close(site)
        again = kit.site().attach(handle.job_id)
        assert not again.status().state.ended
        kit.release(again)
        assert end_of(kit.result(again)) == ("FAILED", "Error", 1, 42, None)

    @needs(files=True)
    def test_running_job_is_adopted(self, kit: Kit) -> None:
        """After kill -9 of the launcher, the next site has the true exit code of a job that still runs."""
        (job_id,) = kit.orphans(kit.argv("wait", "go", "42"))
        handle = kit.site().attach(job_id)
        kit.reached(handle)
        kit.release(handle)
        assert end_of(kit.result(handle)) == ("FAILED", "Error", 1, 42, None)

    @needs(files=True, processes=True)
    def test_job_that_ended_meanwhile_is_adopted(self, kit: Kit) -> None:
        """After kill -9 of the launcher, the next site has the true exit code of a job that ended meanwhile."""
        job_ids = kit.orphans(kit.argv("wait", "go", "43"), kit.argv("wait", "go", "0"))
        for job_id in job_ids:
            kit.platform.write_file(kit.job_dir(job_id), job_id, "go")
            kit.gone(job_id)
        site = kit.site()
        results = [kit.result(site.attach(job_id)) for job_id in job_ids]
        assert [end_of(result) for result in results] == [
            ("FAILED", "Error", 1, 43, None),
            ("SUCCEEDED", "Completed", 0, 0, None),
        ]

    @needs(files=True)
    def test_adopted_job_can_be_terminated(self, kit: Kit) -> None:
        """An adopted job is ended like any other: asked first, with time to save."""
        (job_id,) = kit.orphans(kit.argv("polite"))
        handle = kit.site().attach(job_id)
        kit.reached(handle)
        handle.terminate(grace=kit.seconds(10))
        assert end_of(kit.result(handle)) == ("ABORTED", "Aborted", 9, 7, None)
        assert (handle.job_dir / "saved").exists()

    @needs(files=True)
    def test_result_is_stored(self, kit: Kit) -> None:
        """A result stays: a site that is opened later has the same one."""
        site = kit.site()
        handle, result = kit.run(site, kit.sh("exit 3"))
        assert result.state is JobState.FAILED
        kit.close(site)
        assert kit.result(kit.site().attach(handle.job_id)) == result
