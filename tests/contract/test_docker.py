"""The Docker backend keeps the whole contract: with files that the engine shares, and with files that it does not."""

import pytest

from siteward.testing import BackendContract, BackendSetup, LocalPlatform

from .containers import ContainerPlatform

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


class TestDocker(BackendContract):
    @pytest.fixture
    def backend_setup(self, engine, python_image):
        return make_setup(engine, python_image, LocalPlatform())


class TestDockerCopy(BackendContract):
    @pytest.fixture
    def backend_setup(self, engine, python_image):
        return make_setup(engine, python_image, ContainerPlatform(), job_directory="copy")
