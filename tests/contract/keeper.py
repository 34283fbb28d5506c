"""Runs one job of the test backends and writes down how it ended; outlives whoever launched it."""

import json
import os
import signal
import sys
import time
from pathlib import Path

NEWS = {signal.SIGCHLD, signal.SIGUSR1}


def write(path, data):
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(data))
    partial.rename(path)


def marked(mark):
    """Return the live processes that have this in their environment."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def sweep(mark):
    while pids := marked(mark):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.001)


def start(order):
    """Start the job in a session of its own; its pid, or None and the error's words if it cannot be executed."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            for target, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, log), (2, log)):
                os.dup2(source, target)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, NEWS)
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            os.chdir(order["cwd"])
            os.execvpe(order["argv"][0], order["argv"], order["env"])
        except OSError as error:
            os.write(writer, str(error).encode())
        os._exit(127)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        words = stream.read().decode()
    return pid, words


def stop(folder, pid):
    """Send TERM; return when to kill."""
    grace = json.loads((folder / "stop").read_text())
    try:
        os.killpg(pid, signal.SIGTERM)
    except ProcessLookupError:
        pass
    return time.monotonic() + grace


def main(folder):
    order = json.load(sys.stdin)
    if os.fork():
        os._exit(0)
    os.setsid()
    quiet = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(quiet, number)
    signal.pthread_sigmask(signal.SIG_BLOCK, NEWS)
    mark = f"SITEWARD_JOB_DIR={order['env']['SITEWARD_JOB_DIR']}".encode()
    started = time.time()
    pid, words = start(order)
    write(folder / "started", os.getpid())
    deadline = stop(folder, pid) if (folder / "stop").exists() else None
    while not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
        left = 60 if deadline is None else max(0, deadline - time.monotonic())
        news = signal.sigtimedwait(NEWS, left)
        if news is not None and news.si_signo == signal.SIGUSR1:
            deadline = stop(folder, pid)
        elif deadline is not None and time.monotonic() >= deadline:
            sweep(mark)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    sweep(mark)
    end = {"started_at": started, "ended_at": time.time()}
    end |= {"reason": "LaunchFailed", "message": words} if words else {}
    end |= {"signal": -code} if code < 0 else {"exit_code": code}
    write(folder / "end", end)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
