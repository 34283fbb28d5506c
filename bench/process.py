"""Process jobs through a Site, side by side with raw calls and other launchers, in one run.

    python bench/process.py [--jobs 200] [--rounds 7] [--live 1000] [--json FILE]

Every round runs all contenders one after the other, so that each sees the same machine; a figure is the median
over rounds, and a ratio the median of the rounds' own ratios against ``subprocess`` with ``wait()``.
Contenders that are not installed (NVFlare's ProcessJobLauncher, PSI/J) are left out, which the table says.
``the least in Python`` (floor.py) is no launcher: it marks how near to raw any could come that keeps our promises.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from common import Figures, cpu_and_memory, idle_cpu, installed, print_json, scratch, side_by_side
from floor import Floor

from siteward import Job, Site, SiteFile

STAMP = r"""
#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>
int main(int argc, char **argv) {
    struct timespec now, nap = {0, 50000000};
    char text[64];
    nanosleep(&nap, 0);
    int fd = open(argv[1], O_WRONLY | O_CREAT | O_TRUNC, 0600);
    clock_gettime(CLOCK_MONOTONIC, &now);
    int length = snprintf(text, sizeof text, "%ld.%09ld", (long)now.tv_sec, now.tv_nsec);
    if (write(fd, text, length) < 0) return 1;
    _exit(0);
}
"""
PYTHON_STAMP = "import os,sys,time; time.sleep(.05); open(sys.argv[1],'w').write(repr(time.monotonic())); os._exit(0)"
TRUE = [shutil.which("true") or "/bin/true"]


class Subprocess:
    """Raw ``subprocess.Popen`` and ``wait()``: what everything else is measured against."""

    name = "subprocess wait()"

    def start(self, argv: list[str]) -> Any:
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def wait(self, job: Any) -> None:
        job.wait()

    def close(self) -> None:
        pass


class Asyncio(Subprocess):
    """``asyncio.create_subprocess_exec``, driven from one loop."""

    name = "asyncio"

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)

    def start(self, argv: list[str]) -> Any:
        null = subprocess.DEVNULL
        return self._loop.run_until_complete(asyncio.create_subprocess_exec(*argv, stdin=null, stdout=null))

    def wait(self, job: Any) -> None:
        self._loop.run_until_complete(job.wait())

    def close(self) -> None:
        asyncio.set_event_loop(None)
        self._loop.close()


class Siteward(Subprocess):
    """A whole Site on the process backend: strict job, store, lock, job directory, log, keeper, adoption."""

    name = "siteward"

    def __init__(self, folder: Path) -> None:
        data = {"name": "bench", "backends": {"process": {}}, "default_backend": "process"}
        self.site = Site(SiteFile.from_mapping({**data, "state_dir": str(folder / "state")}, base_dir=folder))

    def start(self, argv: list[str]) -> Any:
        return self.site.launch(Job.from_mapping({"name": "bench", "command": argv}))

    def wait(self, job: Any) -> None:
        job.wait()

    def close(self) -> None:
        self.site.close()


class NVFlare(Subprocess):
    """NVFlare's ``ProcessHandle`` around its own ``spawn_process``."""

    name = "NVFlare process launcher"

    def __init__(self) -> None:
        from nvflare.app_common.job_launcher.process_launcher import ProcessHandle
        from nvflare.utils.process_utils import spawn_process

        self._handle, self._spawn = ProcessHandle, spawn_process

    def start(self, argv: list[str]) -> Any:
        return self._handle(process_adapter=self._spawn(argv, dict(os.environ)))


class PsiJ(Subprocess):
    """PSI/J's local executor."""

    name = "PSI/J local"

    def __init__(self) -> None:
        import psij

        self._psij, self._executor = psij, psij.JobExecutor.get_instance("local")

    def start(self, argv: list[str]) -> Any:
        job = self._psij.Job(self._psij.JobSpec(executable=argv[0], arguments=argv[1:]))
        self._executor.submit(job)
        return job


def contenders(folder: Path) -> list[Any]:
    """Make every contender that is installed, raw ``subprocess`` first."""
    makers: list[Callable[[], Any]] = [
        Subprocess,
        Asyncio,
        lambda: Siteward(folder),
        lambda: Floor(folder),
        NVFlare,
        PsiJ,
    ]
    return list(installed(makers))


def sequential(each: Any, jobs: int) -> float:
    """Return jobs a second, each waited for before the next is started."""
    begin = time.perf_counter()
    for _ in range(jobs):
        each.wait(each.start(TRUE))
    return jobs / (time.perf_counter() - begin)


def concurrent(each: Any, jobs: int) -> float:
    """Return jobs a second, all started before the first is waited for."""
    begin = time.perf_counter()
    for job in [each.start(TRUE) for _ in range(jobs)]:
        each.wait(job)
    return jobs / (time.perf_counter() - begin)


def detection(each: Any, stamp: list[str], folder: Path, jobs: int = 20) -> float:
    """Return the median of milliseconds from just before the job's exit to the return of ``wait()``."""
    delays = []
    for _ in range(jobs):
        file = folder / "stamp"
        job = each.start([*stamp, str(file)])
        each.wait(job)
        seen = time.monotonic()
        delays.append((seen - float(file.read_text())) * 1000)
    return statistics.median(delays)


def make_stamp(folder: Path) -> list[str]:
    """Return a command that writes the time to a file and exits at once; in C where there is a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return [sys.executable, "-S", "-c", PYTHON_STAMP]
    (folder / "stamp.c").write_text(STAMP)
    subprocess.run([compiler, "-O1", "-o", str(folder / "stamper"), str(folder / "stamp.c")], check=True)
    return [str(folder / "stamper")]


def ours(site: Site) -> list[psutil.Process]:
    """Return the processes that are siteward's own: this one and the keepers of this site."""
    keepers = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if str(site.state_dir) in " ".join(process.cmdline()) and process.pid != os.getpid():
                keepers.append(process)
    return [psutil.Process(), *keepers]


def live_jobs(count: int, seconds: float) -> dict[str, float]:
    """Keep ``count`` jobs alive: idle CPU (per cent of one core) and memory of ours per job."""
    with scratch() as folder:
        each = Siteward(folder)
        warm = each.start(["/bin/sleep", "600"])
        _, before = cpu_and_memory(ours(each.site))
        handles = [each.start(["/bin/sleep", "600"]) for _ in range(count)]
        processes = ours(each.site)
        time.sleep(1)
        _, after = cpu_and_memory(processes)
        idle = idle_cpu(lambda: cpu_and_memory(processes)[0], seconds)
        for handle in [warm, *handles]:
            handle.terminate(grace=0)
        for handle in [warm, *handles]:
            handle.wait()
        each.close()
    return {"jobs": count, "idle_cpu_percent": idle, "kb_per_job": (after - before) / count / 1000}


def measure(jobs: int, rounds: int) -> Figures:
    """Run all contenders in turn; figures by measure and contender, each with its ratio to raw."""
    with scratch() as folder:
        stamp = make_stamp(folder)
        every = contenders(folder)
        for each in every:
            sequential(each, 20)
        measures: list[Callable[[Any], dict[str, float]]] = [
            lambda each: {"sequential": sequential(each, jobs)},
            lambda each: {"concurrent": concurrent(each, jobs)},
            lambda each: {"detection_ms": detection(each, stamp, folder)},
        ]
        figures = side_by_side(every, measures, rounds)
        for each in every:
            each.close()
    return figures


def main() -> None:
    """Measure, print a table, and the same as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200, help="jobs a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--live", type=int, default=1000, help="jobs kept alive at once; 0 leaves that part out")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long idle CPU is watched")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options = parser.parse_args()
    figures: dict[str, Any] = measure(options.jobs, options.rounds)
    names = list(figures["sequential"])
    print(
        f"{'':26} {'sequential/s':>14} {'ratio':>6} {'concurrent/s':>14} {'ratio':>6} {'end seen ms':>12} {'ratio':>6}"
    )
    for name in names:
        row = [figures[key][name] for key in ("sequential", "concurrent", "detection_ms")]
        cells = f"{row[0]['median']:14.0f} {row[0]['ratio']:6.2f} {row[1]['median']:14.0f} {row[1]['ratio']:6.2f}"
        print(f"{name:26} {cells} {row[2]['median']:12.2f} {row[2]['ratio']:6.2f}")
    if options.live:
        figures["live"] = live_jobs(options.live, options.seconds)
        live = figures["live"]
        print(
            f"{live['jobs']} live jobs: idle CPU of launcher and keeper {live['idle_cpu_percent']:.2f} % of a core, "
            f"{live['kb_per_job']:.1f} KB each"
        )
    print_json(figures, options.json)


if __name__ == "__main__":
    main()
