"""Promises about ending a job: asked first, killed after the grace period, whole, and without waiting."""

from __future__ import annotations

from siteward.ends import JobState, Result
from siteward.testing.contract.ending import end_of
from siteward.testing.kit import Kit
from siteward.testing.promises import needs


def verdict(result: Result) -> tuple[str, str, int]:
    """Return state, reason and code."""
    return result.state.value, result.reason.value, int(result.return_code)


ABORTED = ("ABORTED", "Aborted", 9)


class Terminating:
    """A job that is told to end does, with everything that it started."""

    @needs(files=True)
    def test_polite_job_saves(self, kit: Kit) -> None:
        """A job that ends itself on TERM can save within its grace; it ends as Aborted, its exit code kept."""
        handle = kit.launch(kit.site(), kit.argv("polite"))
        kit.reached(handle)
        handle.terminate(grace=kit.seconds(10))
        assert end_of(kit.result(handle)) == (*ABORTED, 7, None)
        assert (handle.job_dir / "saved").exists()

    @needs(files=True)
    def test_stubborn_job_is_killed(self, kit: Kit) -> None:
        """A job that ignores TERM gets it, and is killed after its grace."""
        handle = kit.launch(kit.site(), kit.argv("stubborn"))
        kit.reached(handle)
        handle.terminate(grace=kit.seconds(0.3))
        assert end_of(kit.result(handle)) == (*ABORTED, 137, 9)
        assert (handle.job_dir / "asked").exists()

    @needs(files=True, processes=True)
    def test_whole_tree_ends(self, kit: Kit) -> None:
        """With the job end its descendants, also those that ignore TERM or left its session."""
        handle = kit.launch(kit.site(), kit.argv("family"))
        kit.reached(handle)
        assert len(kit.platform.processes(handle.job_id)) >= 3, "the kit sees the job and its two descendants"
        handle.terminate(grace=kit.seconds(0.3))
        assert verdict(kit.result(handle)) == ABORTED
        kit.gone(handle.job_id)

    @needs(processes=True)
    def test_leftovers_are_ended(self, kit: Kit) -> None:
        """What a job leaves running when its main process ends is ended too."""
        handle, result = kit.run(kit.site(), kit.argv("family", "leave"))
        assert result.state is JobState.SUCCEEDED
        kit.gone(handle.job_id)

    @needs(files=True)
    def test_terminate_returns_at_once(self, kit: Kit) -> None:
        """Terminate returns while the job still uses its grace."""
        launcher = kit.launcher()
        request = kit.request(launcher, kit.argv("stubborn"))
        ref = kit.start(launcher, request)
        kit.ready(request)
        try:
            kit.in_time(lambda: launcher.terminate(ref, kit.seconds(30)), "terminate returns", seconds=5)
            kit.ready(request, "asked")
            assert not launcher.poll(ref).state.ended
        finally:
            kit.let_go(request)
        assert kit.polled_end(launcher, ref).state.ended

    @needs(files=True)
    def test_terminate_can_be_repeated(self, kit: Kit) -> None:
        """Terminating again does no harm, and a shorter grace counts."""
        launcher = kit.launcher()
        request = kit.request(launcher, kit.argv("stubborn"))
        ref = kit.start(launcher, request)
        kit.ready(request)
        launcher.terminate(ref, kit.seconds(60))
        kit.ready(request, "asked")
        launcher.terminate(ref, kit.seconds(0.2))
        launcher.terminate(ref, kit.seconds(0.2))
        result = kit.polled_end(launcher, ref).result
        assert result is not None
        assert result.exit_code == 137

    def test_terminating_an_ended_job_changes_nothing(self, kit: Kit) -> None:
        """Terminating a job that has ended is no error, and its end stays what it was."""
        launcher = kit.launcher()
        ref = kit.start(launcher, kit.request(launcher, kit.sh("exit 4")))
        before = kit.polled_end(launcher, ref)
        launcher.terminate(ref, 0)
        assert launcher.poll(ref) == before
        handle, result = kit.run(kit.site(), kit.sh("exit 4"))
        handle.terminate(grace=0)
        assert handle.wait(timeout=1) == result

    def test_terminate_right_after_launch(self, kit: Kit) -> None:
        """A job told to end the moment it was launched ends as Aborted, and nothing of it is left."""
        handle = kit.launch(kit.site(), kit.argv("wait", "never"))
        handle.terminate(grace=kit.seconds(0.3))
        assert verdict(kit.result(handle)) == ABORTED
        if kit.platform.sees_processes:
            kit.gone(handle.job_id)

    @needs(files=True)
    def test_terminating_one_spares_the_others(self, kit: Kit) -> None:
        """Ending a job touches no other job."""
        site = kit.site()
        ended, spared = (kit.launch(site, kit.argv("wait")) for _ in range(2))
        kit.reached(ended)
        kit.reached(spared)
        ended.terminate(grace=kit.seconds(0.3))
        assert verdict(kit.result(ended)) == ABORTED
        kit.release(spared)
        assert kit.result(spared).state is JobState.SUCCEEDED
