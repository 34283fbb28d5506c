"""Commands about one site: ``render``, ``gc``, ``resources``, ``doctor``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import click
import yaml

from siteward.cli.options import job_argument, json_option, maybe_site_option, show_log, site_option
from siteward.cli.output import emit, print_table, say
from siteward.errors import FileError, OptionsRefused, SitewardError
from siteward.job import Job
from siteward.plugins import BACKENDS, Plugins
from siteward.request import Finding
from siteward.site import Site
from siteward.sitefile import SiteFile


@click.command("render")
@job_argument
@site_option
@json_option
def render_command(job_file: Path, site_file: Path, as_json: bool) -> None:
    """Print what would be submitted for a job at this site, secrets masked; nothing is started."""
    show_log()
    job = Job.load(job_file)
    with Site.load(site_file, adopt=False) as site:
        try:
            rendered = _plain(site.render(job))
        except OptionsRefused as error:
            raise FileError(str(job_file), error.problems) from error
    if as_json:
        emit(rendered)
    elif isinstance(rendered, str):
        click.echo(rendered)
    else:
        click.echo(yaml.safe_dump(rendered, sort_keys=False, allow_unicode=True).rstrip())


def _plain(value: Any) -> Any:
    """Return what a backend rendered as JSON data; what JSON does not know as its text."""
    if attrs.has(type(value)):
        value = attrs.asdict(value)
    return value if isinstance(value, str) else json.loads(json.dumps(value, default=str))


@click.command("gc")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option("--running", is_flag=True, help="End and remove also running jobs that the site's store does not know.")
@site_option
@json_option
def gc_command(dry_run: bool, running: bool, site_file: Path, as_json: bool) -> None:
    """Remove old jobs (the site file's `keep`), jobs on platforms that the site does not know, and stray folders."""
    show_log()
    with Site.load(site_file, adopt=not dry_run) as site:
        garbage = [attrs.asdict(each) for each in site.gc(dry_run=dry_run, running=running)]
    if as_json:
        emit(garbage)
    elif garbage:
        print_table(["kind", "job id", "reason"], [list(each.values()) for each in garbage])
        say("nothing was removed: this was a dry run" if dry_run else f"removed {len(garbage)}")
    else:
        say("there is nothing to remove")


@click.command("resources")
@site_option
@json_option
def resources_command(site_file: Path, as_json: bool) -> None:
    """Show what the site's resource manager has, and who holds it."""
    show_log()
    with Site.load(site_file, adopt=False) as site:
        report = site.resources()
    if as_json:
        emit(report)
    elif report:
        print_table(["resource", "value"], list(_flat(report)))
    else:
        say(f"site {site.name!r} has no resource manager: every job's resource_spec is accepted as it is")


def _flat(report: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in report.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, default=str)


@click.command("doctor")
@maybe_site_option
@json_option
def doctor_command(site_file: Path | None, as_json: bool) -> int:
    """Check every plugin and, with --site, the site and its platforms; exit code 1 if something fails."""
    show_log()
    plugins = Plugins()
    file = SiteFile.load(site_file) if site_file is not None else None
    findings = [*_plugin_findings(plugins), *(_site_findings(file, plugins) if file is not None else [])]
    if as_json:
        emit([attrs.asdict(finding) for finding in findings])
    else:
        rows = [[f.level, f.subject, f.words] for f in findings]
        print_table(["level", "subject", "finding"], rows)
    return 1 if any(finding.level == "fail" for finding in findings) else 0


def _plugin_findings(plugins: Plugins) -> Iterator[Finding]:
    records = plugins.records()
    for record in records:
        subject = f"{record.group.removeprefix('siteward.')}/{record.name}"
        if record.status == "broken":
            remedy = f"Repair, upgrade or uninstall {record.origin}"
            yield Finding(level="fail", subject=subject, message=f"{record.origin}: {record.reason}", remedy=remedy)
        else:
            words = record.reason or record.status
            yield Finding(level="ok", subject=subject, message=f"{record.origin}: {words}")
    if not any(record.group == BACKENDS and record.status == "loaded" for record in records):
        remedy = "Install one, such as siteward-process"
        yield Finding(level="warn", subject="backends", message="no backend can be used", remedy=remedy)


def _site_findings(file: SiteFile, plugins: Plugins) -> list[Finding]:
    try:
        with Site(file, plugins=plugins, adopt=False) as site:
            return site.doctor()
    except FileError as error:
        remedy = f"Correct {error.file}"
        return [Finding(level="fail", subject="site", message=str(each), remedy=remedy) for each in error.problems]
    except SitewardError as error:
        return [Finding(level="fail", subject="site", message=str(error))]
