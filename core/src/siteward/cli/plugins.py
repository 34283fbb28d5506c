"""Commands about what is installed: ``plugins`` and ``schema``. They open no site and import no platform client."""

from __future__ import annotations

import click

from siteward.cli.options import json_option
from siteward.cli.output import emit, print_table, say
from siteward.config import nearest
from siteward.errors import PluginError, sentences
from siteward.plugins import BACKENDS, GLOBAL, RESOURCES, Plugins

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
@click.argument("subject", metavar="{job,site,BACKEND,PLUGIN}")
def schema_command(subject: str) -> None:
    """Print the JSON Schema of job files, of site files, or of a backend's or another plugin's options.

    A backend has three: what a job may ask, what the site sets, and what a study of the site adds. Resource managers
    and plugins that act on every job have one, what the site sets.
    """
    from siteward.schema import backend_schema, job_schema, plugin_schema, site_schema

    if subject in _FILES:
        emit(job_schema() if subject == "job" else site_schema())
        return
    plugins = Plugins()
    try:
        if subject not in plugins.names(BACKENDS) and subject in plugins.names(RESOURCES):
            emit(plugin_schema(plugins.resource_manager(subject)))
        elif subject not in plugins.names(BACKENDS) and subject in plugins.names(GLOBAL):
            emit(plugin_schema(plugins.global_plugin(subject)))
        else:
            emit(backend_schema(plugins.backend(subject)))
    except PluginError as error:
        close = nearest(subject, _FILES)
        hint = f"Did you mean {close!r}?" if close else f"For the files, say {' or '.join(_FILES)}"
        raise PluginError(subject, sentences(str(error), hint)) from error
