"""Managers as a site makes them, and the time that must pass."""

import logging
import time

from siteward import Context, Refusal, Reservation
from siteward_gpu_resources.counted import Manager as Counted
from siteward_gpu_resources.gpu import Manager as Gpu
from siteward_gpu_resources.units import Manager as Units

KINDS = {"gpu": Gpu, "list": Units, "cpu_memory": Counted}
DEADLINE = 60.0


def until(condition, what="what the test waits for"):
    """Return what ``condition()`` gives as soon as it is true."""
    give_up = time.monotonic() + DEADLINE
    while not (found := condition()):
        assert time.monotonic() < give_up, f"{what} did not happen in {DEADLINE} s"
        time.sleep(0.005)
    return found


class Host:
    """A folder that stands for a host; sites on it make their managers here."""

    def __init__(self, folder):
        self.folder = folder
        self.leases = folder / "leases"

    def manager(self, kind="gpu", site="site", site_env=None, **options):
        """Return a new manager of a site, as a process that opens the site gets."""
        state = self.folder / site
        directory = state / "plugins" / kind
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        context = Context(
            site=site,
            backend=kind,
            directory=directory,
            log=logging.getLogger("test"),
            env=site_env or {},
            lease_dir=self.leases,
            state_dir=state,
        )
        return KINDS[kind](context, KINDS[kind].SiteOptions(**options))

    def virtual(self, count=4, memory=16.0, **options):
        """Return a manager of ``count`` GPUs that are elsewhere."""
        return self.manager(num_of_gpus=count, mem_per_gpu_in_GiB=memory, ignore_host=True, **options)


def gpus(count, memory=None):
    """Return what a job asks for."""
    return {"num_of_gpus": count} | ({} if memory is None else {"mem_per_gpu_in_GiB": memory})


def check(manager, requirement, job_id="job"):
    """Reserve, and say so if that is refused."""
    answer = manager.siteward_check_resources(requirement, job_id)
    assert isinstance(answer, Reservation), answer
    return answer


def take(manager, requirement, job_id="job"):
    """Reserve and allocate; return the allocation."""
    return manager.siteward_allocate_resources(check(manager, requirement, job_id).token, job_id)


def refusal(manager, requirement, job_id="other"):
    """Return the refusal of what must be refused."""
    answer = manager.siteward_check_resources(requirement, job_id)
    assert isinstance(answer, Refusal), answer
    return answer


def names_of(manager):
    """Return who holds what, by what the report calls it."""
    return {name: sorted(facts["holders"]) for name, facts in manager.siteward_report_resources().items()}
