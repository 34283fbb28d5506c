"""Options and arguments that several commands share, and how a site is opened for them."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from siteward.cli.output import one_line, say

F = TypeVar("F", bound=Callable[..., Any])
SITE_VARIABLE = "SITEWARD_SITE_FILE"
_PATH = click.Path(path_type=Path)


class Seconds(click.FloatRange):
    """A number of seconds, 0 or more."""

    def __init__(self) -> None:
        super().__init__(min=0)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read what was typed; a usage error that says what is expected."""
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not (math.isfinite(seconds) and seconds >= 0):
            self.fail(f"expected a number of seconds, 0 or more, got {value!r}", param, ctx)
        return seconds


site_option = click.option(
    "--site",
    "site_file",
    metavar="FILE",
    type=_PATH,
    envvar=SITE_VARIABLE,
    show_envvar=True,
    required=True,
    help="The site's file.",
)
maybe_site_option = click.option(
    "--site", "site_file", metavar="FILE", type=_PATH, envvar=SITE_VARIABLE, show_envvar=True, help="The site's file."
)
sites_option = click.option(
    "--site",
    "site_files",
    metavar="FILE",
    type=_PATH,
    envvar=SITE_VARIABLE,
    show_envvar=True,
    required=True,
    multiple=True,
    help="A site's file; give it once for each site (in the variable: separated by colons).",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
job_argument = click.argument("job_file", metavar="JOB", type=_PATH)
id_argument = click.argument("job_id", metavar="ID")


class _Words(logging.Handler):
    """Tells people what the pieces of siteward log; one line each, no traceback unless asked for."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__(logging.DEBUG if _debugging() else logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        """Say one record."""
        words = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            words += f" ({type(error).__name__}: {error})"
        self._tell(self.format(record) if _debugging() else one_line(words))


def _debugging() -> bool:
    return os.environ.get("SITEWARD_DEBUG") == "1"


def show_log(tell: Callable[[str], None] = say) -> None:
    """Let warnings of siteward and its plugins reach people through ``tell``; everything with SITEWARD_DEBUG=1."""
    logger = logging.getLogger("siteward")
    logger.handlers = [_Words(tell)]
    logger.propagate = False
    logger.setLevel(logging.DEBUG if _debugging() else logging.WARNING)
