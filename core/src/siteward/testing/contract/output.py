"""Promises about a job's output and the files that it leaves."""

from __future__ import annotations

from collections.abc import Iterator

from siteward.ends import JobState
from siteward.errors import BackendError
from siteward.handle import Handle
from siteward.testing.kit import Kit
from siteward.testing.promises import needs, without

TREE = {"deep/result": bytes(range(256)) * 4096, "empty": b"", "caf\u00e9 \u2713.txt": "caf\u00e9".encode()}
LINES = [b"line %d\n" % number for number in range(10)]


class Output:
    """What a job writes comes to the site whole."""

    def test_both_streams_are_kept(self, kit: Kit) -> None:
        """Standard output and standard error are both in the job's log, and in the result's tail."""
        handle, result = kit.run(kit.site(), kit.argv("output", "both"))
        assert sorted(handle.logs()) == [b"to stderr\n", b"to stdout\n"]
        assert sorted(result.log_tail.splitlines()) == ["to stderr", "to stdout"]

    def test_large_output_is_whole(self, kit: Kit) -> None:
        """A megabyte of output arrives whole and in order."""
        handle, _ = kit.run(kit.site(), kit.argv("output", "megabyte"))
        assert b"".join(handle.logs()) == b"".join(b"%07d\n" % number for number in range(2**17))

    def test_output_is_bytes(self, kit: Kit) -> None:
        """Output is bytes: any byte arrives as it is, and no newline is added at the end."""
        handle, _ = kit.run(kit.site(), kit.argv("output", "binary"))
        assert b"".join(handle.logs()) == bytes(range(256)) * 16 + b"no newline"

    @needs("siteward_read_logs")
    def test_tail_is_the_last_lines(self, kit: Kit) -> None:
        """A tail of n is the last n lines: none for 0, all for more than there are."""
        launcher = kit.launcher()
        ref = kit.start(launcher, kit.request(launcher, kit.argv("output", "lines")))
        kit.polled_end(launcher, ref)
        read = {tail: b"".join(launcher.read_logs(ref, follow=False, tail=tail)) for tail in (0, 1, 3, 10, 99, None)}
        wanted = {tail: LINES[-tail:] if tail else [] if tail == 0 else LINES for tail in read}
        assert read == {tail: b"".join(lines) for tail, lines in wanted.items()}

    @needs("siteward_read_logs", files=True)
    def test_following_ends_with_the_job(self, kit: Kit) -> None:
        """Following gives a line while the job runs, all the rest, and ends when the job has."""
        handle = kit.launch(kit.site(), kit.argv("output", "talk"))
        logs = handle.logs(follow=True)
        assert kit.in_time(lambda: next(logs), "the first line of a running job is read") == b"first\n"
        assert not handle.status().state.ended
        kit.release(handle)
        assert kit.in_time(lambda: list(logs), "following ends with the job") == [b"last\n"]
        assert kit.result(handle).state is JobState.SUCCEEDED

    @needs("siteward_read_logs", files=True)
    def test_following_can_be_closed(self, kit: Kit) -> None:
        """A follower can leave before the end; the job does not notice."""
        launcher = kit.launcher()
        request = kit.request(launcher, kit.argv("output", "talk"))
        ref = kit.start(launcher, request)
        chunks = launcher.read_logs(ref, follow=True, tail=None)
        assert kit.in_time(lambda: next(chunks), "the first output of a running job is read") == b"first\n"
        kit.in_time(lambda: _close(chunks), "a follower's close returns")
        assert not launcher.poll(ref).state.ended
        kit.let_go(request)
        assert kit.polled_end(launcher, ref).state is JobState.SUCCEEDED

    @needs("siteward_read_logs", files=True)
    def test_running_output_can_be_read(self, kit: Kit) -> None:
        """What a running job has written can be read without following; reading ends where the output does."""
        handle = kit.launch(kit.site(), kit.argv("output", "talk"))

        def read() -> list[bytes]:
            return kit.in_time(lambda: list(handle.logs()), "reading without following returns")

        assert kit.wait_for(read, "the first line of a running job is read") == [b"first\n"]
        assert not handle.status().state.ended
        kit.release(handle)
        kit.result(handle)

    @without("siteward_read_logs")
    def test_without_logs_a_running_job_says_so(self, kit: Kit) -> None:
        """Without siteward_read_logs, following a running job is refused in words."""
        handle = kit.launch(kit.site(), kit.argv("polite"))
        assert "keeps no logs" in kit.in_time(lambda: _refusal(handle), "following is refused")
        handle.terminate(grace=0)
        kit.result(handle)

    def test_output_stays_after_the_end(self, kit: Kit) -> None:
        """The output can be read after the end, also by a site that is opened later; following it ends at once."""
        site = kit.site()
        handle, _ = kit.run(site, kit.argv("output", "lines"))
        assert kit.in_time(lambda: list(handle.logs(follow=True)), "following an ended job ends") == LINES
        kit.close(site)
        again = kit.site().attach(handle.job_id)
        assert list(again.logs()) == LINES
        assert list(again.logs(tail=2)) == LINES[-2:]

    @needs(files=True)
    def test_files_come_back(self, kit: Kit) -> None:
        """The job's files are in the job directory at the site, after success, failure and abort alike."""
        site = kit.site()
        handles = {code: kit.launch(site, kit.argv("results", code)) for code in ("0", "9", "wait")}
        kit.reached(handles["wait"])
        handles["wait"].terminate(grace=kit.seconds(1))
        for code, handle in handles.items():
            assert kit.result(handle).workspace == "returned"
            out = handle.job_dir / "out"
            files = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
            assert files == TREE, f"files of the job that ended with {code}"


def _close(chunks: Iterator[bytes]) -> bool:
    chunks.close()  # type: ignore[attr-defined]
    return True


def _refusal(handle: Handle) -> str:
    try:
        return f"read {list(handle.logs(follow=True))!r}"
    except BackendError as error:
        return str(error)
