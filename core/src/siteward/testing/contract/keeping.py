"""Promises about looking after a platform: listing, removing, rendering, checking, closing."""

from __future__ import annotations

import json

from siteward.errors import BackendError
from siteward.job import Job
from siteward.request import Finding
from siteward.testing.kit import Kit
from siteward.testing.promises import needs, without


class Keeping:
    """A backend knows what it has made, and takes it away when told."""

    @needs("siteward_list_jobs", files=True)
    def test_list_has_exactly_the_sites_jobs(self, kit: Kit) -> None:
        """Listing gives the jobs of this site, running and ended, and no other site's."""
        one, other = kit.launcher("site-1"), kit.launcher("site-2")
        running = kit.request(one, kit.argv("wait"))
        refs = [kit.start(one, running), kit.start(one, kit.request(one, kit.sh("exit 1")))]
        foreign = kit.start(other, kit.request(other, kit.sh("exit 0")))
        kit.polled_end(one, refs[1])
        listed = one.list_jobs()
        assert listed is not None
        assert sorted(ref.job_id for ref in listed) == sorted(ref.job_id for ref in refs)
        assert {ref.site for ref in listed} == {"site-1"}
        assert [ref.job_id for ref in other.list_jobs() or ()] == [foreign.job_id]
        kit.let_go(running)
        (again,) = (ref for ref in listed if ref.job_id == refs[0].job_id)
        assert kit.polled_end(one, again).state.value == "SUCCEEDED"

    @needs("siteward_remove_job")
    def test_removed_job_is_gone(self, kit: Kit) -> None:
        """A removed job is gone from the platform; removing it again is no error."""
        launcher = kit.launcher()
        ref = kit.start(launcher, kit.request(launcher, kit.sh("exit 0")))
        kit.polled_end(launcher, ref)
        launcher.remove(ref)
        launcher.remove(ref)
        assert ref.job_id not in [each.job_id for each in launcher.list_jobs() or ()]

    @needs("siteward_list_jobs", "siteward_remove_job")
    def test_site_leaves_nothing_on_the_platform(self, kit: Kit) -> None:
        """A job whose result is stored is removed: when the site is closed, the platform has nothing of it."""
        site = kit.site()
        for code in (0, 1):
            kit.run(site, kit.sh(f"exit {code}"))
        kit.wait_for(lambda: site.platform_jobs() == [], "the platform has nothing left of ended jobs")

    @needs("siteward_render_job")
    def test_rendering_starts_nothing(self, kit: Kit) -> None:
        """Rendering gives plain data that names the job's command, and starts and stores nothing."""
        site = kit.site()
        job = Job.from_mapping(kit.job_data([*kit.sh("touch started"), "kit-argument"]), base_dir=kit.directory)
        assert "kit-argument" in json.dumps(site.render(job), default=repr)
        assert site.jobs() == []
        assert site.platform_jobs() == []
        assert not kit.platform.sees_processes or kit.platform.processes(job.id) == []

    @without("siteward_render_job")
    def test_without_rendering_it_is_refused(self, kit: Kit) -> None:
        """Without siteward_render_job, rendering is refused in words."""
        job = Job.from_mapping(kit.job_data(kit.sh("true")), base_dir=kit.directory)
        try:
            answer = kit.site().render(job)
        except BackendError as error:
            assert "cannot render" in str(error)
        else:
            raise AssertionError(f"expected a BackendError, got {answer!r}")

    @needs("siteward_check_backend")
    def test_findings_are_complete(self, kit: Kit) -> None:
        """Every finding says what was looked at and found, and each that is not ok what to do about it."""
        hook = kit.launcher().manager.hook.siteward_check_backend
        findings = hook()
        assert findings
        for finding in findings:
            assert isinstance(finding, Finding)
            assert finding.level in ("ok", "warn", "fail")
            assert finding.subject
            assert finding.message
            assert finding.level == "ok" or finding.remedy, f"what to do about {finding.message!r}?"

    @without("siteward_check_backend")
    def test_without_a_check_doctor_says_so(self, kit: Kit) -> None:
        """Without siteward_check_backend, doctor says that nothing is checked."""
        assert any("checks nothing" in finding.message for finding in kit.site().doctor())

    @needs("siteward_close_backend")
    def test_closing_can_be_repeated(self, kit: Kit) -> None:
        """Closing again, or before anything was launched, does no harm."""
        launcher = kit.launcher()
        launcher.close()
        launcher.close()
