"""Whoever is killed, and when: no GPU is had twice, and none is lost."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .helpers import Host, names_of, until
from .recorded import eight_gpus

SCRIPT = Path(__file__).with_name("killed.py")
PROCESSES, CYCLES, KILLS = 8, 200, 24


def run(*arguments, **options):
    return subprocess.Popen([sys.executable, str(SCRIPT), *map(str, arguments)], **options)


@pytest.mark.timeout(600)
def test_killed_at_any_line(tmp_path):
    """At each line of check, allocate and free: afterwards all is free but what a living job has."""
    with run("lines", tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        out, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    assert int(out) > 100


@pytest.mark.timeout(600)
def test_processes_killed_at_random(tmp_path, with_cards):
    """Eight processes of three sites, each to do its cycles, killed again and again: no double grant, all free."""
    done = dict.fromkeys(range(PROCESSES), 0)
    for number in done:
        (tmp_path / f"count-{number}").write_text("0")
    running, kills, chance = {}, 0, random.Random(0)

    def counted(number):
        return int((tmp_path / f"count-{number}").read_text())

    try:
        while running or any(count < CYCLES for count in done.values()):
            for number, count in done.items():
                if number not in running and count < CYCLES:
                    running[number] = run("worker", tmp_path, number, CYCLES)
            time.sleep(chance.uniform(0.05, 0.3))
            at_work = [number for number in sorted(running) if counted(number) > done[number]]
            if at_work and kills < KILLS:  # whoever is killed has come further by then, so that there is an end
                running[chance.choice(at_work)].kill()
            for number, process in list(running.items()):
                if process.poll() is None:
                    continue
                assert process.returncode in (0, -signal.SIGKILL)
                kills += process.returncode != 0
                done[number] = counted(number)
                del running[number]
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    assert kills
    with_cards(eight_gpus()[:4])
    manager = Host(tmp_path).manager(site="judge")
    until(lambda: not any(names_of(manager).values()), "all GPUs are free")
