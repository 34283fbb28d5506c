"""The job that the kit runs: copied into a workspace, it tells in files what it was given. Any Python from 3.8."""

from __future__ import annotations

import os
import signal
import sys
import time

LIFETIME = 120


def tell(name: str, text: str = "") -> None:
    """Write a file at once and whole."""
    part = f"{name}.{time.monotonic_ns()}.part"  # a signal handler may tell while this tells
    with open(part, "w", encoding="utf-8") as stream:
        stream.write(text)
    os.rename(part, name)


def wait_for(*names: str) -> None:
    """Return when one of the files is there; a forgotten job ends by itself."""
    give_up = time.monotonic() + LIFETIME
    while not any(map(os.path.exists, names)):
        if time.monotonic() > give_up:
            sys.exit(99)
        time.sleep(0.005)


def environment() -> dict[str, str]:
    """Return the environment as it was at the start; the interpreter may have added to its own."""
    try:
        with open("/proc/self/environ", "rb") as stream:
            pairs = [item.split(b"=", 1) for item in stream.read().split(b"\0") if b"=" in item]
        return {os.fsdecode(name): os.fsdecode(value) for name, value in pairs}
    except OSError:
        return dict(os.environ)


def report(*args: str) -> None:
    """Tell argv, environment and working directory."""
    import json  # here, so that jobs which report nothing start faster

    files = sorted(os.path.join(top, name) for top, _, names in os.walk(".") for name in names)
    found: dict[str, object] = {"args": args, "env": environment(), "cwd": os.getcwd(), "files": files}
    found["executable"] = [name for name in files if os.access(name, os.X_OK)]
    tell("report.json", json.dumps(found))


def wait(name: str = "go", code: str = "0") -> None:
    """Run until released, then exit with a code."""
    tell("ready")
    wait_for(name)
    sys.exit(int(code))


def polite() -> None:
    """Save on TERM and exit with 7."""

    def save(*_: object) -> None:
        tell("saved")
        sys.exit(7)

    signal.signal(signal.SIGTERM, save)
    wait("never")


def stubborn() -> None:
    """Take note of TERM and go on, until released."""
    signal.signal(signal.SIGTERM, lambda *_: tell("asked"))
    wait("go")


def descend(name: str, escape: bool) -> None:
    """Start a descendant that ignores TERM, in a session of its own if it escapes."""
    if os.fork():
        return
    if escape:
        os.setsid()
        if os.fork():
            os._exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    tell(name)
    wait_for("never")
    os._exit(0)


def family(stay: str = "yes") -> None:
    """Have a child that ignores TERM and a grandchild that left the session; stay, or leave them behind."""
    descend("child", False)
    descend("escapee", True)
    wait_for("child")
    wait_for("escapee")
    if stay == "yes":
        wait("never")


def secret(name: str) -> None:
    """Tell the digest of a variable's value."""
    import hashlib

    tell("digest", hashlib.sha256(os.environ[name].encode()).hexdigest())
    wait("go")


def once() -> None:
    """Leave a mark for every time this job has run."""
    with open("runs", "ab", 0) as stream:
        stream.write(b"run\n")
    wait("go")


def output(kind: str) -> None:
    """Write output of a kind."""
    stream = sys.stdout.buffer
    if kind == "megabyte":
        stream.writelines(b"%07d\n" % number for number in range(2**17))
    elif kind == "binary":
        stream.write(bytes(range(256)) * 16 + b"no newline")
    elif kind == "lines":
        stream.writelines(b"line %d\n" % number for number in range(10))
    elif kind == "both":
        os.write(1, b"to stdout\n")
        os.write(2, b"to stderr\n")
    elif kind == "talk":
        os.write(1, b"first\n")
        wait_for("go")
        os.write(1, b"last\n")
    stream.flush()


def results(code: str, name: str = "result") -> None:
    """Leave files of several kinds, then exit; with code ``wait``, run on until ended."""
    os.makedirs("out/deep")
    with open("out/deep/" + name, "wb") as stream:
        stream.write(bytes(range(256)) * 4096)
    tell("out/empty")
    tell("out/caf\u00e9 \u2713.txt", "caf\u00e9")
    if code == "wait":
        wait("never")
    sys.exit(int(code))


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
