"""What `siteward doctor` finds of a cluster that is not as a site needs it."""

import pytest

from siteward_k8s.check import check_cluster
from siteward_k8s.errors import Forbidden, Missing
from siteward_k8s.options import SiteOptions


class Answering:
    """A cluster where all is allowed but ``denied``, without quotas; a pod that is only tried may raise an error.

    ``name`` is what it calls the user.
    """

    address, namespace = "https://api", "fl"

    def __init__(self, *, denied=(), trial_error=None, gpus="0", name=""):
        self.denied, self.trial_error, self.gpus, self.name = denied, trial_error, gpus, name

    def version(self):
        return {"gitVersion": "v1.33.1", "platform": "linux/amd64"}

    def review(self, verb, resource, part):
        return self.denied != "all" and (verb, resource) not in self.denied

    def user(self):
        return self.name

    def create_pod(self, manifest, *, dry):
        assert dry
        if self.trial_error is not None:
            raise self.trial_error

    def get(self, path):
        return {"items": []}

    def list_nodes(self):
        return [{"status": {"allocatable": {"nvidia.com/gpu": self.gpus}}}, {"status": {"allocatable": {}}}]


def found(cluster):
    return {(each.subject, each.level): each for each in check_cluster(cluster, SiteOptions(max_gpus=4))}


def test_a_namespace_that_is_not_there_is_told():
    """Lists of what is in it are as empty as those of one that is there."""
    told = found(Answering(trial_error=Missing("none")))
    assert "create namespace fl" in told["namespace", "fail"].remedy


def test_a_pod_that_is_refused_for_what_it_is_says_nothing_of_the_namespace():
    """Admission may have rules that only a job's own pod keeps."""
    told = found(Answering(trial_error=Forbidden("no")))
    assert not [subject for subject, level in told if level == "fail"]


NOWHERE = {
    "an account of another namespace": (
        "system:serviceaccount:clinic:siteward",
        "'system:serviceaccount:clinic:siteward' may do nothing in namespace fl: it may not exist, or the account is"
        " one of namespace clinic",
        "Set `namespace: clinic` in the site file, or have fl created",
    ),
    "an account without rights": (
        "system:serviceaccount:fl:siteward",
        "may do nothing in namespace fl: it may not exist, or this user works in another one, or has no Role yet",
        "Set another `namespace`",
    ),
    "a person": ("jane", "the user 'jane' may do nothing in namespace fl", "Set another `namespace` in the site file"),
    "nobody knows who": ("", "this user may do nothing in namespace fl", "Set another `namespace` in the site file"),
}


@pytest.mark.parametrize(("name", "words", "remedy"), NOWHERE.values(), ids=NOWHERE)
def test_a_namespace_where_nothing_is_allowed_is_told_first(name, words, remedy):
    """Who is refused everything has named the wrong namespace, or has no Role in it."""
    findings = check_cluster(Answering(denied="all", trial_error=Forbidden("no"), name=name), SiteOptions())
    first, *rest = [each for each in findings if each.level != "ok"]
    assert (first.subject, first.level) == ("namespace", "fail")
    assert words in first.message and remedy in first.remedy
    assert {each.subject for each in rest} == {"permissions"}


def test_one_right_is_enough_not_to_doubt_the_namespace():
    """What is missing is told right by right."""
    denied = {(verb, "pods") for verb in ("create", "get", "list", "delete", "watch", "patch")}
    assert ("namespace", "fail") not in found(Answering(denied=denied))


@pytest.mark.parametrize("verb", ["create", "get", "list", "update", "patch", "delete"])
def test_each_right_that_jobs_with_secrets_use_is_asked_for(verb):
    """Without it they are refused, or something is left of them."""
    told = found(Answering(denied={(verb, "secrets")}))
    assert f"may not {verb} secrets" in told["permissions", "warn"].message


def test_the_server_and_its_gpus_are_named():
    """The version as kubectl has it; counts as Kubernetes writes them."""
    told = found(Answering(gpus="1k"))
    assert told["cluster", "ok"].message == "https://api: Kubernetes v1.33.1"
    assert "1000 in all" in told["nodes", "ok"].message
