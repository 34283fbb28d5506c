"""Plugins of siteward for tests: a site with one unit, and launches that take long.

Found by entry points in a folder that is put on the path; files in ``SITEWARD_TEST_FAULTS`` say what happens.
"""

import os
import time
from pathlib import Path

from siteward import Allocation, Refusal, Reservation, ResourceError, hookimpl

api = 1


@hookimpl(wrapper=True)
def siteward_launch_job(request):
    """Take as long as the file ``delay`` says, in seconds."""
    file = Path(os.environ.get("SITEWARD_TEST_FAULTS", "/nowhere"), "delay")
    if file.exists():
        file.with_name("launching").write_text(request.job_id)
        time.sleep(float(file.read_text()))
    return (yield)


class OneUnit:
    """One unit, called GPU 7, that one job at a time can have."""

    api = 1

    def __init__(self, context, options):
        self.holder = None
        self.log = []

    @hookimpl
    def siteward_check_resources(self, requirement, job_id):
        self.log.append(("check", dict(requirement)))
        if requirement.get("num_of_gpus", 0) == 0:
            return Reservation(token=f"none-{job_id}")
        if self.holder not in (None, job_id):
            return Refusal(reason="busy", message=f"the one GPU is with {self.holder}")
        self.holder = job_id
        return Reservation(token=job_id)

    @hookimpl
    def siteward_cancel_resources(self, token):
        self.siteward_free_resources(token)

    @hookimpl
    def siteward_allocate_resources(self, token, job_id):
        if token == f"none-{job_id}":
            return Allocation(token=token)
        if token != self.holder:
            raise ResourceError(f"{token} holds nothing")
        return Allocation(token=token, env={"CUDA_VISIBLE_DEVICES": "7"})

    @hookimpl
    def siteward_free_resources(self, token):
        self.log.append(("free", token))
        if token == self.holder:
            self.holder = None

    @hookimpl
    def siteward_report_resources(self):
        return {"holder": self.holder, "log": self.log}


ENTRY_POINTS = "[siteward.plugins]\ntest_faults = faults\n[siteward.resources]\none_unit = faults:OneUnit\n"


def install(folder):
    """Make a folder from which this is found as an installed distribution, and return it."""
    info = folder / "siteward_test_faults-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: siteward-test-faults\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    (folder / "faults.py").write_text(Path(__file__).read_text())
    return folder
