"""Commands that look at jobs: ``ps``, ``status``, ``events``. They only read, and need no backend to work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from siteward.cli.documents import PS_COLUMNS, listing, row_document, words_of
from siteward.cli.options import id_argument, json_option, show_log, site_option
from siteward.cli.output import age, clock, coloured, emit, one_line, print_table, say, visible
from siteward.records import Records
from siteward.sitefile import SiteFile
from siteward.store import JobRow


@click.command("ps")
@click.option("--all", "show_all", is_flag=True, help="Ended jobs too.")
@click.option("--platform", is_flag=True, help="Ask the backends' platforms what they run for this site.")
@site_option
@json_option
def ps_command(show_all: bool, platform: bool, site_file: Path, as_json: bool) -> None:
    """List the site's jobs that have not ended."""
    if platform:
        _ps_platform(site_file, as_json)
        return
    file = SiteFile.load(site_file)
    with closing(Records.of(file)) as records:
        jobs = [listing(file.name, row, driven=records.is_driven(row)) for row in records.jobs(ended=show_all)]
    if as_json:
        emit(jobs)
    elif jobs:
        rows = [[age(job[name]) if name == "age" else job[name] for name in PS_COLUMNS] for job in jobs]
        print_table([name.replace("_", " ") for name in PS_COLUMNS], rows)
    else:
        say(f"site {file.name!r} has no jobs" if show_all else f"no jobs run at site {file.name!r}; --all lists all")


def _ps_platform(site_file: Path, as_json: bool) -> None:
    from siteward.site import Site

    show_log()
    with Site.load(site_file, adopt=False) as site:
        states = {row.job_id: row.state.value for row in site.jobs()}
        jobs: list[dict[str, Any]] = [
            {"job_id": ref.job_id, "backend": ref.backend, "attempt": ref.attempt, "state": states.get(ref.job_id)}
            for ref in site.platform_jobs()
        ]
    if as_json:
        emit(jobs)
    elif jobs:
        rows = [[*list(job.values())[:3], job["state"] or "not in the site's store"] for job in jobs]
        print_table(["job id", "backend", "attempt", "state"], rows)
    else:
        say(f"the platforms of site {site.name!r} list no jobs")


@click.command("status")
@id_argument
@site_option
@json_option
def status_command(job_id: str, site_file: Path, as_json: bool) -> None:
    """Show one job: its state and, once it has ended, how."""
    file = SiteFile.load(site_file)
    with closing(Records.of(file)) as records:
        row = records.row(job_id)
        driven = records.is_driven(row)
    if as_json:
        emit(row_document(file.name, row))
        return
    facts = [(label, text) for label, text in _facts(file.name, row, driven) if text]
    for label, text in facts:
        click.echo(f"{label:<10} {coloured(one_line(text))}")
    if row.result is not None and row.result.log_tail and row.result.return_code != 0:
        click.echo("last lines of its output:")
        for line in row.result.log_tail.splitlines()[-10:]:
            click.echo(f"  {visible(line.encode())}")


def _facts(site: str, row: JobRow, driven: bool) -> Iterator[tuple[str, str]]:
    yield "job", row.job_id
    yield "site", site
    yield "backend", row.backend
    yield "state", row.state.value
    result = row.result
    if result is not None:
        yield "reason", result.reason.value
        exit_code = "" if result.exit_code is None else f" (exit code {result.exit_code})"
        yield "code", f"{int(result.return_code)}{exit_code}"
    yield "message", words_of(row, driven=driven)
    yield "created", clock(row.created_at)
    yield "started", clock(row.started_at)
    yield "ended", clock(row.ended_at)
    if row.started_at is not None:
        yield "ran", age((row.ended_at or time.time()) - row.started_at)
    if result is None:
        return
    yield "workspace", result.workspace
    if result.usage is not None:
        seconds, memory = result.usage.cpu_seconds, result.usage.peak_memory
        used = [f"{seconds:.2f} CPU seconds"] if seconds is not None else []
        used += [f"{memory / 2**20:.1f} MiB of memory at most"] if memory is not None else []
        yield "used", ", ".join(used)


@click.command("events")
@id_argument
@site_option
@json_option
def events_command(job_id: str, site_file: Path, as_json: bool) -> None:
    """Show what happened to a job, in words: why is it pending, why did it end."""
    with closing(Records.of(SiteFile.load(site_file))) as records:
        events = records.events(job_id)
    if as_json:
        emit([{"at": event.at, "kind": event.kind, "message": event.message} for event in events])
    else:
        print_table(["time", "event", "message"], [[clock(e.at), e.kind, e.message] for e in events])
