"""The kit's report: one line for every promise of every backend under test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from siteward.testing.promises import promises_of, words_of

PROPERTY = "siteward-promise"
VERDICTS = (CHECKED, DEVIATION, NOT_APPLICABLE, NOT_RUN, FAILED) = (
    "checked",
    "deviation",
    "not applicable",
    "not run",
    "FAILED",
)


class Report:
    """Collects outcomes by contract class and promise."""

    def __init__(self) -> None:
        self._contracts: dict[str, type] = {}
        self._backends: dict[str, str] = {}
        self._outcomes: dict[tuple[str, str], tuple[str, str]] = {}

    def expect(self, contract: type) -> None:
        """Every promise of this class belongs into the report, run or not."""
        self._contracts[contract.__name__] = contract

    def add(self, outcome: str, report: Any) -> None:
        """Take one of pytest's reports, if it is about a promise."""
        promise = dict(getattr(report, "user_properties", ())).get(PROPERTY)
        if promise is None:
            return
        contract, backend, name = promise
        self._backends[contract] = backend
        if report.when == "call" or outcome in ("failed", "error", NOT_APPLICABLE):
            verdict = _verdict(outcome, report)
            if verdict and self._outcomes.get((contract, name), ("",))[0] != FAILED:
                self._outcomes[contract, name] = verdict

    def sections(self) -> Iterator[tuple[str, list[str]]]:
        """Yield a title and the lines of each contract class."""
        for key, contract in self._contracts.items():
            lines, counts = [], Counter[str]()
            for name, test in promises_of(contract).items():
                verdict, reason = self._outcomes.get((key, name), (NOT_RUN, "deselected, or the session ended early"))
                counts[verdict] += 1
                lines.append(f"{verdict:<16}{words_of(test)}{f' ({reason})' if reason else ''}")
            totals = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])
            yield f"contract of backend {self._backends.get(key, '?')!r} ({key}): {totals}", lines


def _verdict(outcome: str, report: Any) -> tuple[str, str] | None:
    if outcome == "passed":
        return CHECKED, ""
    if outcome in ("failed", "error"):
        return FAILED, report.nodeid if outcome == "failed" else f"error in {report.when}"
    if outcome == "xfailed":
        return DEVIATION, getattr(report, "wasxfail", "")
    if outcome == NOT_APPLICABLE:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        return NOT_APPLICABLE, reason.removeprefix("Skipped: ")
    return None
