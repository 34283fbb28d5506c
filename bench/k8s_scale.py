"""Many pods on fake nodes: how long an end takes to be known, and what a launcher costs meanwhile."""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

from common import idle_cpu
from k8s_each import Far, far, far_nvflare, far_siteward, far_watch
from k8s_world import World

# NVFlare asks for each pod each second: more than so many are more than it can.
_NVFLARE_PODS = 100
_SETTLED = 5.0
_FIRST = 3


def scale(world: World, levels: list[int], ends: int, tracked: int, seconds: float) -> dict[str, Any]:
    """Measure with more and more pods: ``ends`` by their number, then what a Site costs with the most of them."""
    figures: dict[str, Any] = {"ends": {}, "live": {}}
    site, raw = far(far_siteward, world.site_options(fake=True)), far(far_watch, world.raw())
    with site as siteward, raw as watch:
        every = {"raw watch": watch, "siteward": siteward}
        pods: list[str] = []
        for level in levels:
            _top_up(world, siteward, pods, level + ends + _FIRST)
            _delays(world, every, pods, _FIRST)
            figures["ends"][level] = _delays(world, every, pods, ends)
        for level in sorted({levels[-1], tracked}):
            cpu, new = siteward.cpu(), level - len(pods)
            _top_up(world, siteward, pods, level)
            figures["live"][len(pods)] = _idle(world, siteward, watch, seconds)
            if new > 0:
                figures["live"][len(pods)]["cpu_ms_per_job"] = 1000 * (siteward.cpu() - cpu) / new
    world.remove_pods()
    try:
        import nvflare  # noqa: F401
    except ImportError:
        print("left out: nvflare is not installed", file=sys.stderr)
        return figures
    for level in [level for level in levels if level <= _NVFLARE_PODS]:
        figures["ends"][level] |= _nvflare(world, level, min(ends, 20))
    return figures


def _top_up(world: World, siteward: Far, pods: list[str], count: int) -> None:
    """Launch jobs until there are so many, and let them run."""
    new = siteward.ask("launch", max(count - len(pods), 0))
    world.set_running(new)
    siteward.ask("running", new)
    pods += new
    time.sleep(1)


def _delays(world: World, every: dict[str, Far], pods: list[str], ends: int) -> dict[str, dict[str, float]]:
    """Let pods end, one after the other: from just before that is written to when each contender knows."""
    delays: dict[str, list[float]] = {name: [] for name in every}
    for _ in range(ends):
        pod = pods.pop()
        for each in every.values():
            each.ask("wait", pod)
        time.sleep(0.02)
        begin = time.monotonic()
        world.set_ended(pod)
        for name, each in every.items():
            delays[name].append(1000 * (each.answer() - begin))
    return {name: _spread(values) for name, values in delays.items()}


def _spread(values: list[float]) -> dict[str, float]:
    if len(values) == 1:
        values = values * 2
    return {"p50_ms": statistics.median(values), "p95_ms": statistics.quantiles(values, n=20, method="inclusive")[-1]}


def _idle(world: World, siteward: Far, watch: Far, seconds: float) -> dict[str, float]:
    time.sleep(_SETTLED)
    asked = world.asked()
    cpu = idle_cpu(siteward.cpu, seconds)
    asked = world.asked() - asked
    return {
        "requests_per_s": asked / seconds,
        "idle_cpu_percent": cpu,
        "mb": siteward.megabytes(),
        "raw_watch_mb": watch.megabytes(),
    }


def _nvflare(world: World, level: int, ends: int) -> dict[str, dict[str, float]]:
    arguments = (world.kubeconfig, world.namespace.name, world.image)
    with far(far_siteward, world.site_options(fake=True)) as siteward, far(far_nvflare, *arguments) as flare:
        pods: list[str] = []
        _top_up(world, siteward, pods, level + ends)
        flare.ask("follow", pods)
        time.sleep(2)
        found = _delays(world, {"NVFlare K8s handle": flare}, pods, ends)
        world.remove_pods()
    return found
