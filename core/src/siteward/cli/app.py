"""The ``siteward`` command itself: finds its commands, and turns whatever they raise into words and an exit code."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any, NoReturn

import click

import siteward
from siteward.cli.output import error_lines, hush, open_streams, say
from siteward.errors import SitewardError

DEBUG_VARIABLE = "SITEWARD_DEBUG"
USAGE, UNEXPECTED, INTERRUPTED, BROKEN_PIPE = 2, 70, 130, 141
_COMMANDS = {
    "run": "run",
    "render": "site",
    "ps": "jobs",
    "status": "jobs",
    "events": "jobs",
    "logs": "following",
    "wait": "following",
    "stop": "following",
    "gc": "site",
    "resources": "site",
    "plugins": "plugins",
    "doctor": "site",
    "schema": "plugins",
}


class Application(click.Group):
    """A group whose commands return their exit code (None: 0) and raise SitewardError for what a user can mend."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands' names, in the order of a job's way."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"siteward.cli.{_COMMANDS[cmd_name]}"), f"{cmd_name}_command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; a usage error with the near miss when there is none."""
        name = args[0]
        if name not in _COMMANDS and not name.startswith("-"):
            from siteward.config import nearest

            close = nearest(name, _COMMANDS)
            hint = f"Did you mean {close!r}?" if close else f"Choose one of {', '.join(_COMMANDS)}."
            ctx.fail(f"there is no command {name!r}. {hint}")
        return super().resolve_command(ctx, args)

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run, and exit; say what went wrong in words: exit code 2 for a user's mistake, 70 for one of ours."""
        open_streams()
        try:
            return super().main(*args, **extra)
        except Exception as error:
            lines, code = failure(error)
            for line in lines:
                say(line)
            sys.exit(code)

    def invoke(self, ctx: click.Context) -> NoReturn:
        """Run the command and exit with its code."""
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        try:
            code = super().invoke(ctx) or 0
            sys.stdout.flush()
        except (click.exceptions.Exit, click.ClickException, click.Abort):
            raise
        except BrokenPipeError:
            hush(sys.stdout)
            code = BROKEN_PIPE
        except KeyboardInterrupt:
            say("interrupted")
            code = INTERRUPTED
        ctx.exit(code)


def failure(error: Exception) -> tuple[list[str], int]:
    """Return what to tell the user of an error, and the exit code. With SITEWARD_DEBUG=1 the traceback is told too."""
    lines = []
    if os.environ.get(DEBUG_VARIABLE) == "1":
        import traceback

        lines += traceback.format_exception(error)
    if isinstance(error, SitewardError):
        return [*lines, *error_lines(error)], USAGE
    words = f"unexpected {type(error).__name__}: {error or 'no words'}"
    hint = "" if lines else f" (set {DEBUG_VARIABLE}=1 to see where)"
    return [*lines, f"{words}{hint}"], UNEXPECTED


@click.group(cls=Application, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(siteward.__version__, prog_name="siteward")
def main(**_: Any) -> None:
    """Launch, watch and account for one job per site, on whatever each site runs.

    Exit codes: 0; 2 for a wrong command line, a wrong file or an unknown id; `run` and `wait` give the verdict's or
    the job's own code: 1 error, 9 aborted, 101 exception, 102 unsafe, 103 configuration, 104 infrastructure.
    """
