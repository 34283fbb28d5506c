"""A federation with one client whose jobs are containers: FLARE's workspace goes there and comes back."""

import io
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest

from ...engine import images
from ...engine.fixtures import skipping
from .federation import Federation, until

IMAGE_PYTHON = (3, 11)
PACKAGES = "/usr/local/lib/python3.11/dist-packages"
BASE, IMAGE = "siteward-test/flare:1", "siteward-test/nvflare"
LABEL = "siteward-test.nvflare"
pytestmark = pytest.mark.timeout(900)
NOT_IN_IMAGES = ("siteward", "__editable__", "pytest", "_pytest", "docker")


@pytest.fixture(scope="module")
def flare_image(engine):
    """Name an image with Debian's Python and this environment's NVIDIA FLARE, which the engine has."""
    if sys.version_info[:2] != IMAGE_PYTHON:
        pytest.skip(f"needs the Python of Debian's image for FLARE's packages: run these tests with {IMAGE_PYTHON}")
    with skipping():
        base = images.provide(engine, BASE)
    with engine.client() as api:
        recipe = f"{api.inspect_image(base)['Id'].partition(':')[2][:12]}-{version('nvflare')}-{version('numpy')}"
        if not api.images(IMAGE, filters={"label": f"{LABEL}={recipe}"}):
            container = api.create_container(base, ["python3"])["Id"]
            try:
                for path in packages():
                    api.put_archive(container, PACKAGES, packed(path))
                api.commit(container, IMAGE, "1", changes=f"LABEL {LABEL}={recipe}")
            finally:
                api.remove_container(container)
    return f"{IMAGE}:1"


def packages():
    """Return what is installed beside NVIDIA FLARE in this environment."""
    folder = Path(sys.modules["pytest"].__file__).parents[1]
    return [path for path in folder.iterdir() if not path.name.startswith(NOT_IN_IMAGES)]


def packed(path):
    """Return a tar of one file or folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(path, path.name)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def federation(engine, flare_image, tmp_path_factory):
    """A federation whose site-1 runs its jobs in containers and whose site-2 runs processes."""
    federation = Federation(tmp_path_factory.mktemp("flare") / "federation")
    docker = {"docker_host": engine.host, "network": "host", "pull": "never", "default_image": flare_image}
    try:
        federation.prepare()
        federation.install("server")
        federation.install("site-1", backends={"docker": docker}, default_backend="docker")
        federation.install("site-2")
        federation.start()
        yield federation
    finally:
        federation.close()


def row_of(federation, job_id):
    """Return what siteward says of a job at site-1."""
    return next(row for row in federation.siteward("site-1", "ps", "--all") if row["job_id"].startswith(job_id))


def containers(engine):
    """Return the containers of site-1 on the engine."""
    with engine.client() as api:
        return api.containers(all=True, filters={"label": "siteward.site=site-1"})


def test_a_client_in_a_container_completes(federation, engine):
    """The job's code and FLARE's kit are in the container, its results are in FLARE's workspace, no key is left."""
    job_id = federation.submit("contained", rounds=2)
    assert federation.finish(job_id, 240) == "FINISHED:COMPLETED"
    row = row_of(federation, job_id)
    assert (row["backend"], row["state"]) == ("docker", "SUCCEEDED")
    assert "site-1" in (federation.kit("site-1") / job_id / "log.txt").read_text()
    kept = federation.folder / "sites" / "site-1" / "state"
    assert not list(kept.rglob("client.key"))
    until(lambda: not containers(engine), what="the container's removal")


def test_an_aborted_container_leaves_what_it_had(federation, engine):
    """FLARE's own Docker launcher stops it with no grace; here its files come home, and it is removed."""
    job_id = federation.submit("hangs", train_args="--fault slow --at site-1")
    until(lambda: "round 0" in "".join(logs(federation, job_id)), what="training")
    federation.ask("abort", job_id)
    assert federation.finish(job_id) == "FINISHED:ABORTED"
    until(lambda: row_of(federation, job_id)["state"] != "RUNNING", what="its end")
    until((federation.kit("site-1") / job_id / "log.txt").exists, what="its files")
    until(lambda: not containers(engine), what="the container's removal")


def logs(federation, job_id):
    """Return the output of a job at site-1 as siteward has it so far."""
    rows = federation.siteward("site-1", "ps", "--all")
    ids = [row["job_id"] for row in rows if row["job_id"].startswith(job_id)]
    site = ("--site", federation.folder / "sites" / "site-1" / "site.yaml")
    return [federation.run(federation.bin / "siteward", "logs", each, *site) for each in ids]


def test_a_code_of_a_container_reaches_the_server(federation):
    """FLARE's own Docker launcher makes 1 of 103."""
    job_id = federation.submit("misconfigured", train_args="--fault exit:103 --at site-1")
    assert federation.finish(job_id) == "FINISHED:EXECUTION_EXCEPTION"
    assert f"run ({job_id}): child worker process finished with RC 103" in federation.log("site-1")
