"""Names, labels and refs: by what a pod is told from all others, and found again."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siteward_k8s import layout
from siteward_k8s.place import ParentPod, Place

from .building import OWNER, a_place, built

DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
JOB_IDS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
SITES = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=64)
PARTS = st.tuples(st.sampled_from(["a", "b"]), SITES, JOB_IDS, st.integers(1, 9))


def name_of(owner, site, job_id, attempt):
    return a_place(owner=owner, site=site).pod_name(job_id, attempt)


@given(PARTS)
def test_a_pods_name_is_a_dns_label_and_always_the_same(parts):
    """Whatever the site is called."""
    assert DNS_LABEL.fullmatch(name_of(*parts))
    assert name_of(*parts) == name_of(*parts)


@given(st.lists(PARTS, min_size=2, max_size=20, unique=True))
def test_no_two_jobs_share_a_name(parts):
    """Another owner, site, job or attempt makes another name."""
    assert len({name_of(*each) for each in parts}) == len(parts)


NEAR = [
    ("a", site, job_id, attempt)
    for site in ("site-1", "SITE-1", "site 1", "site_1", "site1", "é ✓", "-", "_", "x" * 64, "x" * 63 + "y", "a-b", "a")
    for job_id in ("j", "j-1", "b-j", "x" * 63, "x" * 62 + "y", "a--b")
    for attempt in (1, 2, 12)
]


def test_names_that_nearly_agree_stay_apart():
    """By case, punctuation, what was cut off, or where one part ends."""
    names = {name_of(*each) for each in NEAR}
    assert len(names) == len(NEAR)
    assert all(DNS_LABEL.fullmatch(each) for each in names)


def test_a_name_can_be_read():
    """The job's id comes first, as far as there is room, then the site."""
    assert a_place().pod_name("fedavg-1a2b3c4d", 1).startswith("fedavg-1a2b3c4d-site-1-")


@given(SITES, JOB_IDS)
def test_labels_hold_any_name(site, job_id):
    """The full texts are in annotations of the same names."""
    labels = a_place(site=site).labels(job_id, 1)
    assert all(LABEL_VALUE.fullmatch(each) for each in labels.values())


def test_what_a_pod_is_marked_with():
    """All that finds it again, and all that another driver needs to judge it."""
    site = {"start_timeout": None, "gated_timeout": 60, "labels": {"team": "fl"}, "annotations": {"note": "x"}}
    place = a_place(site, site="Clinic 1")
    metadata = built({"pending_timeout": 90}, place=place, grace=2.5).manifest["metadata"]
    assert metadata["namespace"] == "fl"
    assert metadata["labels"] == {
        "team": "fl",
        "app.kubernetes.io/name": "siteward-job",
        "app.kubernetes.io/managed-by": "siteward",
        "siteward.dev/owner": OWNER,
        "siteward.dev/site": place.labels("train-1", 1)[layout.SITE],
        "siteward.dev/job-id": "train-1",
        "siteward.dev/attempt": "1",
    }
    assert len(metadata["annotations"].pop("siteward.dev/spec-hash")) == 64
    assert metadata["annotations"] == {
        "note": "x",
        "siteward.dev/site": "Clinic 1",
        "siteward.dev/job-id": "train-1",
        "siteward.dev/name": "train",
        "siteward.dev/backend": "k8s",
        "siteward.dev/container": "job",
        "siteward.dev/job-directory": "transfer",
        "siteward.dev/grace": "2.5",
        "siteward.dev/pending-timeout": "90",
        "siteward.dev/start-timeout": "null",
        "siteward.dev/gated-timeout": "60",
    }
    assert place.selector == f"siteward.dev/owner={OWNER}"


def test_a_pod_belongs_to_its_parents_pod_only_if_that_is_known():
    """So does its Secret: both go with the parent's pod."""
    secrets = {"TOKEN": "hunter2"}
    assert "ownerReferences" not in built(secrets=secrets).manifest["metadata"]
    found = built(place=a_place(parent=ParentPod(name="parent-0", uid="u-1")), secrets=secrets)
    owner = [{"apiVersion": "v1", "kind": "Pod", "name": "parent-0", "uid": "u-1"}]
    assert found.manifest["metadata"]["ownerReferences"] == owner
    assert found.secret["metadata"]["ownerReferences"] == owner


def on_the_cluster(**fields):
    manifest = built(**fields).manifest
    return {**manifest, "metadata": {**manifest["metadata"], "uid": "uid-1"}}


def test_a_pod_is_found_again_by_its_marks():
    """With its full id and the name that it has."""
    pod = on_the_cluster(job_id="x" * 63)
    found = a_place(site="called otherwise since").ref_of(pod)
    assert (found.job_id, found.attempt, found.site) == ("x" * 63, 1, "called otherwise since")
    data = {"name": pod["metadata"]["name"], "uid": "uid-1", "namespace": "fl", "container": "job"}
    data["job_directory"] = "transfer"
    assert found.data == data
    assert a_place().ref("x" * 63, 1).data == {**found.data, "uid": None}


def without(pod, kind, key):
    metadata = pod["metadata"]
    return {**pod, "metadata": {**metadata, kind: {k: v for k, v in metadata[kind].items() if k != key}}}


NOT_OURS = {
    "another's": lambda pod: {
        **pod,
        "metadata": {**pod["metadata"], "labels": {**pod["metadata"]["labels"], layout.OWNER: "other"}},
    },
    "no owner": lambda pod: without(pod, "labels", layout.OWNER),
    "no id": lambda pod: without(pod, "annotations", layout.JOB_ID),
    "no attempt": lambda pod: without(pod, "labels", layout.ATTEMPT),
    "bad attempt": lambda pod: {
        **pod,
        "metadata": {**pod["metadata"], "labels": {**pod["metadata"]["labels"], layout.ATTEMPT: "x"}},
    },
    "bare": lambda pod: {"metadata": {"name": "x", "uid": "u", "labels": None}},
    "empty": lambda pod: {},
}


@pytest.mark.parametrize("name", NOT_OURS)
def test_what_is_no_pod_of_ours(name):
    """Another installation's, anybody's, or one whose marks are not whole."""
    assert a_place().ref_of(NOT_OURS[name](on_the_cluster())) is None


def test_a_pod_that_is_there_already_is_ours_only_if_it_is_the_same():
    """The same job with the same spec; what the cluster adds does not count."""
    wanted = built().manifest
    there = on_the_cluster()
    assert Place.is_same({**there, "spec": {**there["spec"], "nodeName": "n"}}, wanted)
    for other in (
        on_the_cluster(command=["other"]),
        on_the_cluster(attempt=2),
        on_the_cluster(job_id="train-2"),
        on_the_cluster(place=a_place(owner="other")),
        on_the_cluster(env={"A": "1"}),
        {"metadata": {}},
    ):
        assert not a_place().is_same(other, wanted)
