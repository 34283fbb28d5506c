"""Where images come from, and what happens when they do not."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from siteward import JobState, OptionsRefused
from siteward_docker import client, starting

from .helpers import DEADLINE, Sites, end_of, run, sh, until

IMAGE_ERROR = ("FAILED", "ImageError", 101, None)


def with_image(image):
    return {"launcher_spec": {"default": {"docker": {"image": image}}}}


def test_never_pulling_is_an_end(sites: Sites):
    """An image that the engine does not have is a job that ended as ImageError."""
    handle, result = run(sites.open(), sh("true", **with_image("siteward-test/none:1")))
    assert end_of(result) == IMAGE_ERROR
    assert "siteward-test/none:1" in result.message
    assert sites.containers(handle) == []
    absent = sites.folder / "state" / "plugins" / "docker" / "absent"
    until(lambda: list(absent.iterdir()) == [], "nothing of it is kept")


def test_a_missing_image_is_pulled(sites: Sites, engine, registry, busybox: str):
    """Launch does not wait for it; when it is there the job runs."""
    image = registry.push(engine, busybox)
    site = sites.open(pull="missing")
    try:
        handles = [site.launch(sh("exit 4", **with_image(image))) for _ in range(3)]
        assert [end_of(handle.wait(DEADLINE)) for handle in handles] == [("FAILED", "Error", 1, 4)] * 3
    finally:
        sites.api.remove_image(image)


def test_always_pulling_takes_the_new_one(sites: Sites, engine, registry, busybox: str):
    """Also if the engine has an image of this name."""
    image = registry.push(engine, busybox)
    sites.api.tag(busybox, image.rpartition(":")[0], "1")
    site = sites.open(pull="always")
    try:
        assert run(site, sh("true", **with_image(image)))[1].state is JobState.SUCCEEDED
        registry.stop()
        handle = site.launch(sh("true", **with_image(image)))
        until(lambda: "cannot be pulled" in handle.status().message, "the failed pull is told")
        assert handle.status().state is JobState.PENDING, "a registry that is away may come back"
        registry.start()
        assert handle.wait(DEADLINE).state is JobState.SUCCEEDED
    finally:
        sites.api.remove_image(image)


def test_an_image_that_no_registry_has_is_an_end(sites: Sites, registry):
    """At once: trying again would not help."""
    _, result = run(sites.open(pull="missing"), sh("true", **with_image(f"{registry.address}/none:1")))
    assert end_of(result) == IMAGE_ERROR
    assert f"{registry.address}/none" in result.message


def test_a_registry_that_asks_for_a_login(sites: Sites, engine, closed_registry, busybox: str, monkeypatch):
    """The site's account is used; without one the pull is an end, and the password is in no message."""
    image = closed_registry.push(engine, busybox)
    monkeypatch.setenv("PULL_PASSWORD", "let-me-pull")
    auth = {closed_registry.address: {"username": "puller", "password_env": "PULL_PASSWORD"}}
    try:
        _, result = run(sites.open("site-2", "s2", pull="missing"), sh("true", **with_image(image)))
        assert end_of(result) == IMAGE_ERROR
        _, result = run(sites.open(pull="missing", registry_auth=auth), sh("true", **with_image(image)))
        assert result.state is JobState.SUCCEEDED, result
    finally:
        sites.api.remove_image(image)


def test_a_job_that_waits_for_its_image_can_be_ended(sites: Sites, registry):
    """It is ABORTED, and no container ever comes."""
    registry.stop()
    handle = sites.open(pull="missing").launch(sh("true", **with_image(f"{registry.address}/x:1")))
    until(lambda: "cannot be pulled" in handle.status().message, "the failed pull is told")
    handle.terminate(grace=10)
    assert handle.wait(DEADLINE).state is JobState.ABORTED
    assert sites.containers(handle) == []


def test_a_job_whose_image_did_not_come_before_the_site_closed(sites: Sites, registry):
    """It is known to have never begun: its command and secrets are kept nowhere."""
    registry.stop()
    site = sites.open(pull="missing")
    handle = site.launch(sh("true", **with_image(f"{registry.address}/x:1")))
    until(lambda: "cannot be pulled" in handle.status().message, "the failed pull is told")
    site.close()
    result = sites.open(pull="missing").attach(handle.job_id).wait(DEADLINE)
    assert end_of(result) == ("FAILED", "LaunchFailed", 101, None)


def test_an_image_that_goes_between_check_and_create(sites: Sites, engine, registry, busybox: str):
    """There is no check: creating finds that it is gone, and it is pulled again."""
    image = registry.push(engine, busybox)
    site = sites.open(pull="missing")
    try:
        assert run(site, sh("true", **with_image(image)))[1].state is JobState.SUCCEEDED
        sites.api.remove_image(image)
        assert run(site, sh("true", **with_image(image)))[1].state is JobState.SUCCEEDED
    finally:
        sites.api.remove_image(image)


def test_only_allowed_images_start(sites: Sites):
    """A job that asks for another is refused before anything exists."""
    site = sites.open(allowed_images=["registry.local/*"])
    with pytest.raises(OptionsRefused, match="allows only images like registry"):
        site.launch(sh("true", **with_image("evil/image")))
    assert run(site, sh("true"))[1].state is JobState.SUCCEEDED


def test_a_registry_that_never_answers_is_an_end(sites: Sites, monkeypatch: pytest.MonkeyPatch):
    """It is no outage of the engine, which is to be waited for: the job would keep all others from their images."""
    monkeypatch.setattr(client, "_PULL_SILENCE", 1)
    monkeypatch.setattr(starting, "_LONGEST_PAUSE", 0.1)
    with silent_registry() as address:
        _, result = run(sites.open(pull="missing"), sh("true", **with_image(f"{address}/x:1")))
    assert end_of(result) == IMAGE_ERROR
    assert f"{address}/x:1" in result.message


def test_a_registry_that_never_answers_keeps_no_site_open(sites: Sites):
    """Closing does not wait for it."""
    with silent_registry() as address:
        site = sites.open(pull="missing")
        site.launch(sh("true", **with_image(f"{address}/x:1")))
        closing = threading.Thread(target=site.close, daemon=True)
        closing.start()
        closing.join(DEADLINE)
        assert not closing.is_alive()


@contextmanager
def silent_registry():
    """Serve a registry that says that it is one, and nothing else."""
    over = threading.Event()

    class Silent(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path != "/v2/":
                over.wait()
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_args):
            pass

    ThreadingHTTPServer.daemon_threads = True
    with ThreadingHTTPServer(("127.0.0.1", 0), Silent) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield "127.0.0.1:{1}".format(*server.server_address)
        finally:
            over.set()
            server.shutdown()
