"""Commands about what is installed: ``plugins`` and ``schema``. They open no site and import no platform client."""

from __future__ import annotations

import click

from siteward.cli.options import json_option
from siteward.cli.output import emit, print_table, say
from siteward.config import nearest
from siteward.errors import PluginError
from siteward.plugins import Plugins

_FILES = ("job", "site")


@click.command("plugins")
@json_option
def plugins_command(as_json: bool) -> None:
    """List every plugin of this Python environment, broken ones with the reason.

    Each is loaded, by itself, to see whether it can be.
    """
    columns = ("group", "name", "distribution", "version", "status", "reason")
    rows = [{name: getattr(record, name) for name in columns} for record in Plugins().records()]
    if as_json:
        emit(rows)
    elif rows:
        print_table(columns, [list(row.values()) for row in rows])
    else:
        say("no plugins are installed; siteward-process is the backend for local processes")


@click.command("schema")
@click.argument("subject", metavar="{job,site,BACKEND}")
def schema_command(subject: str) -> None:
    """Print the JSON Schema of job files, of site files, or of a backend's options.

    A backend has three: what a job may ask, what the site sets, and what a study of the site adds.
    """
    from siteward.schema import backend_schema, job_schema, site_schema

    if subject in _FILES:
        emit(job_schema() if subject == "job" else site_schema())
        return
    try:
        emit(backend_schema(Plugins().backend(subject)))
    except PluginError as error:
        close = nearest(subject, _FILES)
        hint = f"Did you mean {close!r}?" if close else f"For the files, say {' or '.join(_FILES)}"
        raise PluginError(subject, f"{error}. {hint}") from error
