"""Commands that deal with one job, whoever drives it: ``logs``, ``wait``, ``stop``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from siteward.cli.documents import row_document
from siteward.cli.options import Seconds, id_argument, json_option, show_log, site_option
from siteward.cli.output import coloured, emit, is_live, one_line, say, visible
from siteward.ends import JobState, Result
from siteward.site import Site

# How much longer than its grace a job may take to be seen as ended before `stop` leaves it to its driver.
_PATIENCE = 20.0


@click.command("logs")
@id_argument
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended.")
@click.option("--tail", metavar="N", type=click.IntRange(min=0), help="Begin N lines before the end.")
@site_option
def logs_command(job_id: str, follow: bool, tail: int | None, site_file: Path) -> None:
    """Print a job's output, standard output and standard error together."""
    show_log()
    on_terminal = is_live(sys.stdout)
    with Site.load(site_file, adopt=False) as site:
        for line in site.attach(job_id).logs(follow=follow, tail=tail):
            if on_terminal:
                click.echo(visible(line))
            else:
                sys.stdout.buffer.write(line)
                if follow:
                    sys.stdout.buffer.flush()
        sys.stdout.buffer.flush()


@click.command("wait")
@id_argument
@site_option
@json_option
def wait_command(job_id: str, site_file: Path, as_json: bool) -> int:
    """Wait until a job has ended; the exit code is the job's return code.

    Should the process that drives the job die meanwhile, this one goes on in its place. Ctrl-C leaves the job alone.
    """
    show_log()
    with Site.load(site_file, adopt=False) as site:
        result = site.attach(job_id).wait()
        _show(site, job_id, result, as_json)
    return int(result.return_code)


@click.command("stop")
@id_argument
@click.option(
    "--grace",
    metavar="S",
    type=Seconds(),
    help="Seconds between the polite signal and the kill; by default the site's.",
)
@site_option
@json_option
def stop_command(job_id: str, grace: float | None, site_file: Path, as_json: bool) -> int:
    """End a job, and wait until it has ended."""
    show_log()
    with Site.load(site_file, adopt=False) as site:
        handle = site.attach(job_id)
        ended = handle.status().result
        if ended is not None:
            say(f"{job_id} had ended before")
            _show(site, job_id, ended, as_json)
            return 0
        handle.terminate(grace)
        patience = (site.file.grace if grace is None else grace) + _PATIENCE
        try:
            _show(site, job_id, handle.wait(timeout=patience), as_json)
        except TimeoutError:
            say(f"{job_id} was asked to end and has not been seen to after {patience:g} s; `siteward wait` goes on")
            if as_json:
                emit(row_document(site.name, site.row(job_id)))
    return 0


def _show(site: Site, job_id: str, result: Result, as_json: bool) -> None:
    if as_json:
        emit(row_document(site.name, site.row(job_id)))
        return
    reason = "" if result.state is JobState.SUCCEEDED else f" ({result.reason.value})"
    click.echo(f"{job_id}  {coloured(result.state.value)}{reason}  {one_line(result.message)}")
