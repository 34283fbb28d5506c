"""Promises about ends: the true code, once and for all, and never an end that was not."""

from __future__ import annotations

from attrs import evolve

from siteward.ends import JobState, Result
from siteward.request import JobRef
from siteward.testing.kit import Kit
from siteward.testing.promises import needs

EXITS = {
    0: ("SUCCEEDED", "Completed", 0, 0, None),
    1: ("FAILED", "Error", 1, 1, None),
    3: ("FAILED", "Error", 1, 3, None),
    42: ("FAILED", "Error", 1, 42, None),
    101: ("FAILED", "Error", 101, 101, None),
    103: ("FAILED", "Error", 103, 103, None),
    126: ("FAILED", "Error", 1, 126, None),
    127: ("FAILED", "Error", 1, 127, None),
    128: ("FAILED", "Error", 1, 128, None),
    137: ("FAILED", "Signal", 1, 137, 9),
    255: ("FAILED", "Error", 1, 255, None),
}
NUMBERS = {"TERM": 15, "KILL": 9, "SEGV": 11}
SIGNALS = {name: ("FAILED", "Signal", 1, 128 + number, number) for name, number in NUMBERS.items()}


def end_of(result: Result) -> tuple[str, str, int, int | None, int | None]:
    """Return what the table of ends fixes: state, reason, code, exit code, signal."""
    return result.state.value, result.reason.value, int(result.return_code), result.exit_code, result.signal


class Ending:
    """How a job ended is known exactly, and stays known."""

    def test_exit_codes_are_kept(self, kit: Kit) -> None:
        """Every exit code arrives as it is, with the state, reason and code that the table of ends gives it."""
        site = kit.site()
        handles = {code: kit.launch(site, kit.sh(f"exit {code}")) for code in EXITS}
        assert {code: end_of(kit.result(handle)) for code, handle in handles.items()} == EXITS

    def test_signals_are_kept(self, kit: Kit) -> None:
        """A job killed by a signal ends as Signal, with its number and exit code 128 + n."""
        site = kit.site()
        handles = {name: kit.launch(site, kit.sh(f"ulimit -c 0; kill -{name} $$")) for name in SIGNALS}
        assert {name: end_of(kit.result(handle)) for name, handle in handles.items()} == SIGNALS

    @needs(files=True)
    def test_live_job_is_not_ended(self, kit: Kit) -> None:
        """A job that runs is seen to run, and however often one looks, never to have ended."""
        launcher = kit.launcher()
        request = kit.request(launcher, kit.argv("wait"))
        ref = kit.start(launcher, request)
        early = [launcher.poll(ref).state for _ in range(5)]
        kit.ready(request)
        kit.wait_for(lambda: launcher.poll(ref).state is JobState.RUNNING, "a running job is seen to run")
        seen = [launcher.poll(ref) for _ in range(20)]
        assert set(early) <= {JobState.PENDING, JobState.RUNNING}
        assert {(status.state, status.result) for status in seen} == {(JobState.RUNNING, None)}
        kit.let_go(request)
        assert kit.polled_end(launcher, ref).state is JobState.SUCCEEDED

    def test_unknown_job_has_not_succeeded(self, kit: Kit) -> None:
        """A job that the platform does not know is lost or cannot be seen; it never counts as running or succeeded."""
        launcher = kit.launcher()
        request = kit.request(launcher, kit.sh("exit 0"))
        ref = kit.start(launcher, request)
        kit.polled_end(launcher, ref)
        gone = {"never launched": evolve(ref, job_id="kit-never-was", data=_altered(ref))}
        if launcher.has("remove_job"):
            launcher.remove(ref)
            gone["removed"] = ref
        for words, each in gone.items():
            assert _look(launcher.poll, each) in ("raised", "unreachable", "LOST"), f"a ref of a job that was {words}"

    def test_first_end_stays(self, kit: Kit) -> None:
        """An end is the same however often it is looked at."""
        launcher = kit.launcher()
        ref = kit.start(launcher, kit.request(launcher, kit.sh("exit 3")))
        first = kit.polled_end(launcher, ref)
        assert first.result is not None
        assert [launcher.poll(ref) for _ in range(3)] == [first] * 3

    @needs(files=True)
    def test_timeout_ends_the_job(self, kit: Kit) -> None:
        """A job past its timeout ends as DeadlineExceeded with code 101, and its files come home."""
        script = "echo early > early; exec " + " ".join(kit.argv("wait", "never"))
        handle, result = kit.run(kit.site(), kit.sh(script), timeout=kit.seconds(0.5))
        assert (result.state.value, result.reason.value, result.return_code) == ("FAILED", "DeadlineExceeded", 101)
        assert (handle.job_dir / "early").read_text() == "early\n"


def _altered(ref: JobRef) -> dict[str, object]:
    """Return data of the same shape that belongs to no job."""

    def alter(value: object) -> object:
        if isinstance(value, bool) or value is None:
            return value
        if isinstance(value, int | float):
            return value + 1_000_003
        return f"{value}-gone" if isinstance(value, str) else value

    return {key: alter(value) for key, value in ref.data.items()}


def _look(poll: object, ref: JobRef) -> str:
    try:
        status = poll(ref)  # type: ignore[operator]
    except Exception:
        return "raised"
    return status.state.value if status.reachable else "unreachable"
