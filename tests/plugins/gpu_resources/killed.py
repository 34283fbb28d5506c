"""Takes and gives back GPUs in children that are killed: at each line in turn, or at random by whoever runs this.

``killed.py lines FOLDER``: for each line that the three steps run, a child dies right before it.
``killed.py worker FOLDER NUMBER CYCLES``: cycles, counted in a file, until done or killed.
``killed.py user FOLDER UID COUNT``: as another user, take so many GPUs, tell which, and be gone without a word.
"""

import contextlib
import fcntl
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))
from tests.plugins.gpu_resources import recorded

CARDS = 4
sys.modules["pynvml"] = recorded.pynvml(recorded.eight_gpus()[:CARDS])

from tests.plugins.gpu_resources.helpers import Host, gpus, take, until  # noqa: E402

from siteward import Refusal, ResourceError, job_lives  # noqa: E402, F401 - before another user can't read it
from siteward_gpu_resources import leases  # noqa: E402

SOURCES = "siteward_gpu_resources"


def die_before_line(number):
    """Kill this process when it is about to run the number-th line of the distribution."""
    left = [number]

    def trace(frame, event, _argument):
        if SOURCES not in frame.f_code.co_filename:
            return None
        if event == "line":
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


def cycle(manager):
    answer = manager.siteward_check_resources(gpus(2, 10), "victim")
    manager.siteward_allocate_resources(answer.token, "victim")
    manager.siteward_free_resources(answer.token)


def at_each_line(folder):
    """Print how many lines there were; at each, what a living job has stays its own and the rest gets free."""
    host = Host(folder)
    host.manager()
    kept = take(host.manager(site="other"), gpus(1), "kept").devices
    manager = host.manager(site="judge")
    now, leases.now = leases.now, lambda: now() + 3600  # to the judge all reservations of the others have expired
    for number in range(100_000):
        child = os.fork()
        if child == 0:
            leases.now = now
            victim = host.manager()
            die_before_line(number)
            cycle(victim)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        reservation = until(lambda: free_again(manager), "the GPUs are free again")
        assert kept[0] not in reservation.units
        manager.siteward_cancel_resources(reservation.token)
        names = {path.name for path in host.leases.iterdir()}
        assert len(names) == 2, names
        if os.waitstatus_to_exitcode(status) == 0:
            print(number)
            return
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, status


def free_again(manager):
    answer = manager.siteward_check_resources(gpus(CARDS - 1), "judge")
    return None if isinstance(answer, Refusal) else answer


def work(folder, number, cycles):
    """Go on from what the file says; a GPU that another job has too is found by a lock that its job holds."""
    manager = Host(folder).manager(site=f"site-{number % 3}", expiration_period=0.5)
    count = int((folder / f"count-{number}").read_text())
    descriptor = os.open(folder / f"count-{number}", os.O_WRONLY)
    while count < cycles:
        job_id = f"job-{number}"
        answer = manager.siteward_check_resources(gpus(1 + count % 2), job_id)
        if isinstance(answer, Refusal):
            continue
        try:
            devices = manager.siteward_allocate_resources(answer.token, job_id).devices
        except ResourceError as error:
            assert "expired" in str(error), error
            continue
        assert len(devices) == 1 + count % 2
        with contextlib.ExitStack() as stack:
            for uuid in devices:
                stream = stack.enter_context((folder / f"lock-{uuid}").open("w"))
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        manager.siteward_free_resources(answer.token)
        count += 1
        os.pwrite(descriptor, str(count).encode(), 0)


def take_as(folder, uid, count):
    """Be another user, with files of its own that nobody else can read."""
    (folder / str(uid)).mkdir(exist_ok=True)
    os.chown(folder / str(uid), uid, uid)
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
    os.umask(0o077)
    host = Host(folder / str(uid))
    host.leases = folder / "leases"
    answer = host.manager(site=f"of-{uid}").siteward_check_resources(gpus(count), f"job-{uid}")
    if isinstance(answer, Refusal):
        print(answer.message)
    else:
        host.manager(site=f"of-{uid}").siteward_allocate_resources(answer.token, f"job-{uid}")
        print(*answer.units)


if __name__ == "__main__":
    what, folder, *numbers = sys.argv[1:]
    if what == "lines":
        at_each_line(Path(folder))
    elif what == "user":
        take_as(Path(folder), *map(int, numbers))
    else:
        work(Path(folder), *map(int, numbers))
