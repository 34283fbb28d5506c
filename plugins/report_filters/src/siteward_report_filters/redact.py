"""Filter ``redact``: what is nobody else's business is taken out of the texts of a failure report."""

from __future__ import annotations

import re

import attrs
from attrs import field, frozen

from siteward import Context, FailureReport, Problem, hookimpl
from siteward_report_filters.hiding import hide_e_mails, hide_paths, hide_patterns, hide_secrets


def _check_patterns(patterns: tuple[str, ...]) -> list[Problem] | None:
    problems = []
    for number, pattern in enumerate(patterns):
        try:
            if re.compile(pattern).match(""):
                problems.append(Problem(f"[{number}]", "matches the empty text; say more of what is to be hidden"))
        except re.error as error:
            problems.append(Problem(f"[{number}]", f"is not a regular expression: {error}"))
    return problems or None


class Redact:
    """Takes secrets, paths, e-mail addresses and what the site's own patterns match out of message and log."""

    api = 1

    @frozen(kw_only=True)
    class SiteOptions:
        """What the site wants hidden."""

        patterns: tuple[str, ...] = field(
            default=(), metadata={"help": "regular expressions of what else is hidden", "check": _check_patterns}
        )
        secrets: bool = field(default=True, metadata={"help": "the values of all `job_secrets` of the site"})
        paths: bool = field(default=True, metadata={"help": "absolute paths"})
        e_mails: bool = field(default=True, metadata={"help": "e-mail addresses, and logins in web addresses"})

    def __init__(self, context: Context, options: Redact.SiteOptions) -> None:
        self._context = context
        self._options = options
        self._patterns = [re.compile(pattern) for pattern in options.patterns]

    @hookimpl
    def siteward_filter_failure_report(self, report: FailureReport) -> FailureReport:
        """Hide it all; a secret that cannot be read cannot be hidden, and then no text leaves the site."""
        secrets = []
        for name in self._context.secret_names if self._options.secrets else ():
            try:
                secrets.append(self._context.read_secret(name))
            except ValueError as error:
                self._context.log.warning("job %s: its report goes without texts: %s", report.job_id, error)
                words = f"withheld: the secret {name!r} cannot be read, so that it cannot be hidden"
                return attrs.evolve(report, message=words, log_tail="")
        return attrs.evolve(
            report, message=self._hide(report.message, secrets), log_tail=self._hide(report.log_tail, secrets, cut=True)
        )

    def _hide(self, text: str, secrets: list[str], *, cut: bool = False) -> str:
        # Secrets first: what other rules would leave of one could not be recognised any more.
        text = hide_patterns(hide_secrets(text, secrets, cut=cut), self._patterns)
        if self._options.e_mails:
            text = hide_e_mails(text)
        return hide_paths(text) if self._options.paths else text
