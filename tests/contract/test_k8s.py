"""The Kubernetes backend keeps the whole contract on a real cluster, with the rights that sites are told to give."""

import pytest

from siteward.testing import BackendContract, BackendSetup

from ..machine import images
from ..plugins.k8s.rights import rules
from .containers import ContainerPlatform

pytest_plugins = ["siteward.testing.fixtures"]


class TestK8s(BackendContract):
    @pytest.fixture
    def backend_setup(self, namespace):
        return BackendSetup(
            name="k8s",
            site_options={"kubeconfig": str(namespace.user("siteward", rules("transfer")))},
            job_options={"image": images.PYTHON, "image_pull_policy": "IfNotPresent"},
            python="/usr/bin/python3",
            shell="/bin/sh",
            base_env={"PATH", "HOME", "HOSTNAME"},
            patience=6,
            platform=ContainerPlatform(),
        )
