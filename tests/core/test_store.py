"""The store: what goes in comes out, transactions, several processes at once, and what a file may not be."""

import sqlite3
import stat
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siteward import FailureReport, JobRef, JobState, Reason, StoreError, Usage, ended
from siteward.store import DRIVEN, Phase, Store

from .fake import Child

ROW = {"name": "job", "backend": "fake", "phase": Phase.INTENT, "grace": 1.0}


@pytest.fixture
def store(tmp_path):
    """An open store."""
    store = Store(tmp_path)
    yield store
    store.close()


def test_a_new_job_is_pending_with_its_times(store):
    """What is not given has the defaults of a job that was just asked for."""
    assert store.insert("a", **ROW, timeout=3.5, driver="d", token="t", job={"name": "job", "args": ("x",)})
    row = store.get("a")
    assert (row.state, row.phase, row.attempt, row.reachable, row.result) == (JobState.PENDING, "intent", 1, True, None)
    assert (row.timeout, row.driver, row.token, row.job) == (3.5, "d", "t", {"name": "job", "args": ["x"]})
    assert row.created_at > 0


def test_an_id_is_taken_once(store):
    """The second insert changes nothing and says so."""
    assert store.insert("a", **ROW)
    assert not store.insert("a", **{**ROW, "name": "other"})
    assert store.get("a").name == "job"


@settings(max_examples=30, deadline=None)
@given(
    message=st.text(st.characters(exclude_categories=["Cs"])),
    data=st.recursive(st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(), st.lists, max_leaves=5),
    code=st.integers(0, 255),
)
def test_refs_and_results_come_back_as_they_were(tmp_path_factory, message, data, code):
    """With every field, whatever its text."""
    store = Store(tmp_path_factory.mktemp("store"))
    try:
        store.insert("a", **ROW)
        ref = JobRef(site="ö/ß", backend="b", job_id="a", attempt=2, data={"x": data})
        report = FailureReport(site="s", job_id="a", backend="b", code=101, reason="Error", message=message)
        from attrs import evolve

        result = evolve(
            ended(exit_code=code, message=message, started_at=1.5, ended_at=2.5, usage=Usage(cpu_seconds=0.1)),
            report=report,
            log_tail=message,
        )
        store.update("a", ref=ref, result=result, state=result.state, phase=Phase.ENDED)
        row = store.get("a")
        assert (row.ref, row.result, row.state) == (ref, result, result.state)
        assert row.status.result == result
    finally:
        store.close()


def test_rows_are_oldest_first_and_by_phase(store):
    """By when they were asked for, then by when they were stored."""
    for number, (name, phase) in enumerate(zip("abcd", (Phase.REPORTED, *DRIVEN), strict=False)):
        store.insert(name, **{**ROW, "phase": phase}, created_at=float(number // 2))
    assert [row.job_id for row in store.rows()] == ["a", "b", "c", "d"]
    assert [row.job_id for row in store.rows([Phase.REPORTED, Phase.INTENT])] == ["a", "c"]
    assert store.rows([]) == []


STOPS = {
    "the first cause stays": ([("abort", 5), ("deadline", 9)], ("abort", 5)),
    "the grace only gets shorter": ([("abort", 5), ("abort", 2), ("abort", 8)], ("abort", 2)),
    "none at all": ([], (None, None)),
}


@pytest.mark.parametrize(("asked", "stored"), STOPS.values(), ids=STOPS)
def test_stop_requests(store, asked, stored):
    """Each is in the history; the driver finds the sum of them."""
    store.insert("a", **ROW, driver="me")
    for cause, grace in asked:
        store.request_stop("a", cause, grace)
    row = store.get("a")
    assert (row.stop_cause, row.stop_grace) == stored
    assert len(store.stop_requests("me")) == bool(asked)
    assert store.stop_requests("other") == []
    assert [event.kind for event in store.events("a")].count("stop requested") == len(asked)


def test_a_job_with_a_result_is_not_stopped(store):
    """The request comes too late."""
    result = ended(exit_code=0)
    store.insert("a", **ROW, driver="me")
    store.update("a", result=result, state=result.state, phase=Phase.ENDED)
    store.request_stop("a", "abort", 1)
    assert store.get("a").stop_cause is None
    assert store.stop_requests("me") == []


def test_admission_counts_what_is_active(store):
    """A slot for as many as the limit says, each job once, queued ones only."""
    for name in "abc":
        store.insert(name, **{**ROW, "phase": Phase.QUEUED})
    assert [store.admit(name, 2) for name in "abcc"] == [True, True, False, False]
    assert store.count_active() == 2
    store.update("a", phase=Phase.ENDED)
    assert [store.admit(name, 2) for name in "abc"] == [False, False, True]
    assert store.admit("nobody", None) is False


def test_the_history_is_in_order_and_in_words(store):
    """Columns and notes make one story, oldest first."""
    store.insert("a", **ROW, created_at=1.0)
    store.update("a", launched_at=2.0, started_at=3.0)
    result = ended(exit_code=3)
    store.update("a", result=result, state=result.state, ended_at=4.0)
    store.update("a", "cannot collect", "no route")
    events = store.events("a")
    assert [event.kind for event in events] == ["launching", "launched", "running", "ended", "cannot collect"]
    assert events[3].message == "FAILED (Error): the job exited with code 3"
    assert store.events("nobody") == []


def test_a_job_that_ended_in_the_queue_was_never_launching(store):
    """Its history does not change with its end."""
    store.insert("a", **{**ROW, "phase": Phase.QUEUED}, job={"name": "a"})
    result = ended(reason=Reason.ABORTED, message="not started")
    store.update("a", result=result, state=result.state, phase=Phase.REPORTED, ended_at=4e9)
    assert [event.kind for event in store.events("a")] == ["queued", "ended"]


def test_deleting_forgets_the_history_too(store):
    """A later job of the same id starts with a clean one."""
    store.insert("a", **ROW)
    store.update("a", "note", "words")
    store.delete(["a", "nobody"])
    assert store.get("a") is None
    store.insert("a", **ROW)
    assert [event.kind for event in store.events("a")] == ["launching"]


def test_a_transaction_is_all_or_nothing(store):
    """Also nested ones, which are one with the outer."""
    with pytest.raises(ZeroDivisionError), store.transaction():
        store.insert("a", **ROW)
        with store.transaction():
            store.update("a", "note", "words", message="x")
        raise ZeroDivisionError
    assert store.get("a") is None
    assert store.insert("a", **ROW)


def test_files_are_private(tmp_path, store):
    """0600, the ones that SQLite makes too."""
    store.insert("a", **ROW)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys(("siteward.db", "siteward.db-wal", "siteward.db-shm", "lock"), 0o600)


def test_the_settings_that_the_design_measured(store):
    """WAL, synchronous=NORMAL."""
    assert store._db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert store._db.execute("PRAGMA synchronous").fetchone()[0] == 1


def test_a_newer_version_is_refused(tmp_path, store):
    """It says so, and the file is as it was."""
    store._db.execute("PRAGMA user_version=99")
    with pytest.raises(StoreError, match="newer siteward"):
        Store(tmp_path)


def test_a_closed_store_says_so(store):
    """Its errors are StoreErrors."""
    store.close()
    with pytest.raises(StoreError):
        store.get("a")
    store.close()


@pytest.mark.parametrize("column", ["phase", "state", "ref", "result", "job"])
def test_a_row_that_makes_no_sense_is_a_corrupt_store(store, column):
    """Never a KeyError or a JSON error from somewhere inside."""
    store.insert("a", **ROW)
    store._db.execute(f"UPDATE jobs SET {column}='{{'")
    with pytest.raises(StoreError, match="corrupt"):
        store.get("a")


def test_opened_by_many_at_one_time(tmp_path):
    """Created once, whoever comes first."""
    stores, failures = [], []

    def open_one():
        try:
            stores.append(Store(tmp_path))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=open_one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []
    assert len(stores) == 8
    for each in stores:
        each.close()


def test_written_by_many_processes_and_threads(tmp_path, store):
    """No write is lost and none fails for want of the lock."""

    def write(name):
        mine = Store(tmp_path)
        for number in range(25):
            mine.insert(f"{name}-{number}", **ROW)
            mine.update(f"{name}-{number}", "note", "words", phase=Phase.LAUNCHED)
        mine.close()

    children = [Child(lambda name=name: write(name)) for name in ("x", "y")]
    threads = [threading.Thread(target=write, args=[name]) for name in ("p", "q")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [child.wait() for child in children] == [0, 0]
    rows = store.rows()
    assert len(rows) == 100
    assert {row.phase for row in rows} == {Phase.LAUNCHED}


def test_readers_do_not_wait_for_a_writer(tmp_path, store):
    """WAL: a look answers while another process holds the write lock."""
    store.insert("a", **ROW)
    writer = sqlite3.connect(tmp_path / "siteward.db", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    try:
        assert store.get("a").name == "job"
    finally:
        writer.execute("ROLLBACK")
        writer.close()
