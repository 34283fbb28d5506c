"""A job's output: whole, readable while it grows, and never larger than the site allows."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

from siteward import JobState
from siteward_process import cap, output

from .helpers import poll_end, until

SH = "/bin/sh"
LIMIT = 64 * 1024


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-u", "-c", code]


def numbered(count: int) -> bytes:
    return b"".join(b"line %07d\n" % number for number in range(count))


def test_output_and_errors_are_in_the_log_file(place):
    request = place.request(SH, "-c", "echo out; echo err >&2; echo out again")
    backend = place.backend()
    ref = backend.siteward_launch_job(request)
    poll_end(backend, ref)
    assert request.log_file.read_bytes() == b"out\nerr\nout again\n"
    assert request.log_file.stat().st_mode & 0o777 == 0o600
    assert b"".join(backend.siteward_read_logs(ref, False, None)) == b"out\nerr\nout again\n"


def test_much_output_arrives_whole(place):
    """1 MB, more than any pipe holds, with nobody reading."""
    request = place.request(*python("import sys\nfor n in range(16): sys.stdout.write('x' * 65535 + '\\n')"))
    backend = place.backend()
    ref = backend.siteward_launch_job(request)
    assert poll_end(backend, ref).state is JobState.SUCCEEDED
    assert request.log_file.stat().st_size == 2**20


@pytest.mark.parametrize(
    ("tail", "lines"),
    [(0, 0), (1, 1), (3, 3), (40_000, 40_000), (10**6, 100_000), (None, 100_000)],
)
def test_the_last_lines_can_be_asked_for(place, tmp_path, tail, lines):
    whole = numbered(100_000)
    source = tmp_path / "lines"
    source.write_bytes(whole)
    backend = place.backend()
    ref = backend.siteward_launch_job(place.request("cat", str(source)))
    poll_end(backend, ref)
    expected = b"".join(whole.splitlines(keepends=True)[-lines:]) if lines else b""
    assert b"".join(backend.siteward_read_logs(ref, False, tail)) == expected


@pytest.mark.parametrize(("text", "tail"), [(b"a\nb\nc", 1), (b"a\nb\nc\n", 1), (b"\n\n\n", 2), (b"", 3), (b"abc", 2)])
def test_tails_of_odd_texts(tmp_path, text, tail):
    """A last line without a newline is a line; empty lines are lines."""
    path = tmp_path / "log"
    path.write_bytes(text)
    fd = os.open(path, os.O_RDONLY)
    start = output.start_of_tail(fd, tail)
    os.close(fd)
    assert text[start:] == b"".join(text.splitlines(keepends=True)[-tail:])


def test_follow_gives_each_line_as_it_comes_and_ends_with_the_job(place):
    """The reader waits for the next line, and is done when the job has ended and all was read."""
    request = place.request(
        SH, "-c", "for n in 1 2 3; do echo $n; while [ ! -e $n ]; do sleep 0.02; done; done; echo end"
    )
    backend = place.backend()
    reader = backend.siteward_read_logs(backend.siteward_launch_job(request), True, None)
    for number in (b"1\n", b"2\n", b"3\n"):
        assert next(reader) == number
        (request.job_dir / number.decode().strip()).touch()
    assert b"".join(reader) == b"end\n"


def test_follow_misses_nothing_of_a_fast_job(place):
    """Whatever is written right before the end is still read."""
    backend = place.backend()
    for number in range(15):
        ref = backend.siteward_launch_job(place.request(SH, "-c", f"echo first; echo {number}; echo -n last"))
        assert b"".join(backend.siteward_read_logs(ref, True, None)) == b"first\n%d\nlast" % number


def test_follow_can_begin_at_the_tail_and_be_closed(place):
    request = place.request(SH, "-c", "echo a; echo b; echo c; touch ready; sleep 600")
    backend = place.backend()
    ref = backend.siteward_launch_job(request)
    until((request.job_dir / "ready").exists)
    fds = len(os.listdir("/proc/self/fd"))
    reader = backend.siteward_read_logs(ref, True, 1)
    assert next(reader) == b"c\n"
    reader.close()
    assert len(os.listdir("/proc/self/fd")) == fds


def test_follow_sleeps_while_the_job_is_quiet(place):
    request = place.request(SH, "-c", "echo a; while [ ! -e go ]; do sleep 0.05; done; echo b")
    backend = place.backend()
    ref = backend.siteward_launch_job(request)
    pieces: list[bytes] = []
    reader = threading.Thread(target=lambda: pieces.extend(backend.siteward_read_logs(ref, True, None)))
    reader.start()
    until(lambda: pieces)
    tasks = Path("/proc/self/task") / str(reader.native_id) / "status"

    def switches() -> str:
        return tasks.read_text().split("voluntary_ctxt_switches")[1]

    until(lambda: tasks.read_text().splitlines()[2].split()[1] == "S")
    before = switches()
    until(lambda: poll_is_running(backend, ref))
    assert switches() == before
    (request.job_dir / "go").touch()
    reader.join(10)
    assert b"".join(pieces) == b"a\nb\n"


def poll_is_running(backend, ref):
    return backend.siteward_poll_job(ref).state is JobState.RUNNING


def test_a_log_that_is_not_there_is_empty(place):
    backend = place.backend()
    request = place.request("true")
    ref = backend.siteward_launch_job(request)
    poll_end(backend, ref)
    request.log_file.unlink()
    assert list(backend.siteward_read_logs(ref, False, None)) == []
    assert list(backend.siteward_read_logs(ref, True, 5)) == []


def test_a_long_output_loses_its_middle_and_says_so(place):
    """Head and tail stay, a line between them says how many bytes are gone, and nothing of the zeros is seen."""
    whole = numbered(50_000)
    source = place.root / "lines"
    source.write_bytes(whole)
    request = place.request("cat", str(source))
    backend = place.backend(max_log_size=LIMIT)
    ref = backend.siteward_launch_job(request)
    assert poll_end(backend, ref).state is JobState.SUCCEEDED
    data = request.log_file.read_bytes()
    begin, end = output.middle(len(whole), LIMIT)
    assert data == whole[:begin] + output.dropped_line(end - begin) + whole[end:]
    assert len(data) < LIMIT + 8192
    assert b"[siteward: %d bytes dropped here]" % (end - begin) in data
    assert b"".join(backend.siteward_read_logs(ref, False, 2)) == b"line 0049998\nline 0049999\n"


def test_disk_use_stays_bounded_while_a_job_writes_and_writes(place):
    """The middle goes back to the file system while the job runs; who reads meanwhile sees no zeros either."""
    code = (
        "import os, sys, time\nfor n in range(3000):\n"
        "    os.write(1, b'%06d ' % n * 1000 + b'\\n')\n    time.sleep(0.0003)\n"
        "while not os.path.exists('go'): time.sleep(0.02)\nprint('the end')"
    )
    request = place.request(*python(code))
    backend = place.backend(max_log_size=LIMIT)
    ref = backend.siteward_launch_job(request)
    followed: list[bytes] = []
    follower = threading.Thread(target=lambda: followed.extend(backend.siteward_read_logs(ref, True, None)))
    follower.start()
    until(lambda: request.log_file.stat().st_size == 3000 * 7001)
    # The file is more than 20 MB long; on disk there is little more than the limit.
    until(lambda: request.log_file.stat().st_blocks * 512 < 2 * LIMIT, "the middle is dropped")
    data = b"".join(backend.siteward_read_logs(ref, False, None))
    assert b"\0" not in data
    assert b"bytes dropped here]" in data
    assert data.startswith(b"000000 ")
    assert data.endswith(b"002999 \n")
    assert len(data) < 3 * LIMIT
    (request.job_dir / "go").touch()
    poll_end(backend, ref)
    follower.join(10)
    assert b"\0" not in b"".join(followed)
    assert b"".join(followed).endswith(b"the end\n")
    data = request.log_file.read_bytes()
    assert b"\0" not in data
    assert data.endswith(b"the end\n")
    assert len(data) < 2 * LIMIT


def test_without_holes_the_output_is_shortened_at_the_end(place, monkeypatch, tmp_path):
    """Where the file system cannot punch holes, doctor says so and the end still shortens the file."""
    from siteward_process import linux

    def refuse(*_arguments: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(linux, "punch_hole", refuse)
    [finding] = [each for each in place.backend().siteward_check_backend() if each.subject == "limit of output"]
    assert (finding.level, "only when the job ends" in finding.message) == ("warn", True)
    path = tmp_path / "log"
    path.write_bytes(numbered(50_000))
    watcher = cap.OutputCap()
    watcher.add(str(path), LIMIT)
    with path.open("ab") as file:
        file.write(b"more\n")
    watcher.check()
    assert path.stat().st_size == 50_000 * 13 + 5
    output.compact(str(path), LIMIT)
    assert path.stat().st_size < 2 * LIMIT
    os.close(watcher.fd)


def test_a_log_that_is_a_link_is_not_followed(place):
    """The output file is siteward's; where something else stands, the job does not start."""
    request = place.request("true")
    victim = place.root / "victim"
    victim.write_text("mine")
    request.log_file.symlink_to(victim)
    backend = place.backend()
    result = poll_end(backend, backend.siteward_launch_job(request)).result
    assert "cannot be written" in result.message
    assert victim.read_text() == "mine"


TRAPS = {"a FIFO": "mkfifo {}", "a link": "ln -s ../victim {}", "a folder": "mkdir {}", "a file": "echo mine > {}"}


@pytest.mark.parametrize("trap", TRAPS.values(), ids=TRAPS)
def test_what_a_job_puts_where_its_output_is_shortened_harms_nobody(watched, trap):
    """The keeper neither waits for it nor writes into it, and goes on with the other jobs."""
    place, _backend, watch = watched
    backend = place.backend(max_log_size=LIMIT)
    other = backend.siteward_launch_job(place.request(SH, "-c", "while [ ! -e go ]; do sleep 0.05; done; exit 5"))
    code = f"echo kept > ../victim; {trap.format('../output.log.new')}; head -c 300000 /dev/zero"
    request = place.request(SH, "-c", code)
    request.log_file.parent.mkdir(parents=True, exist_ok=True)
    result = watch.end_of(backend.siteward_launch_job(request)).result
    assert result.state is JobState.SUCCEEDED
    assert (request.job_dir.parent / "victim").read_text() == "kept\n"
    if "mkdir" not in trap:
        assert request.log_file.stat().st_size < 2 * LIMIT
        assert not request.log_file.with_name("output.log.new").exists()
    (place.root / "jobs" / other.job_id / "work" / "go").touch()
    assert watch.end_of(other).result.exit_code == 5


@pytest.mark.parametrize("trap", [*list(TRAPS.values())[:3], "true {}"], ids=[*list(TRAPS)[:3], "nothing"])
def test_what_a_job_puts_in_place_of_its_output_is_no_output(place, trap):
    """It is neither waited for nor followed nor shortened."""
    script = f"echo secret > ../victim; rm ../output.log; {trap.format('../output.log')}"
    request = place.request(SH, "-c", script)
    backend = place.backend()
    ref = backend.siteward_launch_job(request)
    assert poll_end(backend, ref).state is JobState.SUCCEEDED
    path = str(request.log_file)
    for follow in (False, True):
        assert list(backend.siteward_read_logs(ref, follow, None)) == []
    output.compact(path, 1)
    if "true" not in trap:
        cap.drop_middle(path, 1, [0])
    assert (request.job_dir.parent / "victim").read_text() == "secret\n"


def test_a_shortening_that_fails_leaves_no_draft(tmp_path, monkeypatch):
    """A full disk: the output stays as it was, and takes no more room."""
    path = tmp_path / "output.log"
    path.write_bytes(b"x" * 4 * LIMIT)

    def full(*_arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "sendfile", full)
    with pytest.raises(OSError, match="No space"):
        output.compact(str(path), LIMIT)
    assert [each.name for each in tmp_path.iterdir()] == ["output.log"]
    assert path.stat().st_size == 4 * LIMIT
