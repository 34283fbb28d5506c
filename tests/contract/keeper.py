"""Runs one job of the test backends and writes down how it ended; outlives whoever launched it.

An order may name faults, for the backends that break a promise on purpose. Few imports, so that it starts fast.
"""

import marshal
import os
import signal
import sys
import time

NEWS = {signal.SIGCHLD, signal.SIGUSR1}


def write(path, data):
    with open(path + ".part", "wb") as stream:
        marshal.dump(data, stream)
    os.rename(path + ".part", path)


def read(path):
    with open(path, "rb") as stream:
        return marshal.load(stream)


def marked(mark):
    """Return the live processes that have this in their environment."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/environ", "rb") as stream:
                if mark in stream.read().split(b"\0"):
                    found.append(int(name))
        except OSError:
            continue
    return found


def sweep(mark, group, faults):
    """Kill what is left of a job."""
    if "no tree" in faults:
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            pass
        return
    while pids := marked(mark):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.001)


def start(order):
    """Start the job in a session of its own; return its pid, and the error's words if it cannot be executed."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            os.dup2(os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 1)
            if "no stderr" not in order["faults"]:
                os.dup2(1, 2)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, NEWS)
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            os.chdir(order["cwd"])
            os.execvpe(order["argv"][0], order["argv"], order["env"])
        except OSError as error:
            os.write(writer, str(error).encode())
        os._exit(127)
    os.close(writer)
    with open(reader, "rb") as stream:
        return pid, stream.read().decode()


def stop(folder, pid, faults):
    """Send TERM; return when to kill."""
    grace = read(folder + "/stop")
    try:
        os.killpg(pid, signal.SIGKILL if "no grace" in faults else signal.SIGTERM)
    except ProcessLookupError:
        pass
    return time.monotonic() + grace


def main(folder):
    order = marshal.load(sys.stdin.buffer)
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
    write(folder + "/started", os.getpid())
    deadline = stop(folder, pid, order["faults"]) if os.path.exists(folder + "/stop") else None
    while not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
        left = 60 if deadline is None else max(0, deadline - time.monotonic())
        news = signal.sigtimedwait(NEWS, left)
        if news is not None and news.si_signo == signal.SIGUSR1:
            deadline = stop(folder, pid, order["faults"])
        elif deadline is not None and time.monotonic() >= deadline:
            sweep(mark, pid, order["faults"])
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    sweep(mark, pid, order["faults"])
    end = {"started_at": started, "ended_at": time.time()}
    end |= {"reason": "LaunchFailed", "message": words} if words else {}
    end |= {"signal": -code} if code < 0 else {"exit_code": code}
    write(folder + "/end", end)


if __name__ == "__main__":
    main(sys.argv[1])
