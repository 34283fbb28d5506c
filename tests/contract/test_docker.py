"""The Docker backend keeps the whole contract: with files that the engine shares, and with files that it does not."""

import os
import time
from pathlib import Path

import psutil
import pytest

from siteward.testing import BackendContract, BackendSetup, LocalPlatform

pytest_plugins = ["siteward.testing.fixtures"]


def make_setup(engine, image, platform, **options):
    return BackendSetup(
        name="docker",
        site_options={"docker_host": engine.host, "network": "none", "pull": "never", **options},
        job_options={"image": image},
        python="/usr/bin/python3",
        shell="/bin/sh",
        base_env={"PATH", "HOME", "HOSTNAME"},
        patience=3,
        platform=platform,
    )


class ContainerPlatform(LocalPlatform):
    """Sees a running job's files through its own root and working directory."""

    def has_file(self, job_dir, job_id, name):
        return any((folder / name).exists() for folder in self._folders(job_id))

    def write_file(self, job_dir, job_id, name):
        # A job that nobody starts just now has its files still at the site.
        give_up = time.monotonic() + 2
        while (folder := next(self._folders(job_id), None)) is None and time.monotonic() < give_up:
            time.sleep(0.05)
        ((folder or job_dir) / name).touch()

    def _folders(self, job_id):
        for process in psutil.process_iter():
            try:
                if process.environ().get("SITEWARD_JOB_ID") == job_id and os.path.exists(f"/proc/{process.pid}/cwd/"):
                    yield Path(f"/proc/{process.pid}/cwd")
            except psutil.Error:
                continue


class TestDocker(BackendContract):
    @pytest.fixture
    def backend_setup(self, engine, python_image):
        return make_setup(engine, python_image, LocalPlatform())


class TestDockerCopy(BackendContract):
    @pytest.fixture
    def backend_setup(self, engine, python_image):
        return make_setup(engine, python_image, ContainerPlatform(), job_directory="copy")
