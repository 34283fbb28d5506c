"""``siteward run``: one job at several sites, in this terminal or behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import SimpleQueue

import click
from attrs import frozen

from siteward.cli.app import INTERRUPTED, UNEXPECTED
from siteward.cli.detach import Report, leave
from siteward.cli.documents import run_document
from siteward.cli.interrupts import Interrupted, Interrupts
from siteward.cli.options import Seconds, job_argument, json_option, show_log, sites_option
from siteward.cli.output import emit, say, visible
from siteward.cli.progress import Display, make_display, stream_for, verdict_line
from siteward.cli.results import OutputFolder
from siteward.cli.watching import Watcher
from siteward.errors import FileError, OptionsRefused, SitewardError
from siteward.handle import Handle
from siteward.job import Job
from siteward.plugins import Plugins
from siteward.runs import Run, run
from siteward.site import Site
from siteward.sitefile import SiteFile
from siteward.verdicts import Verdict

NOT_COPIED = 74
_TAIL = 10


@frozen(kw_only=True)
class Order:
    """What was asked for on the command line, read and checked as far as it goes without starting anything."""

    job_file: str
    job: Job
    sites: tuple[SiteFile, ...]
    wait_resources: float
    output: OutputFolder | None
    follow: bool
    as_json: bool


@click.command("run")
@job_argument
@sites_option
@click.option("--detach", is_flag=True, help="Leave once the jobs are launched; a process behind drives them.")
@click.option("--follow", is_flag=True, help="Show each job's output, every line after its site's name.")
@click.option(
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Bring what each job leaves to DIR/<site>/, and all that it prints to DIR/<site>.log.",
)
@click.option(
    "--wait-resources",
    metavar="S",
    type=Seconds(),
    default=0.0,
    help="Seconds to wait for resources that are taken; by default the run is refused at once.",
)
@json_option
def run_command(
    job_file: Path,
    site_files: tuple[Path, ...],
    detach: bool,
    follow: bool,
    output: Path | None,
    wait_resources: float,
    as_json: bool,
) -> int:
    """Run a job at its sites; the exit code is the verdict's.

    Ctrl-C once ends the jobs politely, twice kills them.
    """
    if detach and follow:
        raise click.UsageError("--follow needs this terminal, which --detach leaves; use `siteward logs -f` afterwards")
    job, files = _read(job_file, site_files)
    order = Order(
        job_file=str(job_file),
        job=job,
        sites=tuple(files),
        wait_resources=wait_resources,
        output=None if output is None else OutputFolder(output.absolute()),
        follow=follow,
        as_json=as_json,
    )
    if order.output is not None:
        order.output.check(file.name for file in order.sites if job.sites is None or file.name in job.sites)
    if detach:
        return leave(lambda report: _drive(order, report), as_json=as_json)
    return _run_here(order)


def _read(job_file: Path, site_files: Sequence[Path]) -> tuple[Job, list[SiteFile]]:
    """Read every file; one error with every mistake in all of them."""
    jobs, files, errors = [], [], []
    try:
        jobs.append(Job.load(job_file))
    except FileError as error:
        errors.append(error)
    for path in site_files:
        try:
            files.append(SiteFile.load(path))
        except FileError as error:
            errors.append(error)
    _raise_all(errors)
    return jobs[0], files


def _raise_all(errors: Sequence[SitewardError]) -> None:
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise SitewardError("\n".join(map(str, errors)))


@contextmanager
def _opened(files: Sequence[SiteFile]) -> Iterator[list[Site]]:
    plugins, errors, sites = Plugins(), [], []
    with ExitStack() as stack:
        for file in files:
            try:
                sites.append(stack.enter_context(Site(file, plugins=plugins)))
            except SitewardError as error:
                errors.append(error)
        _raise_all(errors)
        yield sites


def _start(order: Order, sites: Sequence[Site], interrupts: Interrupts, tell: Callable[[str], None]) -> Run:
    told: list[Mapping[str, str]] = []

    def on_wait(reasons: Mapping[str, str]) -> None:
        if [reasons] != told[-1:]:
            told.append(reasons)
            words = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
            tell(f"waiting for resources: {words}")

    try:
        interrupts.sleep(0)
        started = run(order.job, sites, wait_resources=order.wait_resources, on_wait=on_wait, sleep=interrupts.sleep)
    except OptionsRefused as error:
        raise FileError(order.job_file, error.problems) from error
    interrupts.guard(started)
    return started


def _run_here(order: Order) -> int:
    show_log()
    with Interrupts(say) as interrupts, _opened(order.sites) as sites:
        try:
            started = _start(order, sites, interrupts, say)
        except Interrupted:
            say("interrupted; nothing was started")
            return INTERRUPTED
        stream = stream_for(as_json=order.as_json)
        if started.verdict is not Verdict.REFUSED:
            display = make_display(stream, list(started.handles))
            interrupts.tell = display.say
            show_log(display.say)
            try:
                _watch(started, display, order)
            except SitewardError as error:
                display.say(f"the run is not watched any more: {error}")
                return UNEXPECTED
            finally:
                display.close()
                interrupts.tell = say
                show_log()
        for line in _closing_lines(started, order):
            click.echo(line, file=stream)
    if order.as_json:
        emit(run_document(started))
    problems = order.output.problems if order.output is not None else []
    for words in problems:
        say(words)
    return NOT_COPIED if problems and not started.code else started.code


def _watch(started: Run, display: Display, order: Order) -> None:
    display.say(f"job {order.job.id}")
    for words in _sites_left_out(order):
        display.say(words)
    for name, reason in started.refused.items():
        display.say(f"{name} is left out: {reason}")
    Watcher(started, display, follow=order.follow, output=order.output).watch()


def _sites_left_out(order: Order) -> Iterator[str]:
    """Say which of the job's sites this run does without, and which given ones it has no use for."""
    given, wanted = [file.name for file in order.sites], order.job.sites
    if wanted is None:
        return
    if missing := [name for name in wanted if name not in given]:
        yield f"no file was given for {', '.join(missing)}: the job does not run there"
    if surplus := [name for name in given if name not in wanted]:
        yield f"not among the job's sites: {', '.join(surplus)}; the job does not run there"


def _closing_lines(ended: Run, order: Order) -> Iterator[str]:
    assert ended.verdict is not None
    yield verdict_line(ended.verdict, ended.code, ended.message)
    result = ended.results.get(ended.cause or "")
    if result is not None and result.log_tail and not order.follow:
        yield f"last lines of {ended.cause}'s output:"
        yield from (f"  {visible(line.encode())}" for line in result.log_tail.splitlines()[-_TAIL:])


def _drive(order: Order, report: Report) -> None:
    """Run in a process behind: tell of the launch, then drive the jobs to the verdict."""
    show_log(report.say)
    with Interrupts(report.say) as interrupts, _opened(order.sites) as sites:
        try:
            started = _start(order, sites, interrupts, report.say)
        except Interrupted:
            report.failed(["interrupted; nothing was started"], INTERRUPTED)
            return
        if started.verdict is Verdict.REFUSED:
            report.failed([f"{started.verdict}: {started.message}"], started.code, run_document(started))
            return
        for name, reason in started.refused.items():
            report.say(f"{name} is left out: {reason}")
        report.launched(run_document(started))
        if order.output is not None:
            _bring_each(started, order.output, {site.name: site for site in sites})
        started.wait()


def _bring_each(started: Run, output: OutputFolder, sites: Mapping[str, Site]) -> None:
    ended: SimpleQueue[Handle] = SimpleQueue()
    for handle in started.handles.values():
        handle.add_done_callback(ended.put)
    for _ in started.handles:
        handle = ended.get()
        output.bring(handle)
        while output.problems:
            sites[handle.site].note(handle.job_id, "not copied", output.problems.pop())
