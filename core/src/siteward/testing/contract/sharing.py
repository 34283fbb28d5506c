"""Promises about many at once: jobs, threads, sites."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from siteward.ends import JobState
from siteward.testing.kit import Kit
from siteward.testing.promises import needs

NAMES = ("site-1", "SITE-1", "site 1", "Site-1 caf\u00e9 \u2713", "site.1", "_")


class Sharing:
    """Jobs and sites share a platform without meeting."""

    def test_concurrent_launches_keep_their_own_ends(self, kit: Kit) -> None:
        """Jobs launched together from several threads each have their own exact end."""
        site = kit.site()
        codes = [11 + number for number in range(kit.setup.concurrent)]
        with ThreadPoolExecutor(8) as pool:
            handles = list(pool.map(lambda code: kit.launch(site, kit.sh(f"exit {code}")), codes))
        assert [kit.result(handle).exit_code for handle in handles] == codes

    def test_any_site_name_works(self, kit: Kit) -> None:
        """Sites whose names differ in case, spaces or script only are apart, also with jobs of the same id."""
        job_id = kit.new_id()
        sites = [kit.site(name) for name in NAMES]
        codes = [31 + number for number in range(len(NAMES))]
        scripts = [kit.sh(f"sleep 0.3; exit {code}") for code in codes]  # long enough to run beside each other
        handles = [kit.launch(site, script, id=job_id) for site, script in zip(sites, scripts, strict=True)]
        assert [kit.result(handle).exit_code for handle in handles] == codes

    @needs(files=True)
    def test_same_job_id_at_two_sites(self, kit: Kit) -> None:
        """Two sites on one platform run jobs of the same id without touching each other's."""
        job_id = kit.new_id()
        ended, spared = (kit.launch(kit.site(name), kit.argv("wait"), id=job_id) for name in ("site-1", "site-2"))
        kit.reached(ended)
        kit.reached(spared)
        ended.terminate(grace=kit.seconds(0.3))
        assert kit.result(ended).state is JobState.ABORTED
        kit.release(spared)
        assert kit.result(spared).state is JobState.SUCCEEDED
