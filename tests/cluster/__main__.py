"""Run a command where there is a Kubernetes cluster with the test images: ``python -m tests.cluster COMMAND…``.

KUBECONFIG and SITEWARD_TEST_KUBECONFIG in its environment name the cluster. One that was started for the command is
removed after it. ``python -m tests.cluster build`` builds what a cluster needs, and starts none.
"""

import os
import signal
import subprocess
import sys

from ..machine.common import Unprovided
from . import binaries
from .cluster import find_cluster


def main(command: list[str]) -> int:
    """Return the command's exit code."""
    if command == ["build"]:
        binaries.build_all()
        return 0
    if binaries.built() is None:
        print("building Kubernetes: once, and it takes about 7 minutes", file=sys.stderr, flush=True)
    cluster = find_cluster()
    try:
        named = {"KUBECONFIG": str(cluster.kubeconfig), "SITEWARD_TEST_KUBECONFIG": str(cluster.kubeconfig)}
        with subprocess.Popen(command, env={**os.environ, **named}) as process:
            # The command gets an interrupt from the terminal itself, and ends in its own way.
            signal.signal(signal.SIGINT, lambda *_: None)
            signal.signal(signal.SIGTERM, lambda *_: process.terminate())
            return process.wait()
    finally:
        cluster.close()


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Unprovided as why:
        sys.exit(f"no Kubernetes cluster for this: {why}")
