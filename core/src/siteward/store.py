"""What a site remembers of its jobs: one SQLite file, shared by every process that uses the site.

Each row goes through phases; a phase is stored when its step is done, so that after a crash the next driver
repeats at most one step. Readers never wait for writers (WAL).
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from attrs import frozen

from siteward.ends import JobState, Result
from siteward.errors import StoreError
from siteward.request import JobRef, JobStatus
from siteward.wire import read_ref, read_result, ref_data, result_data


class Phase(StrEnum):
    """How far a driver has brought a job; each phase's step can be repeated."""

    QUEUED = "queued"
    INTENT = "intent"
    LAUNCHED = "launched"
    ENDED = "ended"
    COLLECTED = "collected"
    FREED = "freed"
    REPORTED = "reported"
    REMOVED = "removed"


DRIVEN = (Phase.QUEUED, Phase.INTENT, Phase.LAUNCHED, Phase.ENDED, Phase.COLLECTED, Phase.FREED)
NOTE = "not promised"
ACTIVE = (Phase.INTENT, Phase.LAUNCHED)
_MIGRATIONS = (
    """
    CREATE TABLE jobs (
        job_id TEXT PRIMARY KEY, attempt INTEGER NOT NULL, name TEXT NOT NULL, backend TEXT NOT NULL,
        phase TEXT NOT NULL, state TEXT NOT NULL,
        message TEXT NOT NULL DEFAULT '', reachable INTEGER NOT NULL DEFAULT 1,
        timeout REAL, grace REAL NOT NULL, token TEXT, job TEXT, ref TEXT, result TEXT,
        driver TEXT, stop_cause TEXT, stop_grace REAL,
        created_at REAL NOT NULL, launched_at REAL, started_at REAL, ended_at REAL
    );
    CREATE INDEX jobs_unfinished ON jobs (created_at) WHERE phase <> 'removed';
    CREATE TABLE events (job_id TEXT NOT NULL, at REAL NOT NULL, kind TEXT NOT NULL, message TEXT NOT NULL);
    CREATE INDEX events_by_job ON events (job_id);
    """,
)


@frozen(kw_only=True)
class JobRow:
    """One job, as stored. Times are seconds since the epoch; ``stop_cause`` is ``abort`` or ``deadline``."""

    job_id: str
    attempt: int
    name: str
    backend: str
    phase: Phase
    state: JobState
    message: str
    reachable: bool
    timeout: float | None
    grace: float
    token: str | None
    job: Mapping[str, Any] | None
    ref: JobRef | None
    result: Result | None
    driver: str | None
    stop_cause: str | None
    stop_grace: float | None
    created_at: float
    launched_at: float | None
    started_at: float | None
    ended_at: float | None

    @property
    def done(self) -> bool:
        """Whether nothing is left to do but, at most, removing it from the platform."""
        return self.phase in (Phase.REPORTED, Phase.REMOVED)

    @property
    def status(self) -> JobStatus:
        """The last known status."""
        return JobStatus(state=self.state, reachable=self.reachable, message=self.message, result=self.result)


@frozen(kw_only=True)
class Event:
    """One thing that happened to a job, in words. ``at`` is seconds since the epoch."""

    at: float
    kind: str
    message: str


def _row(_cursor: sqlite3.Cursor, values: tuple[Any, ...]) -> JobRow:
    fields = dict(zip(_COLUMNS, values, strict=True))
    for name in ("job", "ref", "result"):
        fields[name] = None if fields[name] is None else json.loads(fields[name])
    fields["ref"] = None if fields["ref"] is None else read_ref(fields["ref"])
    fields["result"] = None if fields["result"] is None else read_result(fields["result"])
    fields.update(phase=Phase(fields["phase"]), state=JobState(fields["state"]), reachable=bool(fields["reachable"]))
    return JobRow(**fields)


_COLUMNS = tuple(JobRow.__annotations__)


@cache
def _inserting(names: tuple[str, ...]) -> str:
    return f"INSERT OR IGNORE INTO jobs ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"  # noqa: S608


@cache
def _updating(names: tuple[str, ...]) -> str:
    return f"UPDATE jobs SET {'=?, '.join(names)}=? WHERE job_id=?"  # noqa: S608


def _plain(fields: dict[str, Any]) -> list[Any]:
    """Return values as SQLite takes them; refs, results and jobs become JSON."""
    if (ref := fields.get("ref")) is not None:
        fields["ref"] = json.dumps(ref_data(ref))
    if (result := fields.get("result")) is not None:
        fields["result"] = json.dumps(result_data(result))
    if (job := fields.get("job")) is not None:
        fields["job"] = json.dumps(job)
    return list(fields.values())


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise _store_error(path, error) from error


def _store_error(path: Path, error: sqlite3.DatabaseError) -> StoreError:
    if getattr(error, "sqlite_errorname", "").startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return _corrupt(path, error)
    return StoreError(f"{path} cannot be used: {error}. Check the disk's free space and permissions")


def _corrupt(path: Path, error: Exception) -> StoreError:
    return StoreError(
        f"{path} is corrupt ({error}). Move it aside (with {path.name}-wal and {path.name}-shm) and start "
        "again: jobs that still run are found with `siteward ps --platform`"
    )


class Store:
    """The open store of one site. Methods may be called from any thread; every write is one transaction.

    With ``migrate=False`` one of an older siteward is a StoreError: programs of that version may be using it.
    """

    def __init__(self, state_dir: Path, *, migrate: bool = True) -> None:
        self.path = state_dir / "siteward.db"
        self._migrate = migrate
        self._lock = threading.RLock()
        with _translated(self.path):
            try:
                self._db = self._open(state_dir)
            except OSError as error:
                raise StoreError(f"{self.path} cannot be opened: {error.strerror or error}") from error

    def _open(self, state_dir: Path) -> sqlite3.Connection:
        lock = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Only a file that is not there yet: closing any descriptor of an open database would drop all of this
            # process's locks on it (sqlite.org/howtocorrupt.html, 2.2).
            with suppress(FileExistsError):
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            db = sqlite3.connect(self.path, timeout=30, isolation_level=None, check_same_thread=False)
            try:
                self._set_up(db)
            except BaseException:
                db.close()
                raise
            return db
        finally:
            os.close(lock)

    def _set_up(self, db: sqlite3.Connection) -> None:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute("PRAGMA wal_autocheckpoint=4000")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > len(_MIGRATIONS):
            raise StoreError(f"{self.path} was written by a newer siteward; upgrade this one")
        if version < len(_MIGRATIONS) and not self._migrate:
            raise StoreError(f"{self.path} was written by an older siteward; open its site to upgrade it")
        for number, script in enumerate(_MIGRATIONS[version:], version + 1):
            db.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version={number}; COMMIT;")

    def close(self) -> None:
        """Close the file; the store cannot be used any more."""
        with self._lock:
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make several writes one; nested uses join the outer one."""
        with self._lock, _translated(self.path):
            if self._db.in_transaction:
                yield
                return
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                # SQLite has rolled back by itself after some errors; after others (COMMIT on a full disk) it has not,
                # and a transaction left open would keep every other writer out.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def insert(self, job_id: str, /, **fields: Any) -> bool:
        """Add a job; False if its id is taken."""
        fields = {"job_id": job_id, "attempt": 1, "state": JobState.PENDING, "created_at": time.time(), **fields}
        return self._write(_inserting(tuple(fields)), _plain(fields)) == 1

    def update(self, job_id: str, event: str | None = None, words: str = "", /, **fields: Any) -> None:
        """Change columns of a job and, with ``event``, add it with its words to the history, in one transaction."""
        if event is None:
            self._write(_updating(tuple(fields)), [*_plain(fields), job_id])
            return
        with self.transaction():
            if fields:
                self._db.execute(_updating(tuple(fields)), [*_plain(fields), job_id])
            self._event(job_id, event, words, time.time())

    def _write(self, query: str, values: Sequence[Any]) -> int:
        """Run one writing statement: alone it is a transaction by itself, which begins with the write lock."""
        with self._lock:
            try:
                return self._db.execute(query, values).rowcount
            except sqlite3.DatabaseError as error:
                raise _store_error(self.path, error) from error

    def _event(self, job_id: str, kind: str, message: str, at: float) -> None:
        self._db.execute("INSERT INTO events VALUES (?, ?, ?, ?)", (job_id, at, kind, message))

    def request_stop(self, job_id: str, cause: str, grace: float) -> None:
        """Store that a job is to be ended: the first cause stays, the grace may only get shorter."""
        with self.transaction():
            self._db.execute(
                "UPDATE jobs SET stop_cause=coalesce(stop_cause, ?), stop_grace=min(coalesce(stop_grace, ?), ?) "
                "WHERE job_id=? AND result IS NULL",
                (cause, grace, grace, job_id),
            )
            self._event(job_id, "stop requested", f"{cause}, grace {grace:g} s", time.time())

    def admit(self, job_id: str, limit: int | None) -> bool:
        """Give a queued job its slot; False if it is not queued any more, or ``limit`` jobs are active."""
        with self.transaction():
            if limit is not None and self.count_active() >= limit:
                return False
            query = "UPDATE jobs SET phase='intent', message='' WHERE job_id=? AND phase='queued'"
            if self._db.execute(query, (job_id,)).rowcount == 0:
                return False
            self._event(job_id, "admitted", "", time.time())
            return True

    def delete(self, job_ids: Sequence[str]) -> None:
        """Forget jobs and their history."""
        with self.transaction():
            self._db.executemany("DELETE FROM events WHERE job_id=?", [(each,) for each in job_ids])
            self._db.executemany("DELETE FROM jobs WHERE job_id=?", [(each,) for each in job_ids])

    def mark_removed(self, job_ids: Sequence[str]) -> None:
        """Note that the platform keeps nothing of these jobs any more."""
        with self.transaction():
            self._db.executemany("UPDATE jobs SET phase='removed' WHERE job_id=?", [(each,) for each in job_ids])

    def get(self, job_id: str) -> JobRow | None:
        """Return a job, None if there is none of this id."""
        rows = self._select("WHERE job_id=?", (job_id,))
        return rows[0] if rows else None

    def rows(self, phases: Sequence[Phase] | None = None) -> list[JobRow]:
        """Return jobs in these phases (None: all), oldest first."""
        if phases is None:
            return self._select("ORDER BY created_at, rowid", ())
        marks = ", ".join("?" * len(phases))
        indexed = "" if Phase.REMOVED in phases else "phase <> 'removed' AND "
        where = f"WHERE {indexed}phase IN ({marks}) ORDER BY created_at, rowid"
        return self._select(where, [phase.value for phase in phases])

    def stop_requests(self, driver: str) -> list[JobRow]:
        """Return this driver's jobs that are to be ended."""
        return self._select(
            "WHERE phase <> 'removed' AND driver=? AND stop_cause IS NOT NULL AND result IS NULL", (driver,)
        )

    def count_active(self) -> int:
        """Return how many jobs count against ``max_jobs``."""
        with self._lock, _translated(self.path):
            marks = ", ".join("?" * len(ACTIVE))
            query = f"SELECT count(*) FROM jobs WHERE phase IN ({marks})"  # noqa: S608
            return int(self._db.execute(query, [phase.value for phase in ACTIVE]).fetchone()[0])

    def events(self, job_id: str) -> list[Event]:
        """Return a job's history, oldest first: what its columns tell and what was noted besides."""
        row = self.get(job_id)
        if row is None:
            return []
        with self._lock, _translated(self.path):
            query = "SELECT at, kind, message FROM events WHERE job_id=? ORDER BY rowid"
            events = [Event(at=at, kind=kind, message=words) for at, kind, words in self._db.execute(query, (job_id,))]
        first = "queued" if row.job is not None else "launching"
        told: list[tuple[float | None, str, str]] = [
            (row.created_at, first, f"on {row.backend}"),
            (row.launched_at, "launched", ""),
            (row.started_at, "running", ""),
        ]
        if row.result is not None:
            words = f"{row.result.state} ({row.result.reason}): {row.result.message}"
            told.append((row.ended_at, "ended", words))
        latest = time.time()
        for at, kind, words in reversed(told):
            if at is not None:  # a platform's clock may say that a job began before we heard of its launch
                latest = min(at, latest)
                events.append(Event(at=latest, kind=kind, message=words))
        order = {kind: number for number, (_at, kind, _words) in enumerate(told)}
        return sorted(events, key=lambda event: (event.at, order.get(event.kind, 1)))

    def notes(self, job_id: str) -> tuple[str, ...]:
        """Return what a resource manager said that it does not promise this job."""
        with self._lock, _translated(self.path):
            query = "SELECT message FROM events WHERE job_id=? AND kind=? ORDER BY rowid"
            return tuple(words for (words,) in self._db.execute(query, (job_id, NOTE)))

    def _select(self, where: str, values: Sequence[Any]) -> list[JobRow]:
        with self._lock, _translated(self.path):
            cursor = self._db.cursor()
            cursor.row_factory = _row
            columns = ", ".join(_COLUMNS)
            try:
                return cursor.execute(f"SELECT {columns} FROM jobs {where}", values).fetchall()  # noqa: S608
            except (ValueError, KeyError, TypeError) as error:
                raise _corrupt(self.path, error) from error
