"""Backends that each break one promise, and the tests of the contract that must see it: those and no others."""

import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from attrs import evolve

from siteward import Finding, JobState, Reason, ended, hookimpl

from .backends import Full, JobOptions

DETECTED_BY = {}


def detected_by(*tests):
    def note(backend):
        DETECTED_BY[backend.__name__] = {f"test_{test}" for test in tests}
        return backend

    return note


@detected_by()
class Good(Full):
    """Breaks nothing."""


@detected_by("launch_does_not_wait_for_the_job")
class BlocksInLaunch(Full):
    """Waits for the job's end; only for the job of that promise, or every live job would keep its test waiting."""

    def run(self, ref, request):
        super().run(ref, request)
        while request.name == "patient" and not self.look(ref).state.ended:
            time.sleep(0.005)


@detected_by("ref_goes_through_json")
class RefIsNoJson(Full):
    """Keeps an object in the ref that JSON gives back as another."""

    def ref(self, job_id, attempt):
        return evolve(super().ref(job_id, attempt), data={"pair": (1, 2)})


@detected_by("launching_twice_is_one_job")
class LaunchesTwice(Full):
    """Starts the job at each call."""

    @hookimpl
    def siteward_launch_job(self, request):
        ref = self.ref(request.job_id, request.attempt)
        again = self.folder(ref).exists()
        self.folder(ref).mkdir(exist_ok=True)
        self.run(ref, request)
        while again and (request.job_dir / "runs").read_bytes() != b"run\nrun\n":
            time.sleep(0.005)
        return ref


@detected_by("arguments_are_exact", "missing_command_is_an_end", "environment_is_exact")
class UsesAShell(Full):
    """Hands the command to a shell, quoted as many do it."""

    def argv(self, request):
        words = " ".join(f'"{word}"' for word in super().argv(request))
        return ["/bin/bash", "-c", f"exec {words}"]


@detected_by("environment_is_exact", "own_environment_does_not_leak")
class LeaksEnvironment(Full):
    """Gives jobs the whole environment of the launching process."""

    def environment(self, request):
        return os.environ | request.environment(request.job_dir)


@detected_by("secret_is_only_in_the_environment")
class SecretInRef(Full):
    """Keeps the job's environment in its ref."""

    @hookimpl
    def siteward_launch_job(self, request):
        ref = self.ref(request.job_id, request.attempt)
        if not self.folder(ref).exists():
            self.folder(ref).mkdir()
            self.run(ref, request)
        return evolve(ref, data={**ref.data, "env": dict(request.secrets)})


@detected_by("secret_is_only_in_the_environment")
class SecretOnDisk(Full):
    """Writes the job's environment into a file of its own."""

    def order(self, request):
        (self.context.directory.parent / f"{request.job_id}.env").write_text(repr(dict(request.secrets)))
        return super().order(request)


@detected_by("resolving_options_is_pure")
class ResolvesAgain(Full):
    """Adds to an option at each call."""

    @hookimpl
    def siteward_resolve_options(self, options):
        return JobOptions(nice=options.nice + 1)


@detected_by(
    "ref_goes_through_json",
    "exit_codes_are_kept",
    "polite_job_saves",
    "watch_tells_running_then_the_end",
    "watch_tells_every_end",
    "watch_sees_jobs_of_before",
    "ends_need_no_poll",
    "old_news_does_no_harm",
    "leaving_a_site_leaves_its_jobs",
    "running_job_is_adopted",
    "job_that_ended_meanwhile_is_adopted",
    "adopted_job_can_be_terminated",
    "concurrent_launches_keep_their_own_ends",
    "any_site_name_works",
)
class LosesExitCode(Full):
    """Knows only whether a job failed."""

    def look(self, ref):
        status = super().look(ref)
        if status.result is None or status.result.reason is not Reason.ERROR:
            return status
        return evolve(status, result=ended(exit_code=1))


@detected_by("signals_are_kept", "stubborn_job_is_killed", "terminate_can_be_repeated", "exit_codes_are_kept")
class LosesSignals(Full):
    """Reports a job that was killed as one that exited with 1."""

    def look(self, ref):
        status = super().look(ref)
        if status.result is None or status.result.signal is None:
            return status
        return evolve(status, result=ended(exit_code=1))


@detected_by("live_job_is_not_ended")
class InventsAnEnd(Full):
    """Takes a busy platform's refusal to look again so soon for the job's end."""

    looks = (0.0,) * 4

    @hookimpl
    def siteward_poll_job(self, ref):
        self.looks = (*self.looks[1:], time.monotonic())
        status = self.look(ref)
        if status.state is JobState.RUNNING and self.looks[-1] - self.looks[0] < 0.004:
            result = ended(reason=Reason.BACKEND_LOST)
            return evolve(status, state=result.state, result=result)
        return status


@detected_by("unknown_job_has_not_succeeded")
class SucceedsWhenGone(Full):
    """Takes a job that is not there for one that has completed."""

    def look(self, ref):
        if self.folder(ref).exists():
            return super().look(ref)
        return evolve(super().look(ref), state=JobState.SUCCEEDED, result=ended(exit_code=0))


@detected_by("first_end_stays", "terminating_an_ended_job_changes_nothing")
class EndsAgain(Full):
    """Gives an end the time of the look."""

    def look(self, ref):
        status = super().look(ref)
        if status.result is None:
            return status
        return evolve(status, result=evolve(status.result, ended_at=time.time()))


@detected_by(
    "polite_job_saves",
    "stubborn_job_is_killed",
    "terminate_returns_at_once",
    "terminate_can_be_repeated",
    "adopted_job_can_be_terminated",
)
class NoGrace(Full):
    """Kills at once."""

    faults = ("no grace",)


@detected_by("whole_tree_ends", "leftovers_are_ended")
class LeaksGrandchildren(Full):
    """Ends the job's process group and nothing else."""

    faults = ("no tree",)


@detected_by("terminate_returns_at_once")
class TerminatesLate(Full):
    """Waits for the job to end; for some seconds only, so that other tests end."""

    def stop(self, ref, grace):
        super().stop(ref, grace)
        give_up = time.monotonic() + 3
        while not self.look(ref).state.ended and time.monotonic() < give_up:
            time.sleep(0.005)


@detected_by("both_streams_are_kept")
class DropsStderr(Full):
    """Keeps standard output alone."""

    faults = ("no stderr",)


@detected_by("tail_is_the_last_lines")
class TailIsOneShort(Full):
    """Counts lines from the wrong end of a fence."""

    @hookimpl
    def siteward_read_logs(self, ref, follow, tail):
        yield from super().siteward_read_logs(ref, follow, max(0, tail - 1) if tail else tail)


@detected_by("following_ends_with_the_job")
class FollowNeverEnds(Full):
    """Goes on following when the job has ended."""

    @hookimpl
    def siteward_read_logs(self, ref, follow, tail):
        yield from super().siteward_read_logs(ref, follow, tail)
        while follow and not self.closing.wait(0.01):
            continue


@detected_by("following_ends_with_the_job", "following_can_be_closed")
class FollowsLate(Full):
    """Gives a follower all of the output when the job has ended."""

    @hookimpl
    def siteward_read_logs(self, ref, follow, tail):
        while follow and not self.look(ref).state.ended and not self.closing.wait(0.005):
            continue
        yield from super().siteward_read_logs(ref, False, tail)


@detected_by("nothing_is_told_after_close")
class PublishesAfterClose(Full):
    """Does not stop its watch."""

    @hookimpl
    def siteward_close_backend(self):
        return None


@detected_by(
    "watch_sees_jobs_of_before",
    "leaving_a_site_leaves_its_jobs",
    "running_job_is_adopted",
    "job_that_ended_meanwhile_is_adopted",
    "adopted_job_can_be_terminated",
)
class ForgetsAfterRestart(Full):
    """Knows only the jobs that it launched itself."""

    def __init__(self, context, options):
        super().__init__(context, options)
        self.strangers = {ref.job_id for ref in self.refs()}

    def look(self, ref):
        if ref.job_id not in self.strangers:
            return super().look(ref)
        result = ended(reason=Reason.BACKEND_LOST)
        return evolve(super().look(ref), state=result.state, result=result)


@detected_by("list_has_exactly_the_sites_jobs")
class ListsOnlyTheRunning(Full):
    """Leaves ended jobs out of its list."""

    @hookimpl
    def siteward_list_jobs(self):
        return [ref for ref in self.refs() if not self.look(ref).state.ended]


@detected_by("removed_job_is_gone", "site_leaves_nothing_on_the_platform", "unknown_job_has_not_succeeded")
class RemovesNothing(Full):
    """Keeps every job."""

    @hookimpl
    def siteward_remove_job(self, ref):
        return None


@detected_by("rendering_starts_nothing")
class RenderLaunches(Full):
    """Asks the platform what it would do by doing it."""

    @hookimpl
    def siteward_render_job(self, request):
        ref = self.ref(request.job_id, request.attempt)
        self.folder(ref).mkdir()
        request.job_dir.mkdir(parents=True, exist_ok=True)
        self.run(ref, request)
        return {"argv": self.argv(request)}


@detected_by("findings_are_complete")
class FindsWithoutRemedy(Full):
    """Says what is wrong and not what to do."""

    @hookimpl
    def siteward_check_backend(self):
        return [Finding(level="fail", subject="python", message="it is too old")]


@detected_by("any_site_name_works", "same_job_id_at_two_sites")
class MixesUpSites(Full):
    """Names what it makes after the job alone."""

    def folder(self, ref):
        shared = Path(tempfile.gettempdir()) / "shared-by-all-sites"
        shared.mkdir(exist_ok=True)
        return shared / f"{ref.job_id}.{ref.attempt}"

    def refs(self):
        for path in self.folder(self.ref("any", 1)).parent.iterdir():
            job_id, _, attempt = path.name.rpartition(".")
            with suppress(FileNotFoundError):  # just made, or just removed
                if (path / "site").read_text() == self.context.site:
                    yield self.ref(job_id, int(attempt))

    def run(self, ref, request):
        (self.folder(ref) / "site").write_text(self.context.site)
        super().run(ref, request)

    @hookimpl
    def siteward_list_jobs(self):
        return list(self.refs())
