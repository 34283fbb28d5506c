"""The keeper: one small process per site that starts its jobs, sees them end, and outlives its parents.

It has one thread and waits in one place. It is started on demand, leaves when it has neither jobs nor
clients, and writes each end down before it tells anyone. Only the standard library is imported here.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import heapq
import os
import resource
import select
import signal
import socket
import time
import traceback
from collections.abc import Callable

from siteward_process import cap, linux, proc, wire
from siteward_process.jobs import Jobs, Refused
from siteward_process.journal import Journal
from siteward_process.limits import Cgroups
from siteward_process.spawn import Spawner, ignored_signals

# How long a keeper without jobs waits for its next client, and for its first, who is sure to come.
LINGER = 0.1
_FIRST_WITHIN = 5.0
_EVENTS = 64
_MAX_COMPLAINTS = 100
_MAX_LOG = 2**20
_MAX_BACKLOG = 8 * 2**20
_AGAIN = 0.1
# epoll takes no more than 2**31 ms.
_LONGEST_WAIT = 86400.0


class Connection:
    """One client: what it has sent so far, and what it has not taken yet."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.frames = wire.Frames()
        self.waiting = bytearray()
        self.watching: str | None = None
        self.greeted = False


class Keeper:
    """The loop: connections, timers, ended children."""

    def __init__(self, directory_fd: int, name: str, spawner: Spawner) -> None:
        self._epoll = select.epoll()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_number = 0
        self._complaints = 0
        self._connections: dict[int, Connection] = {}
        self._idle_since = time.monotonic() + _FIRST_WITHIN
        self._directory = directory_fd
        self._listener = self._listen()
        self._children = linux.child_signals()
        self._may_reap = False
        self._cgroups = Cgroups(name)
        self._jobs = Jobs(Journal(directory_fd, wire.JOURNAL), self._cgroups, spawner, self)
        self._outputs = self._jobs.cap.fd
        for fd in (self._listener.fileno(), self._children, self._outputs):
            if fd is not None:
                self._epoll.register(fd, select.EPOLLIN)
        self._cgroups.remove_stale()
        self._jobs.adopt()

    def _listen(self) -> socket.socket:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(wire.SOCKET, dir_fd=self._directory)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # A path through the folder's descriptor is short however long the folder's own path is (unix(7): 108 bytes).
        listener.bind(f"/proc/self/fd/{self._directory}/{wire.SOCKET}")
        listener.listen(128)
        listener.setblocking(False)
        return listener

    # --- what the jobs need ---------------------------------------------------------------------------------

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call something after a while."""
        self._timer_number += 1
        heapq.heappush(self._timers, (time.monotonic() + seconds, self._timer_number, call))

    def tell(self, key: str, line: str) -> None:
        """Tell every watching client of a job's end."""
        data = wire.frame(line)
        for connection in list(self._connections.values()):
            if connection.watching in ("", key):
                self._send(connection, data)

    def wait_for(self, pidfd: int) -> None:
        """Wait for a process that is not a child."""
        self._epoll.register(pidfd, select.EPOLLIN)

    # --- the loop -------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until there is nothing left to keep and nobody to serve."""
        while not self._may_leave():
            try:
                self._turn()
            except Exception:
                self._complain()
        # From here on nobody finds the socket; whoever is in its queue is cut off before a word was said,
        # and starts another keeper.
        with contextlib.suppress(OSError):
            os.unlink(wire.SOCKET, dir_fd=self._directory)
        self._listener.close()

    def _complain(self) -> None:
        """Note a mistake in this program in keeper.log, and go on: jobs depend on it."""
        self._complaints += 1
        if self._complaints <= _MAX_COMPLAINTS:
            traceback.print_exc()
        time.sleep(0.01)

    def _may_leave(self) -> bool:
        quiet = not self._connections and not self._jobs.live
        return quiet and time.monotonic() - self._idle_since >= LINGER

    def _timeout(self) -> float:
        if self._may_reap:
            return 0.0
        now = time.monotonic()
        times = [self._timers[0][0] - now, _LONGEST_WAIT] if self._timers else []
        if not self._connections and not self._jobs.live:
            times.append(self._idle_since + LINGER - now)
        return max(0.0, min(times)) if times else -1

    def _turn(self) -> None:
        for fd, events in self._epoll.poll(self._timeout(), _EVENTS):
            connection = self._connections.get(fd)
            if connection is not None:
                self._serve(connection, events)
            elif fd == self._children:
                os.read(fd, 4096)
                # Kept until it is done: an end is signalled once.
                self._may_reap = True
            elif fd == self._listener.fileno():
                self._accept()
            elif fd == self._outputs:
                self._epoll.modify(fd, 0)
                self.later(cap.INTERVAL, self._check_outputs)
            elif self._jobs.survivor_ended(fd):
                self._epoll.unregister(fd)
        if self._may_reap:
            self._reap()
        while self._timers and self._timers[0][0] <= time.monotonic():
            heapq.heappop(self._timers)[2]()

    def _reap(self) -> None:
        self._may_reap = False
        try:
            self._jobs.reap()
        except BaseException:
            self.later(_AGAIN, self._reap)
            raise

    def _check_outputs(self) -> None:
        self._jobs.cap.check()
        self._epoll.modify(self._outputs or 0, select.EPOLLIN)

    # --- connections ----------------------------------------------------------------------------------------

    def _accept(self) -> None:
        try:
            while True:
                sock, _address = self._listener.accept()
                if wire.peer_uid(sock) not in (os.geteuid(), 0):
                    sock.close()
                    continue
                sock.setblocking(False)
                self._connections[sock.fileno()] = Connection(sock)
                self._epoll.register(sock.fileno(), select.EPOLLIN)
                if linux.is_scarce(sock.fileno()):
                    # The last descriptors are for jobs: whoever comes now waits in the listener's queue.
                    self._pause_accepting()
                    return
        except OSError as error:
            if error.errno in proc.SCARCE:
                self._pause_accepting()

    def _pause_accepting(self) -> None:
        self._epoll.modify(self._listener, 0)
        self.later(_AGAIN, self._resume_accepting)

    def _resume_accepting(self) -> None:
        scarce = True
        with contextlib.suppress(OSError):
            probe = os.dup(self._directory)
            scarce = linux.is_scarce(probe)
            os.close(probe)
        if scarce:
            self.later(_AGAIN, self._resume_accepting)
        else:
            self._epoll.modify(self._listener, select.EPOLLIN)

    def _serve(self, connection: Connection, events: int) -> None:
        try:
            if events & select.EPOLLOUT:
                self._flush(connection)
            if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                data = connection.sock.recv(2**16)
                if not data:
                    raise ConnectionResetError
                for message in connection.frames.feed(data):
                    self._answer(connection, message)
        except BlockingIOError:
            return
        except (OSError, KeyError, TypeError, ValueError):
            self._drop(connection)
        except Exception:
            self._complain()
            self._drop(connection)

    def _answer(self, connection: Connection, message: wire.Message) -> None:
        if not connection.greeted:
            connection.greeted = message.get("protocol") == wire.PROTOCOL
            self._send(connection, wire.pack({"protocol": wire.PROTOCOL, "pid": os.getpid()}))
            return
        reply = self._do(connection, message)
        if reply:
            self._send(connection, wire.frame(reply))

    def _do(self, connection: Connection, message: wire.Message) -> str:
        """Do what was asked and return the encoded answer, empty if there is none."""
        match message["do"]:
            case "launch":
                try:
                    return self._jobs.launch(message)
                except Refused as error:
                    return wire.encode({"refused": str(error)})
            case "poll":
                return self._jobs.lines(message["k"])[0] if self._jobs.knows(message) else "{}"
            case "terminate":
                self._jobs.terminate(message)
                return "{}"
            case "forget":
                self._jobs.forget(message)
                return ""
            case "list":
                return f'{{"jobs":[{",".join(self._jobs.lines())}]}}'
            case "watch":
                # One job, or with an empty key all of them: what is known first, then each end as it comes.
                connection.watching = message["k"]
                for line in self._jobs.lines(message["k"]):
                    self._send(connection, wire.frame(line))
                return ""
            case "check":
                facts = {"pid": os.getpid(), "cgroup": self._cgroups.version, "blocked": self._cgroups.blocked}
                return wire.encode(facts)
            case other:
                return wire.encode({"error": f"this keeper knows no request {other!r}"})

    def _send(self, connection: Connection, data: bytes) -> None:
        """Send without ever waiting: a client that does not read is cut off when too much is waiting for it."""
        if not connection.waiting:
            try:
                sent = connection.sock.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._drop(connection)
                return
            if sent == len(data):
                return
            data = data[sent:]
            if self._connections.get(connection.sock.fileno()) is connection:
                self._epoll.modify(connection.sock.fileno(), select.EPOLLIN | select.EPOLLOUT)
        connection.waiting += data
        if len(connection.waiting) > _MAX_BACKLOG:
            self._drop(connection)

    def _flush(self, connection: Connection) -> None:
        sent = connection.sock.send(connection.waiting)
        del connection.waiting[:sent]
        if not connection.waiting:
            self._epoll.modify(connection.sock.fileno(), select.EPOLLIN)

    def _drop(self, connection: Connection) -> None:
        fd = connection.sock.fileno()
        if fd >= 0 and fd in self._connections:
            del self._connections[fd]
            self._epoll.unregister(fd)
            connection.sock.close()
        if not self._connections:
            self._idle_since = time.monotonic()


# --- becoming a daemon --------------------------------------------------------------------------------------


def main(directory: str) -> None:
    """Become the keeper of a directory. Standard output is a pipe: ``ready``, ``busy``, or what went wrong."""
    ready = os.dup(1)
    try:
        directory_fd = _detach(directory, ready)
        if directory_fd is None:
            os.write(ready, b"busy")
            return
        keeper = Keeper(directory_fd, _name_of(directory_fd), Spawner(ignored_signals(), _raise_files()))
    except BaseException as error:
        os.write(ready, f"{type(error).__name__}: {error}".encode())
        raise
    os.write(ready, b"ready")
    os.close(ready)
    # Looking for cycles among what stays for ever would only delay jobs.
    gc.freeze()
    gc.set_threshold(10_000)
    keeper.run()


def _detach(directory: str, ready: int) -> int | None:
    """Leave the parent, its files, folder and terminal behind; return the open directory, None if it is kept."""
    directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    os.set_inheritable(ready, False)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in (ready, directory_fd):
            with contextlib.suppress(OSError):
                os.close(int(name))
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")
    lock = os.open(wire.LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=directory_fd)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return None
        raise
    log = os.open(
        wire.LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=directory_fd
    )
    if os.fstat(log).st_size > _MAX_LOG:
        os.ftruncate(log, 0)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for source, target in ((null, 0), (null, 1), (log, 2)):
        os.dup2(source, target, inheritable=False)
    os.close(log)
    os.close(null)
    # It leaves by itself when nothing is left; until then only KILL ends it.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    linux.become_subreaper()
    return directory_fd


def _raise_files() -> tuple[int, int]:
    """Allow this process as many open files as may be; return the limit that jobs are to have."""
    # This module is imported for os.wait4 too, which could not import it with no descriptor left.
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit[1], limit[1]))
    return limit


def _name_of(directory_fd: int) -> str:
    """Return a name for this keeper's cgroups that no other keeper on the machine has."""
    status = os.fstat(directory_fd)
    return f"siteward-{status.st_dev:x}-{status.st_ino:x}"
