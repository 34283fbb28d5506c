"""The Kubernetes backend keeps the whole contract on a real cluster, with the rights that sites are told to give."""

import pytest

from siteward.testing import BackendContract, BackendSetup

from ..machine import images
from ..plugins.k8s.rights import rules
from .containers import ContainerPlatform

pytest_plugins = ["siteward.testing.fixtures"]

# What every pod is told of the API server, with or without a right to ask it.
API_SERVER = {f"KUBERNETES_{name}" for name in ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTPS", "PORT")}
API_SERVER |= {f"KUBERNETES_PORT_443_TCP{name}" for name in ("", "_PROTO", "_PORT", "_ADDR")}


class TestK8s(BackendContract):
    @pytest.fixture
    def backend_setup(self, namespace):
        return BackendSetup(
            name="k8s",
            site_options={"kubeconfig": str(namespace.user("siteward", rules("transfer")))},
            job_options={"image": images.PYTHON, "image_pull_policy": "IfNotPresent"},
            python="/usr/bin/python3",
            shell="/bin/sh",
            base_env={"PATH", "HOME", "HOSTNAME", *API_SERVER},
            patience=6,
            platform=ContainerPlatform(),
        )
