"""One job across several sites, with one verdict.

The first site whose end fails or stops the run is the cause, and ends the other sites' jobs; a site ended by
the run is never a cause.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from attrs import evolve

from siteward.ends import Reason, Result, ReturnCode, ended
from siteward.errors import SitewardError
from siteward.failures import FailureReport, rejection
from siteward.handle import Handle
from siteward.job import Job
from siteward.launching import Prepared
from siteward.scheduling import schedule
from siteward.site import Site
from siteward.verdicts import Judgement, Verdict, is_cause, judge

_log = logging.getLogger("siteward")


class Run:
    """One job at several sites. Made by :func:`run`; ``handles`` and ``results`` are by site name."""

    def __init__(self, job: Job, refused: Mapping[str, str] | None = None) -> None:
        self.job = job
        self.handles: dict[str, Handle] = {}
        self.refused = dict(refused or {})
        self.results: dict[str, Result] = {}
        self._sites: tuple[str, ...] = ()
        self._judgement: Judgement | None = None
        self._error: Exception | None = None
        self._cause: str | None = None
        self._aborted = False
        self._lock = threading.Lock()
        self._done = threading.Event()

    @property
    def verdict(self) -> Verdict | None:
        """The verdict, None while jobs of the run go on."""
        return self._judgement.verdict if self._judgement else None

    @property
    def code(self) -> int:
        """The verdict's wire code; 127 (UNKNOWN) while jobs of the run go on."""
        return self._judgement.code if self._judgement else int(ReturnCode.UNKNOWN)

    @property
    def cause(self) -> str | None:
        """The site whose end explains the verdict, None if none does."""
        return self._judgement.cause if self._judgement else self._cause

    @property
    def message(self) -> str:
        """The verdict in words."""
        return self._judgement.message if self._judgement else ""

    def wait(self, timeout: float | None = None) -> Verdict:
        """Wait until the job has ended at every site; TimeoutError after ``timeout`` seconds leaves it alone."""
        if not self._done.wait(timeout):
            waiting = ", ".join(name for name in self._sites if name not in self.results)
            raise TimeoutError(f"the run has not ended within {timeout:g} s; waiting for {waiting}")
        if self._judgement is None:
            raise self._error or SitewardError("the run was left")
        return self._judgement.verdict

    def terminate(self, grace: float | None = None) -> None:
        """End the run: every site's job is asked to end, KILL after ``grace`` seconds. Returns at once."""
        with self._lock:
            self._aborted = True
        self._end_all(grace)

    def _end_all(self, grace: float | None = None) -> None:
        for name, handle in list(self.handles.items()):
            if name not in self.results:
                try:
                    handle.terminate(grace)
                except Exception as error:  # one site's trouble must not keep the others running
                    _log.error("job %s at %s cannot be ended: %s", handle.job_id, name, error)

    def _refuse(self, message: str) -> Run:
        code = int(ReturnCode.INFRASTRUCTURE_ERROR)
        self._judgement = Judgement(verdict=Verdict.REFUSED, code=code, message=message)
        self._done.set()
        return self

    def _site_ended(self, site: str, result: Result) -> None:
        """Take a site's end: once, and with it a report only if it is that site's own; what is dropped is logged."""
        with self._lock:
            if (words := self._late(site)) is not None:
                _log.warning("job %s: a report of its end at %s is dropped: %s", self.job.id, site, words)
                return
            report = result.report
            if report is not None and (words := rejection(report, site=site, job_id=self.job.id)) is not None:
                _log.warning("job %s: a report that came with its end at %s is dropped: %s", self.job.id, site, words)
                result = evolve(result, report=None)
            self.results[site] = result
            first = self._cause is None and not self._aborted and is_cause(result)
            if first:
                self._cause = site
            over = len(self.results) == len(self._sites)
        if first:
            self._end_all()
        if over:
            results = {name: self.results[name] for name in self._sites}
            self._judgement = judge(results, cause=self._cause, aborted=self._aborted, lead=self.job.lead)
            self._done.set()

    def _late(self, site: str) -> str | None:
        """Say why no end is expected from this site, None if one is."""
        if site not in self._sites:
            return f"the run has no job there, only at {', '.join(self._sites) or 'no site yet'}"
        if site in self.results:
            return "the run is over" if self._judgement is not None else "that site's end is known already"
        return None

    def _start(self, prepared: Mapping[str, tuple[Site, Prepared]]) -> None:
        """Launch everywhere; the first platform that refuses fails the run, and sites after it are not started."""
        failed: SitewardError | None = None
        for name, (site, each) in prepared.items():
            if failed is not None:
                each.cancel()
                continue
            try:
                self.handles[name] = site.start(each)
            except SitewardError as error:
                if not self.handles:
                    self._cancel_others(name, prepared)
                    raise
                failed = error
                self._sites = (name,)
        self._sites = (*self._sites, *self.handles)
        if failed is not None:
            self._site_ended(self._sites[0], _never_started(self.job, self._sites[0], failed))
        for handle in list(self.handles.values()):
            handle.on_done(partial(self._ended, handle))

    def _cancel_others(self, name: str, prepared: Mapping[str, tuple[Site, Prepared]]) -> None:
        for other, (_site, each) in prepared.items():
            if other != name:
                each.cancel()

    def _ended(self, handle: Handle) -> None:
        try:
            result = handle.wait(0)
        except Exception as error:
            self._error = error
            self._done.set()
            return
        self._site_ended(handle.site, result)


def _never_started(job: Job, site: str, error: SitewardError) -> Result:
    result = ended(reason=Reason.LAUNCH_FAILED, message=str(error))
    code = int(result.return_code)
    report = FailureReport(
        site=site,
        job_id=job.id,
        backend="",
        code=code,
        reason=result.reason.value,
        message=str(error),
        reportable=True,
    )
    return evolve(result, report=report)


def run(
    job: Job,
    sites: Sequence[Site],
    *,
    wait_resources: float = 0.0,
    on_wait: Callable[[Mapping[str, str]], object] = lambda _reasons: None,
    sleep: Callable[[float], object] = time.sleep,
) -> Run:
    """Start a job at the sites that both it and the caller name; return at once.

    Every site is asked first; unless ``min_sites`` (default: all of them) and the lead can start it, it starts
    nowhere. Where only resources are missing for the moment it is tried again for ``wait_resources`` seconds
    (``on_wait`` hears each site's reason in words), and then the verdict is REFUSED, at once if no wait can help;
    ``sleep`` waits between the tries, and may give up by raising. FileError when names do not fit; the site's own
    LaunchError when it cannot start the job for another reason (of several sites: OptionsRefused with all
    problems, or a LaunchError with all words).
    """
    found = schedule(job, sites, wait_resources=wait_resources, on_wait=on_wait, sleep=sleep)
    result = Run(job, found.words)
    if found.refusal is not None:
        return result._refuse(found.refusal)
    result._start(found.prepared)
    return result
