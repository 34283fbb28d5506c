"""What tests with Docker rely on: an engine, images and registries of their own, of which nothing stays."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from ..machine.registry import PASSWORD, USERNAME
from . import images

ROOT = Path(__file__).parents[2]
# Starts an engine with a container that runs on, and dies.
KILLED = """
import os
from tests.engine import dockerd, images
engine = dockerd.own_engine()
image = images.provide(engine, images.BUSYBOX)
with engine.client() as api:
    host = api.create_host_config(network_mode="none", init=True)
    container = api.create_container(image, ["sleep", "1000"], host_config=host)
    api.start(container)
    print(engine.run_dir, engine.folder, flush=True)
os.kill(os.getpid(), 9)
"""


def run(engine, image, *command, **more):
    """Run a container to its end, and return its exit code and output."""
    with engine.client() as api:
        host = api.create_host_config(network_mode="none", read_only=True, init=True)
        container = api.create_container(image, list(command), host_config=host, **more)
        try:
            api.start(container)
            return api.wait(container, timeout=60)["StatusCode"], api.logs(container).decode()
        finally:
            api.remove_container(container, force=True)


def traces(run_dir, folder):
    """Name whatever there is of an engine, apart from its data."""
    found = [f"mount {each.mountpoint}" for each in psutil.disk_partitions(all=True)]
    found = [each for each in found if f"{run_dir}/" in each or f"{folder}/" in each]
    for process in psutil.process_iter(["pid", "name", "cmdline"]):
        found += [str(process)] if f"{run_dir}/" in " ".join(process.info["cmdline"] or ()) else []
    found += [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/{Path(run_dir).name}")]
    return found + ([str(run_dir)] if os.path.exists(run_dir) else [])


def test_the_images_run_for_any_user_on_a_read_only_root(engine, busybox, python_image):
    """A shell, and Python with numpy, start without rights and without a network."""
    assert run(engine, busybox, "sh", "-c", "id -u; exit 7", user="12345") == (7, "12345\n")
    code = "import numpy, os; print(os.getuid(), numpy.arange(4).sum())"
    assert run(engine, python_image, "/usr/bin/python3", "-c", code, user="65534:65534") == (0, "65534 6\n")


def test_an_engine_of_ours_can_be_killed_and_started_again(own_engine):
    """With live-restore its containers run on meanwhile; without its socket it does not answer."""
    engine = own_engine(live_restore=True)
    with engine.client() as api:
        host = api.create_host_config(network_mode="none", init=True)
        image = images.provide(engine, images.BUSYBOX)
        container = api.create_container(image, ["sleep", "1000"], host_config=host)
        api.start(container)
        before = api.inspect_container(container)["State"]["Pid"]
    engine.kill()
    assert engine.pid is None
    assert psutil.pid_exists(before)
    engine.start()
    with engine.client() as api:
        assert api.inspect_container(container)["State"]["Pid"] == before
    with engine.without_socket():
        assert not engine.answers()
    assert engine.answers()
    engine.close()
    assert traces(engine.run_dir, engine.folder) == []


def test_what_a_killed_session_leaves_is_cleared_by_the_next(own_engine):
    """A session that dies leaves its engine and containers running; whoever has its folder next ends them."""
    spare = own_engine()
    done = subprocess.run([sys.executable, "-c", KILLED], cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL
    left = done.stdout.split()
    assert traces(*left) != []
    engine = own_engine()
    assert str(engine.folder) == left[1]
    with engine.client() as api:
        assert api.containers(all=True) == []
    engine.close()
    spare.close()
    assert traces(*left) == []


def test_an_image_can_be_pulled_from_a_registry_of_the_machine(engine, busybox, registry):
    """What was pushed is not on the engine until it is pulled."""
    from docker.errors import ImageNotFound

    name = registry.push(engine, busybox)
    with engine.client() as api:
        with pytest.raises(ImageNotFound):
            api.inspect_image(name)
        api.pull(name)
        api.remove_image(name)


def test_a_closed_registry_gives_nothing_without_a_login(engine, busybox, closed_registry):
    """With the login an image can be pulled, and without it there is an error that says so."""
    from docker.errors import APIError

    name = closed_registry.push(engine, busybox)
    with engine.client() as api:
        with pytest.raises(APIError, match="no basic auth credentials"):
            api.pull(name)
        api.pull(name, auth_config={"username": USERNAME, "password": PASSWORD})
        api.remove_image(name)
