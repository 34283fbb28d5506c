"""One job across several sites, with one verdict.

The first site whose end fails or stops the run is the cause, and ends the other sites' jobs; a site ended by
the run is never a cause.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from functools import partial

from attrs import evolve, frozen

from siteward.ends import JobState, Reason, Result, ReturnCode, ended
from siteward.errors import FileError, LaunchError, OptionsRefused, Problem, ResourcesRefused, SitewardError
from siteward.failures import Disposition, FailureReport, disposition
from siteward.handle import Handle
from siteward.job import Job
from siteward.launching import Prepared
from siteward.site import Site

_log = logging.getLogger("siteward")
_WORST_FIRST = (101, 103, 104, 102, 9, 1)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0


class Verdict(StrEnum):
    """How a run ended."""

    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    STOPPED = "STOPPED"
    ABORTED = "ABORTED"
    REFUSED = "REFUSED"


@frozen(kw_only=True)
class Judgement:
    """A verdict with the wire code, the site that caused it (None: none did), and words."""

    verdict: Verdict
    code: int
    cause: str | None = None
    message: str = ""


def judge(
    results: Mapping[str, Result], *, cause: str | None = None, aborted: bool = False, lead: str | None = None
) -> Judgement:
    """Return a run's verdict; pure. ``cause`` is the first site whose (filtered) report failed or stopped the run.

    In this order: the cause's disposition; an abort of the whole run; the lead's own end; all succeeded; the
    worst code (101, 103, 104, 102, 9, 1, then others).
    """
    if cause is not None:
        result = results[cause]
        code = int(result.report.code if result.report is not None else result.return_code)
        verdict = Verdict.STOPPED if disposition(code) is Disposition.STOP_RUN else Verdict.FAILED
        return Judgement(verdict=verdict, code=code, cause=cause, message=_words(cause, result))
    if aborted:
        return Judgement(verdict=Verdict.ABORTED, code=int(ReturnCode.ABORTED), message="the run was ended on request")
    if lead is not None and lead in results:
        result = results[lead]
        good = result.state is JobState.SUCCEEDED
        verdict = Verdict.SUCCEEDED if good else Verdict.FAILED
        return Judgement(
            verdict=verdict,
            code=int(result.return_code),
            cause=None if good else lead,
            message=_words(lead, result),
        )
    failed = [site for site, result in results.items() if result.state is not JobState.SUCCEEDED]
    if not failed:
        return Judgement(verdict=Verdict.SUCCEEDED, code=0, message=f"all {len(results)} sites succeeded")
    worst = min(failed, key=lambda site: _badness(results[site].return_code))
    result = results[worst]
    return Judgement(verdict=Verdict.FAILED, code=int(result.return_code), cause=worst, message=_words(worst, result))


def _badness(code: int) -> int:
    return _WORST_FIRST.index(code) if code in _WORST_FIRST else len(_WORST_FIRST)


def _words(site: str, result: Result) -> str:
    return f"{site}: {result.state.value} ({result.reason.value}): {result.message}"


def is_cause(result: Result) -> bool:
    """Whether a site's end concerns the whole run: reported (filters may change that), and not to be ignored."""
    report = result.report
    return report is not None and report.reportable and disposition(report.code) is not Disposition.IGNORE


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
        with self._lock:
            if site in self.results:
                return
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
    nowhere. Where only resources are missing it is tried again for ``wait_resources`` seconds (``on_wait`` hears
    each site's reason in words), and then the verdict is REFUSED; ``sleep`` waits between the tries, and may give
    up by raising. FileError when names do not fit; the site's own LaunchError when it cannot start the job for
    another reason (of several sites: OptionsRefused with all problems, or a LaunchError with all words).
    """
    chosen = _chosen(job, sites)
    give_up, pause = time.monotonic() + wait_resources, _FIRST_PAUSE
    while True:
        prepared, refused, errors = _ask(job, chosen)
        needed = job.min_sites if job.min_sites is not None else len(chosen)
        lead_missing = job.lead in chosen and job.lead not in prepared
        if len(prepared) >= needed and not lead_missing:
            break
        for _site, each in prepared.values():
            each.cancel()
        if errors:
            raise _all_of(errors)
        left = give_up - time.monotonic()
        if left <= 0:
            words = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
            return Run(job, refused)._refuse(f"{len(prepared)} of {needed} sites can start it. {words}")
        on_wait(refused)
        sleep(min(pause, left))
        pause = min(pause * 2, _LONGEST_PAUSE)
    result = Run(job, {**refused, **{name: str(error) for name, error in errors.items()}})
    result._start(prepared)
    return result


def _all_of(errors: Mapping[str, SitewardError]) -> SitewardError:
    each = list(errors.values())
    if len(each) == 1:
        return each[0]
    if all(isinstance(error, OptionsRefused) for error in each):
        return OptionsRefused(problem for error in each for problem in getattr(error, "problems", ()))
    return LaunchError("\n".join(f"site {name!r}: {error}" for name, error in errors.items()))


def _chosen(job: Job, sites: Sequence[Site]) -> dict[str, Site]:
    given = {site.name: site for site in sites}
    problems = []
    if len(given) < len(sites):
        problems.append(Problem("", "two of the site files given have the same name"))
    chosen = {name: given[name] for name in (job.sites or given) if name in given}
    if not chosen:
        words = f"none of its sites was given; it runs at {', '.join(job.sites or ())}, given: {', '.join(given)}"
        problems.append(Problem("sites", words))
    elif job.min_sites is not None and job.min_sites > len(chosen):
        problems.append(Problem("min_sites", f"{job.min_sites} sites are needed, {len(chosen)} given"))
    if problems:
        raise FileError(job.name, problems)
    return chosen


def _ask(
    job: Job, chosen: Mapping[str, Site]
) -> tuple[dict[str, tuple[Site, Prepared]], dict[str, str], dict[str, SitewardError]]:
    prepared: dict[str, tuple[Site, Prepared]] = {}
    refused: dict[str, str] = {}
    errors: dict[str, SitewardError] = {}
    for name, site in chosen.items():
        try:
            prepared[name] = (site, site.prepare(job))
        except ResourcesRefused as error:
            refused[name] = error.refusal.message
        except SitewardError as error:
            errors[name] = error
    return prepared, refused, errors
