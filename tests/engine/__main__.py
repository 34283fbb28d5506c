"""Run a command where there is a Docker engine with the test images: ``python -m tests.engine COMMAND…``.

DOCKER_HOST in the command's environment names the engine. One that was started for the command is stopped after it.
"""

import os
import signal
import subprocess
import sys

from ..machine.common import Unprovided
from . import dockerd, images


def main(command: list[str]) -> int:
    """Return the command's exit code."""
    engine = dockerd.find_engine()
    try:
        for image in (images.BUSYBOX, images.PYTHON):
            images.provide(engine, image)
        with subprocess.Popen(command, env={**os.environ, "DOCKER_HOST": engine.host}) as process:
            # The command gets an interrupt from the terminal itself, and ends in its own way.
            signal.signal(signal.SIGINT, lambda *_: None)
            signal.signal(signal.SIGTERM, lambda *_: process.terminate())
            return process.wait()
    finally:
        engine.close()


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Unprovided as why:
        sys.exit(f"no Docker engine for this: {why}")
