"""A federation with one client whose jobs are containers: FLARE's workspace goes there and comes back."""

import pytest

from ...engine.fixtures import skipping
from . import flare_image
from .federation import Federation, until

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def image(engine):
    """Name an image with NVIDIA FLARE that the engine has."""
    with skipping():
        return flare_image.provide(engine)


@pytest.fixture(scope="module")
def federation(engine, image, tmp_path_factory):
    """A federation whose site-1 runs its jobs in containers and whose site-2 runs processes."""
    federation = Federation(tmp_path_factory.mktemp("flare") / "federation")
    docker = {"docker_host": engine.host, "network": "host", "pull": "never", "default_image": image}
    try:
        federation.prepare()
        federation.install("server")
        federation.install("site-1", backends={"docker": docker}, default_backend="docker")
        federation.install("site-2")
        federation.start()
        yield federation
    finally:
        federation.close()


def containers(engine):
    """Return the containers of site-1 on the engine."""
    with engine.client() as api:
        return api.containers(all=True, filters={"label": "siteward.site=site-1"})


def test_a_client_in_a_container_completes(federation, engine):
    """The job's code and FLARE's kit are in the container, its results are in FLARE's workspace, no key is left."""
    job_id = federation.submit("contained", rounds=2)
    assert federation.finish(job_id, 240) == "FINISHED:COMPLETED"
    row = federation.row("site-1", job_id)
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
    until(lambda: federation.row("site-1", job_id)["state"] != "RUNNING", what="its end")
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
