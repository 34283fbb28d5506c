"""What the benchmarks share: contenders side by side, medians and ratios over rounds, folders, CPU and memory."""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

Figures = dict[str, dict[str, dict[str, float]]]


def installed(makers: Iterable[Callable[[], Any]]) -> Iterator[Any]:
    """Make every contender that is installed; the others are named on stderr."""
    for make in makers:
        try:
            yield make()
        except ImportError as error:
            print(f"left out: {error.name} is not installed", file=sys.stderr)


def side_by_side(every: list[Any], measures: Iterable[Callable[[Any], Mapping[str, float]]], rounds: int) -> Figures:
    """Take each measure of all contenders in turn, round by round, so that each sees the same machine.

    Figures by what was measured and contender: the ``median`` over rounds, and the median of the rounds' own
    ``ratio`` to, and ``difference`` from, the first contender; ``least`` and ``most`` are of the ratios.
    """
    figures: dict[str, dict[str, list[float]]] = {}
    for _ in range(rounds):
        for measure in measures:
            for each in every:
                for what, value in measure(each).items():
                    figures.setdefault(what, {}).setdefault(each.name, []).append(value)
    raw = every[0].name
    return {
        what: {name: _against(values, by_name[raw]) for name, values in by_name.items()}
        for what, by_name in figures.items()
    }


def _against(values: list[float], raw: list[float]) -> dict[str, float]:
    ratios = [a / b if b else float("nan") for a, b in zip(values, raw, strict=True)]
    return {
        "median": statistics.median(values),
        "ratio": statistics.median(ratios),
        "least": min(ratios),
        "most": max(ratios),
        "difference": statistics.median(a - b for a, b in zip(values, raw, strict=True)),
    }


def cpu_and_memory(processes: Iterable[psutil.Process]) -> tuple[float, int]:
    """Return CPU seconds so far and resident bytes, summed."""
    every = list(processes)
    times = [process.cpu_times() for process in every]
    return sum(each.user + each.system for each in times), sum(each.memory_info().rss for each in every)


def idle_cpu(cpu_seconds: Callable[[], float], seconds: float) -> float:
    """Return per cent of one core that is used while nothing happens; ``cpu_seconds()`` is the CPU time so far."""
    before = cpu_seconds()
    time.sleep(seconds)
    return 100 * (cpu_seconds() - before) / seconds


@contextmanager
def scratch() -> Iterator[Path]:
    """Give a folder that is removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="siteward-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def print_json(figures: Mapping[str, Any], file: Path | None) -> None:
    """Print figures as one line of JSON, and write them to a file if there is one."""
    if file is not None:
        file.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures))
