"""Measure the resource managers: check, allocate and free, alone and with eight processes at once.

Run it with ``python bench/resources.py``. GPUs are this host's, or eight that a made-up ``nvidia-smi`` tells of; the
leases are in a folder of the benchmark's own. It ends with an error when a lease is left over, or when two jobs had
one GPU at once.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

from siteward import Context, Refusal, ResourceError
from siteward_best_effort_resources.manager import Manager as BestEffort
from siteward_gpu_resources.counted import Manager as Counted
from siteward_gpu_resources.gpu import Manager as Gpu
from siteward_gpu_resources.units import Manager as Units

SMI = """#!/bin/sh
case "$1" in
-L) for i in 0 1 2 3 4 5 6 7; do echo "GPU $i: Made up (UUID: GPU-0000000$i-0000-0000-0000-000000000000)"; done;;
*) for i in 0 1 2 3 4 5 6 7; do echo "$i, GPU-0000000$i-0000-0000-0000-000000000000, Made up, 16384"; done;;
esac
"""
KILLS = 100
Make = Callable[[Path, str], Any]


def context(folder: Path, site: str, name: str) -> Context:
    """Return what a manager of one site of this host is told."""
    directory = folder / site / "plugins" / name
    directory.mkdir(parents=True, exist_ok=True)
    log = logging.getLogger("bench")
    return Context(
        site=site, backend=name, directory=directory, log=log, lease_dir=folder / "leases", state_dir=folder / site
    )


def makers() -> dict[str, tuple[Make, Mapping[str, Any]]]:
    """Return each manager, and what its jobs ask for."""
    return {
        "gpu, whole": (
            lambda folder, site: Gpu(context(folder, site, "gpu"), Gpu.SiteOptions()),
            {"num_of_gpus": 1},
        ),
        "gpu, shared": (
            lambda folder, site: Gpu(context(folder, site, "gpu"), Gpu.SiteOptions()),
            {"num_of_gpus": 1, "mem_per_gpu_in_GiB": 0.5},
        ),
        "gpu, no GPU asked": (lambda folder, site: Gpu(context(folder, site, "gpu"), Gpu.SiteOptions()), {}),
        "list": (
            lambda folder, site: Units(
                context(folder, "one", "list"), Units.SiteOptions(units={"licence": tuple("abcdefgh")})
            ),
            {"licence": 1},
        ),
        "cpu_memory": (
            lambda folder, site: Counted(context(folder, "one", "cpu_memory"), Counted.SiteOptions(num_of_cpus=8)),
            {"num_of_cpus": 1},
        ),
        "best_effort": (
            lambda folder, site: BestEffort(context(folder, site, "best_effort"), BestEffort.SiteOptions()),
            {"num_of_gpus": 1},
        ),
    }


def cycle(manager: Any, asked: Mapping[str, Any], job_id: str) -> bool:
    """Take and give back once; False when it was refused."""
    answer = manager.siteward_check_resources(asked, job_id)
    if isinstance(answer, Refusal):
        return False
    manager.siteward_allocate_resources(answer.token, job_id)
    manager.siteward_free_resources(answer.token)
    return True


def alone(make: Make, asked: Mapping[str, Any], cycles: int) -> float:
    """Return cycles per second of one process; no lease may be left."""
    with tempfile.TemporaryDirectory() as folder:
        manager = make(Path(folder), "site")
        begin = time.perf_counter()
        for number in range(cycles):
            if not cycle(manager, asked, f"job-{number}"):
                raise SystemExit("a job was refused though nobody else is there")
        rate = cycles / (time.perf_counter() - begin)
        check_all_free(Path(folder))
        return rate


def together(make: Make, asked: Mapping[str, Any], processes: int, seconds: float) -> tuple[float, float]:
    """Return granted cycles per second of several sites at once, and the least site's share of an even one."""
    with tempfile.TemporaryDirectory() as folder:
        results: SimpleQueue[int] = multiprocessing.SimpleQueue()
        start = time.monotonic() + 1.0
        every = [
            multiprocessing.Process(
                target=_work, args=(make, asked, Path(folder), f"site-{number}", start, seconds, results)
            )
            for number in range(processes)
        ]
        for each in every:
            each.start()
        counts = [results.get() for _ in every]
        for each in every:
            each.join()
        check_all_free(Path(folder))
        return sum(counts) / seconds, min(counts) / (statistics.mean(counts) or 1.0)


def _work(
    make: Make,
    asked: Mapping[str, Any],
    folder: Path,
    site: str,
    start: float,
    seconds: float,
    results: SimpleQueue[int],
) -> None:
    manager = make(folder, site)
    while time.monotonic() < start:
        time.sleep(0.001)
    granted = 0
    while time.monotonic() < start + seconds:
        granted += cycle(manager, asked, f"job-{granted}")
    results.put(granted)


def check_all_free(folder: Path) -> None:
    """Refuse to go on when a lease is left."""
    left = [path for kind in ("*.r", "*.h", "*.tmp") for path in folder.rglob(kind)]
    if left:
        raise SystemExit(f"{len(left)} leases are left: {left[0]}")


# --- kills ---


def kills(processes: int, cycles: int) -> tuple[float, int]:
    """Let processes take and give back until each has done ``cycles``, killing them at random.

    Return the seconds it took and how many were killed. While a job has a GPU it holds a lock of its own on it;
    finding that taken is a double grant.
    """
    running: dict[int, subprocess.Popen[bytes]] = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as at_end:
        folder = Path(name)
        (folder / "gpus").mkdir()
        at_end.callback(lambda: [(each.kill(), each.wait()) for each in running.values()])
        done = dict.fromkeys(range(processes), 0)
        for number in done:
            (folder / f"count-{number}").write_text("0")
        begin, killed = time.monotonic(), 0
        while any(count < cycles for count in done.values()) or running:
            for number, count in done.items():
                if number not in running and count < cycles:
                    command = [sys.executable, __file__, "--victim", str(folder), str(number), str(cycles)]
                    running[number] = subprocess.Popen(command)
            time.sleep(random.uniform(0.05, 0.3))
            at_work = [number for number in running if int((folder / f"count-{number}").read_text()) > done[number]]
            if at_work and killed < KILLS:  # whoever is killed has come further by then, so that there is an end
                running[random.choice(at_work)].kill()
            for number, process in list(running.items()):
                code = process.wait() if process.poll() is not None else None
                if code not in (None, 0, -signal.SIGKILL):
                    raise SystemExit(f"a process ended with {code}")
                if code is not None:
                    killed += code != 0
                    done[number] = int((folder / f"count-{number}").read_text())
                    del running[number]
        manager = Gpu(context(folder, "site-0", "gpu"), Gpu.SiteOptions())
        held = {name: facts["holders"] for name, facts in manager.siteward_report_resources().items()}
        deadline = time.monotonic() + 10  # reservations of killed processes last two seconds
        while any(held.values()) and time.monotonic() < deadline:
            time.sleep(0.1)
            held = {name: facts["holders"] for name, facts in manager.siteward_report_resources().items()}
        if any(held.values()):
            raise SystemExit(f"not free at the end: {held}")
        return time.monotonic() - begin, killed


def victim(folder: Path, number: int, cycles: int) -> None:
    """Take and give back, and count in a file, until killed."""
    import fcntl

    counter = folder / f"count-{number}"
    count = int(counter.read_text())
    manager = Gpu(context(folder, f"site-{number % 4}", "gpu"), Gpu.SiteOptions(expiration_period=2.0))
    descriptor = os.open(counter, os.O_WRONLY)
    while count < cycles:
        job_id = f"job-{number}-{count}"
        answer = manager.siteward_check_resources({"num_of_gpus": 1 + count % 3}, job_id)
        if isinstance(answer, Refusal):
            continue
        locks = []
        try:
            devices = manager.siteward_allocate_resources(answer.token, job_id).devices
        except ResourceError:  # on a busy machine two seconds may pass in between
            continue
        for uuid in devices:
            locks.append(os.open(folder / "gpus" / uuid, os.O_RDWR | os.O_CREAT))
            fcntl.flock(locks[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        for lock in locks:
            os.close(lock)
        manager.siteward_free_resources(answer.token)
        count += 1
        os.pwrite(descriptor, str(count).encode(), 0)


def rows(args: argparse.Namespace) -> Iterator[list[str]]:
    """Yield the table's rows."""
    yield ["manager", "1 process, cycles/s", f"{args.processes} processes, cycles/s", "least share of an even one"]
    for name, (make, asked) in makers().items():
        single = statistics.median(alone(make, asked, args.cycles) for _ in range(3))
        rate, share = together(make, asked, args.processes, args.seconds)
        yield [name, f"{single:,.0f}", f"{rate:,.0f}", f"{share:.2f}"]


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cycles", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--kill-cycles", type=int, default=2_000, help="cycles of each process that may be killed")
    parser.add_argument("--victim", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.victim:
        victim(Path(args.victim[0]), int(args.victim[1]), int(args.victim[2]))
        return
    with tempfile.TemporaryDirectory() as folder:
        smi = Path(folder, "nvidia-smi")
        smi.write_text(SMI)
        smi.chmod(0o755)
        os.environ["PATH"] += f":{folder}"
        for row in rows(args):
            print(f"{row[0]:<20}{row[1]:>22}{row[2]:>24}{row[3]:>28}", flush=True)
        seconds, killed = kills(args.processes, args.kill_cycles)
        print(f"{args.processes} processes x {args.kill_cycles} cycles, {killed} killed, in {seconds:.0f} s: ", end="")
        print("no GPU was had by two jobs at once, and all are free")


if __name__ == "__main__":
    main()
