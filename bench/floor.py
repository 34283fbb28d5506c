"""The least that siteward's promises cost in Python: a contender that keeps them for jobs that all go well.

Each job has its own folder, locked, and a row in a store: the intent before the launch, the ref before ``start``
returns, the end before ``wait`` does. A keeper, a process apart, journals what it starts and how that ends
before it tells. Nothing else is there: no check, plugin, adoption, stop, limit, log reading or error handling.
So it is no launcher, only a mark: how near to raw ``subprocess`` a launcher of this kind can come.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from itertools import count
from pathlib import Path
from typing import Any

from siteward_process import linux

_MOST = 2**16


class Floor:
    """Starts and waits as the contenders of ``process.py`` do."""

    name = "the least in Python"

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder / "floor")
        os.mkdir(self._folder)
        self._requests, requests = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._news, news = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with requests, news:
            ends = requests.fileno(), news.fileno()
            command = [sys.executable, __file__, *map(str, ends), f"{self._folder}/ends.log"]
            self._keeper = subprocess.Popen(command, pass_fds=ends)
        self._db = sqlite3.connect(f"{self._folder}/jobs.db", isolation_level=None, check_same_thread=False)
        for setting in ("journal_mode=WAL", "synchronous=NORMAL", "wal_autocheckpoint=4000"):
            self._db.execute(f"PRAGMA {setting}")
        self._db.execute("CREATE TABLE jobs (job_id TEXT PRIMARY KEY, created_at REAL, phase TEXT, ref TEXT, end TEXT)")
        self._writing = threading.Lock()
        self._numbers = count()
        self._running: dict[str, threading.Lock] = {}
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def start(self, argv: list[str]) -> tuple[int, threading.Lock]:
        """Start a job; return its lock, and what its end releases."""
        job_id = f"job-{next(self._numbers) * 2654435761 % 2**32:08x}"  # scattered, as random ones are
        folder = f"{self._folder}/{job_id}"
        os.mkdir(folder, 0o700)
        owner = os.open(f"{folder}/owner", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.mkdir(f"{folder}/work", 0o700)
        running = self._running[job_id] = threading.Lock()
        running.acquire()
        self._write("INSERT INTO jobs VALUES (?, ?, 'intent', NULL, NULL)", job_id, time.time())
        request = {"k": job_id, "argv": argv, "env": dict(os.environ), "dir": f"{folder}/work"}
        self._requests.send(json.dumps({**request, "log": f"{folder}/output.log"}).encode())
        self._write("UPDATE jobs SET phase='launched', ref=? WHERE job_id=?", self._requests.recv(_MOST), job_id)
        return owner, running

    def wait(self, job: tuple[int, threading.Lock]) -> None:
        """Wait for its end."""
        owner, running = job
        running.acquire()
        os.close(owner)

    def close(self) -> None:
        """End the keeper and close the store; what is in the folder stays."""
        self._requests.close()
        self._keeper.wait()
        self._listener.join()
        self._news.close()
        self._db.close()

    def _write(self, statement: str, *values: Any) -> None:
        with self._writing:
            self._db.execute(statement, values)

    def _listen(self) -> None:
        while news := self._news.recv(_MOST):
            job_id = json.loads(news)["k"]
            self._write("UPDATE jobs SET phase='ended', end=? WHERE job_id=?", news, job_id)
            self._running.pop(job_id).release()


def keep(requests: socket.socket, news: socket.socket, journal: int) -> None:
    """Be the keeper until the other end of ``requests`` is closed."""
    ended, null = linux.child_signals(), os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    jobs: dict[int, str] = {}
    epoll = select.epoll()
    for each in (requests.fileno(), ended):
        epoll.register(each, select.EPOLLIN)
    while True:
        for each, _events in epoll.poll():
            if each == ended:
                os.read(ended, 4096)
                _reap(jobs, news, journal)
            elif data := requests.recv(_MOST):
                job = json.loads(data)
                _note(journal, {"k": job["k"], "dir": job["dir"], "log": job["log"]})
                start = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
                pid = _spawn(job, null)
                jobs[pid] = job["k"]
                requests.send(_note(journal, {"k": job["k"], "pid": pid, "start": start}))
            else:
                return


def _spawn(job: dict[str, Any], null: int) -> int:
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.chdir(job["dir"])
    files = [(os.POSIX_SPAWN_DUP2, source, target) for source, target in ((null, 0), (log, 1), (log, 2))]
    pid = os.posix_spawn(job["argv"][0], job["argv"], job["env"], file_actions=files, setsid=True, setsigmask=())
    os.close(log)
    return pid


def _reap(jobs: dict[int, str], news: socket.socket, journal: int) -> None:
    while jobs:
        pid, status, usage = os.wait4(-1, os.WNOHANG)
        if not pid:
            return
        end = {"exit": os.waitstatus_to_exitcode(status), "cpu": usage.ru_utime, "memory": usage.ru_maxrss}
        news.send(_note(journal, {"k": jobs.pop(pid), "end": end}))


def _note(journal: int, fact: dict[str, Any]) -> bytes:
    line = json.dumps(fact).encode()
    os.write(journal, line + b"\n")
    return line


def main() -> None:
    """Become the keeper: two descriptors and the journal's path are the arguments."""
    requests, news = (socket.socket(fileno=int(number)) for number in sys.argv[1:3])
    keep(requests, news, os.open(sys.argv[3], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600))


if __name__ == "__main__":
    main()
