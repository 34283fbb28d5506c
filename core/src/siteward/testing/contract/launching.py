"""Promises about launching: the call, the ref, and what the job is given to run."""

from __future__ import annotations

import json
import os

from siteward.ends import JobState
from siteward.errors import SitewardError
from siteward.testing.kit import Kit
from siteward.testing.promises import needs
from siteward.wire import read_ref, ref_data

AWKWARD = [
    "", " ", "a b", "'single'", '"double"', "$HOME", "${HOME}", "`id`", "$(id)", "*", "~", "a\nb", "\t", "\\", "\\n",
    "caf\u00e9 \u2713", "--flag", "-", "--", ";true", "&", "|", ">x", "#", "%s", "{}", "{other}", "A=1",
]  # fmt: skip


class Launching:
    """A launch hands over exactly one job, exactly as it was asked for."""

    @needs(files=True)
    def test_launch_does_not_wait_for_the_job(self, kit: Kit) -> None:
        """Launch returns while the job still runs."""
        handle = kit.launch(kit.site(), kit.argv("wait"), name="patient")
        kit.reached(handle)
        kit.release(handle)
        assert kit.result(handle).state is JobState.SUCCEEDED

    def test_ref_goes_through_json(self, kit: Kit) -> None:
        """A ref is small, goes through JSON unchanged, and still finds its job."""
        launcher = kit.launcher()
        request = kit.request(launcher, kit.sh("exit 5"))
        ref = kit.start(launcher, request)
        text = json.dumps(ref_data(ref))
        assert len(text) <= 8192, "a ref is kept for every job: keep large things elsewhere"
        again = read_ref(json.loads(text))
        assert again == ref
        assert (ref.site, ref.backend, ref.job_id) == (request.site, request.backend, request.job_id)
        result = kit.polled_end(launcher, again).result
        assert result is not None
        assert result.exit_code == 5

    @needs(files=True)
    def test_launching_twice_is_one_job(self, kit: Kit) -> None:
        """Launching the same job and attempt again starts nothing: there is one job on the platform."""
        launcher = kit.launcher()
        request = kit.request(launcher, kit.argv("once"))
        first = kit.start(launcher, request)
        kit.ready(request)
        second = kit.start(launcher, request)
        kit.let_go(request)
        for ref in (first, second):
            assert kit.polled_end(launcher, ref).state is JobState.SUCCEEDED
        assert (kit.collected(launcher, first, request) / "runs").read_bytes() == b"run\n"
        assert (first.job_id, first.attempt) == (second.job_id, second.attempt)

    def test_arguments_are_exact(self, kit: Kit) -> None:
        """Arguments reach the job as they are, whatever they hold; there is no shell."""
        handle, _ = kit.run(kit.site(), [*kit.argv("report"), *AWKWARD])
        assert kit.reported(handle)["args"] == AWKWARD

    def test_placeholders_are_replaced(self, kit: Kit) -> None:
        """{site}, {job_id} and {job_dir} are what the job sees; other braces stay."""
        handle, _ = kit.run(kit.site(), kit.argv("report", "{site}", "x{job_id}y", "{job_dir}", "{{site}}", "{sites}"))
        report = kit.reported(handle)
        job_dir = report["env"]["SITEWARD_JOB_DIR"]
        assert report["args"] == ["site-1", f"x{handle.job_id}y", job_dir, "{site-1}", "{sites}"]

    def test_job_starts_in_its_job_directory(self, kit: Kit) -> None:
        """The job's working directory is its job directory."""
        handle, _ = kit.run(kit.site(), kit.argv("report"))
        report = kit.reported(handle)
        assert report["cwd"] == os.path.realpath(report["env"]["SITEWARD_JOB_DIR"])

    def test_workspace_is_in_the_job_directory(self, kit: Kit) -> None:
        """The workspace's contents are there when the job starts: folders, executables, names in any script."""
        app = kit.directory / "app"
        (app / "deep" / "er").mkdir(parents=True)
        (app / "deep" / "er" / "caf\u00e9 \u2713").write_text("hello")
        (app / "tool").write_text("#!/bin/sh\n")
        (app / "tool").chmod(0o755)
        handle, _ = kit.run(kit.site(), kit.argv("report"))
        report = kit.reported(handle)
        assert {"./deep/er/caf\u00e9 \u2713", "./tool", "./job.py"} <= set(report["files"])
        assert "./tool" in report["executable"]

    def test_missing_command_is_an_end(self, kit: Kit) -> None:
        """A command that is not there gives a handle, whose job ends as LaunchFailed with code 101."""
        site = kit.site()
        for command in (["no-such-program-of-the-kit", "a"], ["./no-such-file"]):
            try:
                _, result = kit.run(site, command)
            except SitewardError as error:
                raise AssertionError(f"launch raised instead: {error!r}") from error
            assert (result.state.value, result.reason.value, result.return_code) == ("FAILED", "LaunchFailed", 101)
            assert result.message
