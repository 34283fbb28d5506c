"""The table of ends, row by row: the same end has the same state, reason and code on every backend."""

from __future__ import annotations

import itertools
import signal

import pytest

from siteward.ends import JobState, Reason, Result, ReturnCode, because, ended

FAILED, LOST, ABORTED, SUCCEEDED = JobState.FAILED, JobState.LOST, JobState.ABORTED, JobState.SUCCEEDED

BY_REASON = {
    Reason.COMPLETED: (SUCCEEDED, 0),
    Reason.ERROR: (FAILED, 1),
    Reason.SIGNAL: (FAILED, 1),
    Reason.ABORTED: (ABORTED, 9),
    Reason.LAUNCH_FAILED: (FAILED, 101),
    Reason.IMAGE_ERROR: (FAILED, 101),
    Reason.UNSCHEDULABLE: (FAILED, 101),
    Reason.CAPACITY_TIMEOUT: (FAILED, 101),
    Reason.DEADLINE_EXCEEDED: (FAILED, 101),
    Reason.CONFIG_ERROR: (FAILED, 103),
    Reason.OOM_KILLED: (FAILED, 104),
    Reason.EVICTED: (FAILED, 104),
    Reason.NODE_LOST: (LOST, 104),
    Reason.DELETED: (LOST, 104),
    Reason.BACKEND_LOST: (LOST, 104),
}

# exit code → state, reason, wire code, signal
BY_EXIT_CODE = {
    0: (SUCCEEDED, Reason.COMPLETED, 0, None),
    1: (FAILED, Reason.ERROR, 1, None),
    2: (FAILED, Reason.ERROR, 1, None),
    9: (FAILED, Reason.ERROR, 1, None),
    100: (FAILED, Reason.ERROR, 1, None),
    101: (FAILED, Reason.ERROR, 101, None),
    102: (FAILED, Reason.ERROR, 102, None),
    103: (FAILED, Reason.ERROR, 103, None),
    104: (FAILED, Reason.ERROR, 104, None),
    105: (FAILED, Reason.ERROR, 1, None),
    126: (FAILED, Reason.ERROR, 1, None),
    127: (FAILED, Reason.ERROR, 1, None),
    128: (FAILED, Reason.ERROR, 1, None),
    129: (FAILED, Reason.SIGNAL, 1, 1),
    134: (FAILED, Reason.SIGNAL, 1, 6),
    137: (FAILED, Reason.SIGNAL, 1, 9),
    139: (FAILED, Reason.SIGNAL, 1, 11),
    143: (FAILED, Reason.SIGNAL, 1, 15),
    192: (FAILED, Reason.SIGNAL, 1, 64),
    193: (FAILED, Reason.ERROR, 1, None),
    255: (FAILED, Reason.ERROR, 1, None),
}


def test_the_table_names_every_reason() -> None:
    """No reason is without a row."""
    assert set(BY_REASON) == set(Reason)


@pytest.mark.parametrize(("reason", "row"), BY_REASON.items(), ids=lambda each: str(each))
def test_each_reason_has_its_state_and_code(reason: Reason, row: tuple[JobState, int]) -> None:
    """A platform's reason decides state and wire code."""
    result = ended(reason=reason)
    assert (result.state, result.return_code, result.reason) == (*row, reason)
    assert result.state.ended
    assert result.message


@pytest.mark.parametrize(("exit_code", "row"), BY_EXIT_CODE.items(), ids=str)
def test_each_exit_code_has_its_end(exit_code: int, row: tuple[object, ...]) -> None:
    """A job's own exit code decides the rest, and is kept."""
    result = ended(exit_code=exit_code)
    assert (result.state, result.reason, result.return_code, result.signal) == row
    assert result.exit_code == exit_code


@pytest.mark.parametrize("number", sorted(signal.valid_signals()))
def test_a_signal_and_its_shell_code_are_the_same_end(number: int) -> None:
    """A platform that names the signal and one that reports 128 + n give equal results; the words name it once."""
    assert ended(signal=number) == ended(exit_code=128 + number)
    names = {each.value: each.name for each in signal.Signals}
    name = names.get(int(number), f"signal {int(number)}")
    assert ended(signal=number).message == f"the job was ended by {name}"


@pytest.mark.parametrize("code", [101, 102, 103, 104])
def test_only_an_error_keeps_101_to_104(code: int) -> None:
    """A platform's reason is stronger than the exit code that came with it."""
    assert ended(exit_code=code).return_code == code
    assert ended(reason=Reason.OOM_KILLED, exit_code=code).return_code == 104
    assert ended(reason=Reason.ABORTED, exit_code=code).return_code == 9


def test_exit_code_and_signal_are_kept_beside_a_reason() -> None:
    """An OOM kill keeps its 137 and its signal 9."""
    result = ended(reason=Reason.OOM_KILLED, exit_code=137)
    assert (result.exit_code, result.signal, result.return_code) == (137, 9, 104)


def test_nothing_seen_is_no_end() -> None:
    """A backend that saw neither code, signal nor reason has no end to tell of."""
    with pytest.raises(ValueError, match="needs a reason"):
        ended()


@pytest.mark.parametrize("reason", [None, *Reason], ids=str)
def test_every_end_agrees_with_itself(reason: Reason | None) -> None:
    """Whatever a backend saw beside a reason, state, reason and code belong together."""
    for exit_code, number in itertools.product([None, *range(256)], [None, 9, 15]):
        if reason is None and exit_code is None and number is None:
            continue
        result = ended(reason=reason, exit_code=exit_code, signal=number)
        state, code = BY_REASON[result.reason]
        assert result.state is state
        assert result.return_code in ({1, 101, 102, 103, 104} if result.reason is Reason.ERROR else {code})


@pytest.mark.parametrize("reason", Reason)
def test_another_cause_brings_its_own_state_and_code(reason: Reason) -> None:
    """What an abort or a deadline explains keeps the exit code, and nothing of the old reason."""
    result = because(ended(exit_code=103, started_at=1.0, ended_at=2.0), reason, "words")
    assert (result.state, result.return_code, result.reason, result.message) == (*BY_REASON[reason], reason, "words")
    assert (result.exit_code, result.started_at, result.ended_at) == (103, 1.0, 2.0)


ORDER = {
    JobState.PENDING: {JobState.RUNNING, SUCCEEDED, FAILED, ABORTED, LOST},
    JobState.RUNNING: {SUCCEEDED, FAILED, ABORTED, LOST},
}


@pytest.mark.parametrize(("before", "after"), list(itertools.product(JobState, JobState)))
def test_states_only_go_forward(before: JobState, after: JobState) -> None:
    """PENDING may jump to an end, and the first end stays."""
    assert before.may_become(after) == (after in ORDER.get(before, set()))
    assert before.ended == (before not in ORDER)


def test_unknown_is_no_result() -> None:
    """127 is the code of a job that has not ended, and no end has it."""
    assert ReturnCode.UNKNOWN == 127
    assert ended(exit_code=127).return_code == 1
    assert isinstance(ended(exit_code=127), Result)
