"""Users of one host share its GPUs, though none can read the others' stores."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from .recorded import eight_gpus

SCRIPT = Path(__file__).with_name("killed.py")
ONE, TWO = 23451, 23452

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be two users one after the other")


@pytest.fixture
def take():
    """Take GPUs as a user, in a process that is then gone: ``take(uid, count)`` returns what it says."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    (folder / "leases").mkdir()
    (folder / "leases").chmod(0o1777)

    def run(uid, count):
        command = [sys.executable, str(SCRIPT), "user", str(folder), str(uid), str(count)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    yield run
    shutil.rmtree(folder)


def test_what_one_user_has_no_other_gets(take):
    """Each sees the other's leases, and uses the same lock."""
    uuids = [card.uuid for card in eight_gpus()]
    assert take(ONE, 2).split() == uuids[:2]
    assert take(TWO, 2).split() == uuids[2:4]
    assert "2 GPUs asked, 0 free; held by job job-23451 of site of-23451 (GPU 0, GPU 1)" in take(ONE + 5, 2)


def test_only_its_own_user_can_tell_that_a_job_is_gone(take):
    """For others it stays; its user's next job gets the GPUs."""
    uuids = [card.uuid for card in eight_gpus()]
    take(ONE, 4)
    assert "held by job job-23451" in take(TWO, 1)
    assert "held by job job-23451" in take(0, 1)
    assert take(ONE, 1) == uuids[0]
