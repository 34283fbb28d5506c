"""Pods through a Site, side by side with raw requests and NVFlare's K8s handle, in one run.

    python bench/k8s.py [--jobs 200] [--rounds 5] [--live 1000] [--ends 100] [--tracked 5000] [--json FILE]

It starts a cluster of its own, as ``python -m tests.cluster`` does, or uses the one for which that was run. Launches
and ends are measured with pods on fake nodes, where nothing runs, requests and transfer with pods that do.

``launches`` are those of :meth:`Site.launch` and creates of the same pod through the official client, as plain objects,
each reply read; and through nothing but urllib3, the least that a create can cost. Every round runs all, one after the
other, and a ratio, to the client, is the median of the rounds' own, with the least and the most of them; CPU is this
process's, of a launch and the news of it, which only siteward is told. ``ends`` are from just before a pod's end is
written to the return of ``wait()``, the output being at the site by then; and to one raw watch, in a process of its
own, having read the same end.
Requests are counted by the API server. Contenders that are not installed are left out, which stderr says.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from common import installed, print_json, scratch, side_by_side
from k8s_each import THREADS, TRUE, Client, NVFlare, Raw, Siteward, job, open_site
from k8s_scale import scale
from k8s_world import Unprovided, World, images, world

from siteward import Job

# What siteward is to keep: the figure, and the least or the most that it may be.
LIMITS: list[tuple[str, Callable[[dict[str, Any]], float], str, float]] = [
    (
        "launches/s to the raw client, 1 thread",
        lambda each: each["launches"]["per_s_1"]["siteward"]["ratio"],
        ">=",
        0.8,
    ),
    (
        "launches/s to the raw client, 8 threads",
        lambda each: each["launches"]["per_s_8"]["siteward"]["ratio"],
        ">=",
        0.8,
    ),
    ("launch call, ms", lambda each: each["launches"]["call_ms_1"]["siteward"]["median"], "<=", 50),
    ("requests per job", lambda each: each["real"]["siteward"]["requests_per_job"], "<=", 3),
    ("end known p95 to raw watch, most pods", lambda each: _ratio_of_ends(each["scale"]["ends"]), "<=", 3),
    ("idle requests/s", lambda each: _first_live(each)["requests_per_s"], "<=", 0),
    ("idle CPU, per cent of a core", lambda each: _first_live(each)["idle_cpu_percent"], "<=", 0.5),
    ("MB with most tracked", lambda each: list(each["scale"]["live"].values())[-1]["mb"], "<=", 200),
    ("MB/s to the pod", lambda each: each["transfer"]["to_mb_per_s"], ">=", 50),
    ("MB/s back", lambda each: each["transfer"]["back_mb_per_s"], ">=", 50),
]


def _ratio_of_ends(ends: dict[int, Any]) -> float:
    most = ends[max(ends)]
    return float(most["siteward"]["p95_ms"] / most["raw watch"]["p95_ms"])


def _first_live(figures: dict[str, Any]) -> dict[str, float]:
    return dict(next(iter(figures["scale"]["live"].values())))


# --- launches -------------------------------------------------------------------------------------------------------


def launches(each: Any, here: World, jobs: int, threads: int) -> dict[str, float]:
    """Launch jobs in some threads: jobs a second, and how long a call takes; their pods are removed afterwards."""
    calls: list[float] = []

    def launch(_number: int) -> None:
        begin = time.perf_counter()
        each.start()
        calls.append(time.perf_counter() - begin)

    with ThreadPoolExecutor(threads) as pool:
        begin, cpu = time.perf_counter(), time.process_time()
        list(pool.map(launch, range(jobs)))
        took, cpu = time.perf_counter() - begin, time.process_time() - cpu
    here.remove_pods()
    each.settle()
    figures = {"per_s": jobs / took, "call_ms": 1000 * statistics.median(calls), "cpu_ms": 1000 * cpu / jobs}
    return {f"{what}_{threads}": value for what, value in figures.items()}


def measure_launches(here: World, jobs: int, rounds: int) -> dict[str, Any]:
    """Launch through each contender in turn, on fake nodes."""
    with scratch() as folder:
        siteward = Siteward(here.site_options(fake=True), folder)
        manifest: Any = siteward.site.render(job(TRUE))
        client = Client(here.kubeconfig, here.namespace.name, manifest)
        every = [client, Raw(here.raw(), manifest), siteward]
        for each in every:
            launches(each, here, THREADS, THREADS)
        one = side_by_side(every, [lambda each: launches(each, here, jobs, 1)], rounds)
        many = side_by_side(every, [lambda each: launches(each, here, jobs, THREADS)], rounds)
        for each in every:
            each.close()
    return {**one, **many}


# --- pods that run --------------------------------------------------------------------------------------------------


def measure_real(here: World, jobs: int) -> dict[str, dict[str, float]]:
    """Run jobs one after the other: API requests of each, and how long the launch takes and the whole."""
    figures = {}
    with scratch() as folder:
        makers: list[Callable[[], Any]] = [
            lambda: Siteward(here.site_options(fake=False), folder),
            lambda: NVFlare(here.kubeconfig, here.namespace.name, here.image),
        ]
        for each in installed(makers):
            each.wait(each.start())
            time.sleep(1)
            asked, calls, begin = here.asked(), [], time.perf_counter()
            for _ in range(jobs):
                called = time.perf_counter()
                one = each.start()
                calls.append(1000 * (time.perf_counter() - called))
                each.wait(one)
            took = 1000 * (time.perf_counter() - begin) / jobs
            each.close()
            requests = (here.asked() - asked) / jobs
            figures[each.name] = {"requests_per_job": requests, "launch_ms": statistics.median(calls), "job_ms": took}
    return figures


def measure_transfer(here: World, megabytes: int, image: str) -> dict[str, float]:
    """Bring a job directory of one file to a pod and back, as the backend does: megabytes a second of each way.

    How fast that is depends on the image's tar and sha256sum as well.
    """
    from siteward_k8s import transfer

    took: dict[str, float] = {}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            begin = time.perf_counter()
            try:
                return function(*args)
            finally:
                took[name] = time.perf_counter() - begin

        return call

    send, fetch = transfer.send, transfer.fetch
    transfer.send, transfer.fetch = timed("to", send), timed("back", fetch)
    try:
        with scratch() as folder:
            (folder / "in").mkdir()
            with (folder / "in" / "data").open("wb") as file:
                for _ in range(megabytes):
                    file.write(os.urandom(10**6))
            options = {**here.site_options(fake=False), "job_directory": "transfer", "default_image": image}
            sent = Job.from_mapping({"name": "bench", "command": TRUE, "workspace": "in"}, base_dir=folder)
            with open_site(options, folder) as site:
                result = site.launch(sent).wait()
                assert result.workspace == "returned", result
    finally:
        transfer.send, transfer.fetch = send, fetch
    return {f"{name}_mb_per_s": megabytes / seconds for name, seconds in took.items()}


# --- all of it ------------------------------------------------------------------------------------------------------


def print_tables(figures: dict[str, Any]) -> None:
    """Print what was measured, for people."""
    launched = figures["launches"]
    print(f"{'':22}{'launches/s 1':>14}{'ratio':>20}{'launches/s 8':>14}{'ratio':>20}{'call ms':>9}{'CPU ms':>8}")
    for name in launched["per_s_1"]:
        one, eight = (launched[f"per_s_{threads}"][name] for threads in (1, THREADS))
        cells = "".join(
            f"{each['median']:14.0f}{each['ratio']:9.2f} ({each['least']:.2f}-{each['most']:.2f})"
            for each in (one, eight)
        )
        call, cpu = (launched[f"{what}_1"][name]["median"] for what in ("call_ms", "cpu_ms"))
        print(f"{name:22}{cells}{call:9.2f}{cpu:8.2f}")
    print(f"\n{'pods that run':22}{'requests/job':>14}{'launch ms':>11}{'job ms':>9}")
    for name, real in figures["real"].items():
        print(f"{name:22}{real['requests_per_job']:14.2f}{real['launch_ms']:11.1f}{real['job_ms']:9.0f}")
    print(f"\n{'end known, ms':22}{'pods':>7}{'p50':>8}{'p95':>8}{'p95 to raw':>12}")
    for level, ends in figures["scale"]["ends"].items():
        for name, each in ends.items():
            ratio = each["p95_ms"] / ends["raw watch"]["p95_ms"]
            print(f"{name:22}{level:7}{each['p50_ms']:8.1f}{each['p95_ms']:8.1f}{ratio:12.2f}")
    print()
    for count, live in figures["scale"]["live"].items():
        print(
            f"{count} live jobs: {live['mb']:.0f} MB (a raw watch: {live['raw_watch_mb']:.0f}), idle "
            f"{live['requests_per_s']:.2f} requests/s and {live['idle_cpu_percent']:.2f} % of a core",
            f"; {live['cpu_ms_per_job']:.2f} ms of CPU to bring each to run" if "cpu_ms_per_job" in live else "",
            sep="",
        )
    if transfer := figures.get("transfer"):
        print(f"transfer: {transfer['to_mb_per_s']:.0f} MB/s to the pod, {transfer['back_mb_per_s']:.0f} MB/s back")


def print_limits(figures: dict[str, Any]) -> None:
    """Print what siteward is to keep, beside what it does."""
    for words, figure, sign, limit in LIMITS:
        try:
            value = figure(figures)
        except KeyError:
            continue
        kept = value <= limit if sign == "<=" else value >= limit
        print(f"siteward {words}: {value:.2f}, {sign} {limit:g}: {'kept' if kept else 'NOT KEPT'}")


def main() -> None:
    """Measure, print tables, and the same as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", help="an image that the nodes have, with sh and tar; by default the tests' own")
    parser.add_argument("--jobs", type=int, default=200, help="launches for each figure of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--real", type=int, default=10, help="pods that run, one after the other")
    parser.add_argument("--live", type=int, default=1000, help="the most pods among which ends are measured")
    parser.add_argument("--ends", type=int, default=100, help="ends for each number of pods")
    parser.add_argument("--tracked", type=int, default=5000, help="the most live jobs of one site")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long idle CPU is watched")
    parser.add_argument("--megabytes", type=int, default=1000, help="size of the job directory; 0 leaves that part out")
    parser.add_argument("--optional", action="store_true", help="leave with 0 when there can be no cluster")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options = parser.parse_args()
    levels = sorted({level for level in (1, 100, options.live) if level <= options.live})
    try:
        with world(options.image) as here:
            figures: dict[str, Any] = {
                "launches": measure_launches(here, options.jobs, options.rounds),
                "real": measure_real(here, options.real),
                "scale": scale(here, levels, options.ends, options.tracked, options.seconds),
            }
            if options.megabytes:
                figures["transfer"] = measure_transfer(here, options.megabytes, options.image or images.PYTHON)
    except Unprovided as why:
        print(f"Kubernetes is left out: {why}", file=sys.stderr)
        sys.exit(0 if options.optional else 1)
    print_tables(figures)
    print_limits(figures)
    print_json(figures, options.json)


if __name__ == "__main__":
    main()
