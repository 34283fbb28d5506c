"""What a refused launch leaves: nothing of its own, and all that is somebody else's."""

import logging

import pytest

from siteward import LaunchRefused, Unreachable
from siteward_k8s import creating
from siteward_k8s.errors import Exists, Forbidden, Missing, NotSent, Refused

from .building import a_place, built

PLACE = a_place()


class Objects:
    """A namespace with the objects that are there; ``error`` is what creating a pod raises."""

    def __init__(self, error=None, *, secret=None, pod=None):
        self.error = error
        self.secret, self.pod = secret, pod

    def create_secret(self, secret):
        if self.secret is not None:
            raise Exists("taken")
        self.secret = {**secret, "metadata": {**secret["metadata"], "uid": "new"}}

    def replace_secret(self, _name, secret):
        self.secret = {**secret, "metadata": {**secret["metadata"], "uid": self.secret["metadata"]["uid"]}}

    def get_secret(self, _name):
        if self.secret is None:
            raise Missing("no such secret")
        return self.secret

    def delete_secret(self, _name, *, uid=None):
        assert uid in (None, self.secret["metadata"]["uid"])
        self.secret = None

    def create_pod(self, manifest):
        if self.error is not None:
            raise self.error
        if self.pod is not None:
            raise Exists("taken")
        self.pod = manifest
        return manifest

    def get_pod(self, _name):
        if self.pod is None:
            raise Missing("no such pod")
        return self.pod


def a_job():
    return built(place=PLACE, secrets={"TOKEN": "x"})


def ours():
    return {"metadata": {"uid": "old", "labels": dict(a_job().secret["metadata"]["labels"])}}


FOREIGN = {"metadata": {"uid": "theirs"}}


@pytest.mark.parametrize("error", [Refused("no"), Forbidden("quota"), NotSent("no connection")])
@pytest.mark.parametrize(
    ("there", "left"),
    [
        ({}, None),
        ({"secret": ours()}, None),
        ({"secret": ours(), "pod": {"metadata": {"name": "it runs"}}}, "old"),
    ],
    ids=["nothing", "a leftover", "a job that runs"],
)
def test_a_refused_launch_leaves_no_secret_but_that_of_a_pod(error, there, left):
    """Whatever the reason; one that a pod of this name may use stays."""
    cluster = Objects(error, **there)
    with pytest.raises((LaunchRefused, NotSent)):
        creating.create(cluster, PLACE, a_job(), logging.getLogger())
    assert (cluster.secret and cluster.secret["metadata"]["uid"]) == left


def test_a_secret_that_is_not_ours_stays(monkeypatch):
    """Also when the API server goes away before it is known whose it is."""
    cluster = Objects(secret=FOREIGN)
    with pytest.raises(LaunchRefused, match="not siteward's"):
        creating.create(cluster, PLACE, a_job(), logging.getLogger())
    answers = iter([NotSent("no connection")])
    get = cluster.get_secret

    def get_secret(name):
        for error in answers:
            raise error
        return get(name)

    monkeypatch.setattr(cluster, "get_secret", get_secret)
    with pytest.raises(NotSent):
        creating.create(cluster, PLACE, a_job(), logging.getLogger())
    assert cluster.secret is FOREIGN


def test_an_uncertain_launch_keeps_its_secret():
    """The pod may exist, and need it."""
    cluster = Objects(Unreachable("who knows"))
    with pytest.raises(Unreachable):
        creating.create(cluster, PLACE, a_job(), logging.getLogger())
    assert cluster.secret["metadata"]["uid"] == "new"


def test_a_pod_that_is_on_its_way_out_is_no_launch():
    """It is the same job's, of an earlier launch: what it still does is not this one's."""
    pod = built(place=PLACE).manifest
    pod["metadata"] |= {"deletionTimestamp": "2026-01-01T00:00:00Z", "uid": "1"}
    with pytest.raises(LaunchRefused, match="being deleted"):
        creating.create(Objects(pod=pod), PLACE, built(place=PLACE), logging.getLogger())


def test_the_job_of_a_secret_keeps_its_name():
    """Also when the site was called otherwise when it was created, so that it is the one that is removed."""
    secret = a_job().secret
    secret["metadata"] |= {"name": "as-it-was-called", "uid": "1"}

    class Listing:
        def list_secrets(self, _selector):
            return [secret]

    (ref,) = creating.secret_jobs(Listing(), PLACE, set())
    assert (ref.data["name"], ref.data["uid"]) == ("as-it-was-called", None)
