"""Whether a run may start: every site is asked, and unless enough of them can, it starts nowhere."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum

from attrs import Factory, frozen

from siteward.errors import FileError, LaunchError, OptionsRefused, Problem, ResourcesRefused, SitewardError
from siteward.job import Job
from siteward.launching import Prepared
from siteward.resources import Refusal
from siteward.site import Site

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0


class Outlook(Enum):
    """What a run can do with its sites' answers."""

    START = "start"
    WAIT = "wait"
    HOPELESS = "hopeless"


def outlook(ready: Collection[str], refused: Mapping[str, Refusal], *, needed: int, lead: str | None = None) -> Outlook:
    """Say whether enough sites, the lead among them, can start now or could after a wait; pure.

    Whoever is neither ready nor refused for the moment never can: permanent refusals and other errors.
    """

    def enough(sites: Collection[str]) -> bool:
        return len(sites) >= needed and (lead is None or lead in sites)

    if enough(ready):
        return Outlook.START
    hopeful = {*ready, *(name for name, refusal in refused.items() if not refusal.permanent)}
    return Outlook.WAIT if enough(hopeful) else Outlook.HOPELESS


@frozen(kw_only=True)
class Answers:
    """What the sites said, each by its name: yes with a reservation, no for want of resources, or an error."""

    prepared: dict[str, tuple[Site, Prepared]] = Factory(dict)
    refused: dict[str, Refusal] = Factory(dict)
    errors: dict[str, SitewardError] = Factory(dict)

    @property
    def words(self) -> dict[str, str]:
        """The reason of each site that cannot start it, in words."""
        reasons = {name: refusal.message for name, refusal in self.refused.items()}
        return {**reasons, **{name: str(error) for name, error in self.errors.items()}}

    def cancel(self) -> None:
        """Give every reservation back."""
        for _site, each in self.prepared.values():
            each.cancel()


@frozen(kw_only=True)
class Schedule:
    """The outcome: the sites that start it and the words of those that do not; ``refusal`` says why none starts."""

    prepared: Mapping[str, tuple[Site, Prepared]]
    words: Mapping[str, str]
    refusal: str | None = None


def schedule(
    job: Job,
    sites: Sequence[Site],
    *,
    wait_resources: float,
    on_wait: Callable[[Mapping[str, str]], object],
    sleep: Callable[[float], object],
) -> Schedule:
    """Ask every site, again and again for ``wait_resources`` seconds while a wait can help; start nothing.

    The pauses grow, and differ from one run to another: two runs that each hold half of what both need would
    get into each other's way for ever. Raises as :func:`siteward.run` does.
    """
    chosen = choose_sites(job, sites)
    needed = job.min_sites if job.min_sites is not None else len(chosen)
    lead = job.lead if job.lead in chosen else None
    give_up, pause = time.monotonic() + wait_resources, _FIRST_PAUSE
    while True:
        answers = ask(job, chosen)
        found = outlook(answers.prepared, answers.refused, needed=needed, lead=lead)
        if found is Outlook.START:
            return Schedule(prepared=answers.prepared, words=answers.words)
        answers.cancel()
        if found is Outlook.HOPELESS and answers.errors:
            raise _all_of(answers.errors)
        left = give_up - time.monotonic()
        if found is Outlook.HOPELESS or left <= 0:
            hint = ", and waiting cannot change that" if found is Outlook.HOPELESS and wait_resources else ""
            return Schedule(prepared={}, words=answers.words, refusal=_refusal(answers, needed, lead, hint))
        on_wait(answers.words)
        sleep(min(pause * random.uniform(0.5, 1.0), left))  # noqa: S311
        pause = min(pause * 2, _LONGEST_PAUSE)


def ask(job: Job, chosen: Mapping[str, Site]) -> Answers:
    """Ask each site; what was reserved is given back when asking is interrupted."""
    answers = Answers()
    try:
        for name, site in chosen.items():
            try:
                answers.prepared[name] = (site, site.prepare(job))
            except ResourcesRefused as error:
                answers.refused[name] = error.refusal
            except SitewardError as error:
                answers.errors[name] = error
    except BaseException:
        answers.cancel()
        raise
    return answers


def choose_sites(job: Job, sites: Sequence[Site]) -> dict[str, Site]:
    """Return the sites that both the job and the caller name, in the job's order; FileError if they do not fit."""
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


def _refusal(answers: Answers, needed: int, lead: str | None, hint: str) -> str:
    able = len(answers.prepared)
    count = f"{able} of {needed} sites can start it"
    if able >= needed:
        count = f"its lead {lead!r} cannot start it"
    reasons = "; ".join(f"{name}: {words}" for name, words in answers.words.items())
    return f"{count}{hint}. {reasons}"


def _all_of(errors: Mapping[str, SitewardError]) -> SitewardError:
    each = list(errors.values())
    if len(each) == 1:
        return each[0]
    if all(isinstance(error, OptionsRefused) for error in each):
        return OptionsRefused(problem for error in each for problem in getattr(error, "problems", ()))
    return LaunchError("\n".join(f"site {name!r}: {error}" for name, error in errors.items()))
