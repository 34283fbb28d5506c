"""Pod templates: which container is the job's, what siteward puts into them, and what it leaves alone."""

import json
import os

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from siteward import OptionsRefused
from siteward_k8s.build import build_pod
from siteward_k8s.limits import resolve
from siteward_k8s.options import SiteOptions, StudyOptions
from siteward_k8s.template import read_template, template_of

from .building import BASE, a_place, a_request, built, env_of, main_of, spec_of


def pod(*containers, **spec):
    return {"apiVersion": "v1", "kind": "Pod", "spec": {"containers": list(containers), **spec}}


def with_template(*containers, site=None, **spec):
    return {"pod_template": pod(*containers, **spec), **(site or {})}


SIDE = {"name": "proxy", "image": "proxy:1", "command": ["envoy"]}
MAINS = {
    "job": ([SIDE, {"name": "job", "stdin": True}], "job", ["proxy", "job"]),
    "FLARE's": ([{"name": "nvflare_job", "stdin": True}, SIDE], "job", ["job", "proxy"]),
    "the only one": ([{"name": "trainer", "stdin": True}], "trainer", ["trainer"]),
    "no name": ([{"stdin": True}], "job", ["job"]),
}


@pytest.mark.parametrize("name", MAINS)
def test_which_container_is_the_jobs(name):
    """The one named job, else the only one; the annotation says which, and all stay in their places."""
    containers, main, order = MAINS[name]
    site = with_template(*containers)
    assert main_of(site=site)["name"] == main
    assert main_of(site=site)["stdin"] is True
    assert [each["name"] for each in spec_of(site=site)["containers"]] == [*order, "siteward-helper"]


@pytest.mark.parametrize(
    "template", [{}, {"spec": {}}, {"spec": {"containers": []}}, {"spec": {"containers": None}}, {"metadata": None}]
)
def test_a_template_need_not_have_the_jobs_container(template):
    """Then it is made as without one."""
    assert built(site={"pod_template": template}).manifest == built().manifest


def test_everything_that_is_not_siteward_s_stays_as_it_is():
    """Sidecars, init containers after the staging one, affinity, ports, probes, labels."""
    init = {"name": "warm", "image": "warm:1", "restartPolicy": "Always"}
    kept = {
        "affinity": {"nodeAffinity": {}},
        "hostAliases": [{"ip": "10.0.0.5", "hostnames": ["fl"]}],
        "dnsPolicy": "None",
        "schedulerName": "volcano",
        "hostNetwork": True,
        "runtimeClassName": "gvisor",
        "automountServiceAccountToken": True,
        "terminationGracePeriodSeconds": 99,
        "activeDeadlineSeconds": 5,
    }
    main = {
        "name": "job",
        "ports": [{"containerPort": 1}],
        "livenessProbe": {"exec": {"command": ["x"]}},
        "envFrom": [{"configMapRef": {"name": "c"}}],
    }
    template = {
        **pod(main, SIDE, initContainers=[init], **kept),
        "metadata": {
            "labels": {"team": "fl"},
            "annotations": {"sidecar.istio.io/inject": "false"},
            "name": "x",
            "uid": "u",
        },
    }
    found = built(site={"pod_template": template}, timeout=1)
    spec, metadata = found.manifest["spec"], found.manifest["metadata"]
    assert {key: spec[key] for key in kept} == kept
    assert {key: spec["containers"][0][key] for key in main} == main
    assert spec["containers"][1] == SIDE
    assert [each["name"] for each in spec["initContainers"]] == ["siteward-stage", "warm"]
    assert spec["initContainers"][1] == init
    assert metadata["labels"]["team"] == "fl"
    assert metadata["annotations"]["sidecar.istio.io/inject"] == "false"
    assert metadata["name"].startswith("train-1-")
    assert "uid" not in metadata
    assert found.warnings == ()


def test_what_runs_is_the_jobs_not_the_templates():
    """Image, command and arguments go without a word: that is what a template is for."""
    main = {"name": "job", "image": "placeholder", "command": ["sleep"], "args": ["inf"], "imagePullPolicy": "Never"}
    site = with_template(main)
    found = main_of(site=site)
    assert (found["image"], found["command"], "args" in found) == ("img:1", ["python3", "x.py"], False)
    assert found["imagePullPolicy"] == "Never"
    assert main_of({"image_pull_policy": "Always"}, site)["imagePullPolicy"] == "Always"
    assert built(site=site).warnings == ()


def test_the_environment_is_merged_by_name():
    """The template's order, its sources and its references stay; the job's own word is stronger."""
    env = [
        {"name": "A", "value": "template"},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "B", "value": "$(A)/x"},
        {"name": "HOME", "value": "/home/fl"},
    ]
    site = with_template({"name": "job", "env": env})
    found = env_of(site=site, env={"A": "job"})
    assert found["A"] == "job"
    assert found["NODE"] == {"fieldRef": {"fieldPath": "spec.nodeName"}}
    assert found["B"] == "$(A)/x"
    assert found["HOME"] == "/home/fl"
    names = [each["name"] for each in main_of(site=site)["env"]]
    assert names[:4] == ["HOME", "A", "NODE", "B"]
    assert len(names) == len(set(names))
    assert env_of(site={**site, "env": {"A": "site"}})["A"] == "site"


def test_the_job_directory_goes_before_the_templates_python_path():
    """Regression (8.1, 11): the template's was replaced. One with valueFrom is left alone, with a warning."""
    module = {"command": None, "module": "fl"}
    assert (
        env_of(site=with_template({"env": [{"name": "PYTHONPATH", "value": "/lib"}]}), **module)["PYTHONPATH"]
        == "/siteward/job:/lib"
    )
    source = {"configMapKeyRef": {"name": "c", "key": "k"}}
    elsewhere = with_template({"env": [{"name": "PYTHONPATH", "valueFrom": source}]})
    assert env_of(site=elsewhere, **module)["PYTHONPATH"] == source
    assert "PYTHONPATH comes from elsewhere" in built(site=elsewhere, **module).warnings[0]


def test_the_templates_word_on_gpus_counts():
    """A template is the site's: what it says of devices stays, whatever the job says."""
    env = [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "0"}]
    assert (
        env_of(site=with_template({"env": env}), env={"NVIDIA_VISIBLE_DEVICES": "all"})["NVIDIA_VISIBLE_DEVICES"] == "0"
    )
    own = with_template({"resources": {"limits": {"nvidia.com/mig-1g.5gb": 1}}}, site={"max_gpus": 0})
    assert "NVIDIA_VISIBLE_DEVICES" not in env_of(site=own)


def test_mounts_are_merged_by_path():
    """Regression (8.1, 11): two mounts of one volume got one path.

    A path that siteward needs is siteward's, with a warning.
    """
    mounts = [
        {"name": "siteward-job", "mountPath": "/work"},
        {"name": "siteward-job", "mountPath": "/also", "subPath": "x"},
        {"name": "shm", "mountPath": "/dev/shm"},
        {"name": "shm", "mountPath": "/siteward/"},
    ]
    site = with_template(
        {"volumeMounts": mounts, "volumeDevices": [{"name": "d", "devicePath": "/dev/x"}]},
        volumes=[{"name": "shm", "emptyDir": {"medium": "Memory"}}],
    )
    main = main_of(site=site)
    assert main["volumeMounts"] == [*mounts[:3], {"name": "siteward-job", "mountPath": "/siteward"}]
    assert main["volumeDevices"] == [{"name": "d", "devicePath": "/dev/x"}]
    assert built(site=site).warnings == (
        "container job: /siteward is siteward's and takes the place of the template's",
    )
    assert spec_of(site=site)["volumes"][0] == {"name": "shm", "emptyDir": {"medium": "Memory"}}


def test_volumes_and_pull_secrets_are_merged_by_name():
    """The template's first."""
    volumes = [{"name": "a", "emptyDir": {}}, {"name": "siteward-job", "emptyDir": {"medium": "Memory"}}]
    site = with_template(volumes=volumes, imagePullSecrets=[{"name": "a"}], site={"image_pull_secrets": ["b", "a"]})
    spec = spec_of(site=site)
    assert [each["name"] for each in spec["volumes"]] == ["a", "siteward-job", "siteward-control"]
    assert spec["volumes"][1] == {"name": "siteward-job", "emptyDir": {}}
    assert spec["imagePullSecrets"] == [{"name": "a"}, {"name": "b"}]
    assert built(site=site).warnings == (
        "spec.volumes: siteward-job is siteward's and takes the place of the template's",
    )


RESOURCES = {
    "nothing asked": ({}, {}, {"cpu": "2", "rdma/hca": 1}, {"cpu": "1"}),
    "one asked": ({"cpu": "4"}, {}, {"cpu": "4", "rdma/hca": 1}, {"cpu": "4"}),
    "another asked": (
        {"memory": "1Gi"},
        {},
        {"cpu": "2", "rdma/hca": 1, "memory": "1Gi"},
        {"cpu": "1", "memory": "1Gi"},
    ),
    "caps": (
        {},
        {"max_cpu": "1", "max_memory": "2Gi"},
        {"cpu": "2", "rdma/hca": 1, "memory": "2Gi"},
        {"cpu": "1", "memory": "0"},
    ),
    "GPUs": (
        {"num_of_gpus": 2},
        {},
        {"cpu": "2", "rdma/hca": 1, "nvidia.com/gpu": "2"},
        {"cpu": "1", "nvidia.com/gpu": "2"},
    ),
}


@pytest.mark.parametrize("name", RESOURCES)
def test_resources_are_merged_key_by_key(name):
    """Regression (8.1, 11): the template's were dropped.

    What the job does not speak of stays; of the site's caps the template knows best.
    """
    job, site, limits, requests = RESOURCES[name]
    template = {
        "resources": {"limits": {"cpu": "2", "rdma/hca": 1}, "requests": {"cpu": "1"}, "claims": [{"name": "c"}]}
    }
    found = main_of(job, with_template(template, site=site))["resources"]
    assert found == {"limits": limits, "requests": requests, "claims": [{"name": "c"}]}


def test_a_job_that_asks_for_0_gpus_is_not_given_the_templates():
    """An explicit 0 is an answer."""
    site = with_template({"resources": {"limits": {"nvidia.com/gpu": 1}}})
    assert main_of(site=site)["resources"]["limits"] == {"nvidia.com/gpu": 1}
    assert "resources" not in main_of({"num_of_gpus": 0}, site)


def test_security_contexts():
    """Regression (8.1, 11): the template's were dropped.

    They go over the safe default, the site's options over both, with a warning where they differ.
    """
    main = {"securityContext": {"runAsUser": 5, "capabilities": {"add": ["NET_RAW"]}}}
    template = pod(main, securityContext={"fsGroup": 7, "runAsUser": 2000, "runAsGroup": 9})
    site = {"pod_template": template, "pod_security_context": {"runAsUser": 3000, "runAsGroup": 9}}
    found = built(site=site)
    assert found.manifest["spec"]["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 3000,
        "runAsGroup": 9,
        "fsGroup": 7,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    (words,) = found.warnings
    assert words == "spec.securityContext.runAsUser: 3000 takes the place of the template's 2000"
    main_context = {
        "allowPrivilegeEscalation": False,
        "runAsUser": 5,
        "capabilities": {"drop": ["ALL"], "add": ["NET_RAW"]},
    }
    assert main_of(site=site)["securityContext"] == main_context
    helper = spec_of(site=site)["containers"][-1]["securityContext"]
    assert helper == {**main_context, "capabilities": {"drop": ["ALL"]}}


def test_what_siteward_must_decide_is_told():
    """Restarts, the shared process namespace, the namespace, labels and the site's own options."""
    template = {
        **pod(
            {"workingDir": "/x"},
            restartPolicy="Always",
            shareProcessNamespace=False,
            serviceAccountName="t",
            nodeSelector={"a": "t", "b": "t"},
            tolerations=[{"key": "t"}],
            priorityClassName="t",
        ),
        "metadata": {"namespace": "other", "labels": {"siteward.dev/site": "forged"}},
    }
    options = {
        "service_account": "s",
        "node_selector": {"a": "s"},
        "tolerations": [{"key": "s"}, {"key": "t"}],
        "priority_class": "s",
    }
    found = built(site={"pod_template": template, **options})
    spec, metadata = found.manifest["spec"], found.manifest["metadata"]
    assert (spec["restartPolicy"], spec["shareProcessNamespace"]) == ("Never", True)
    assert (spec["serviceAccountName"], spec["priorityClassName"]) == ("s", "s")
    assert spec["nodeSelector"] == {"a": "s", "b": "t"}
    assert spec["tolerations"] == [{"key": "t"}, {"key": "s"}]
    assert (metadata["namespace"], metadata["labels"]["siteward.dev/site"]) == ("fl", "site-1")
    places = {words.partition(":")[0] for words in found.warnings}
    assert places == {
        *("container job.workingDir", "spec.restartPolicy", "spec.shareProcessNamespace", "spec.serviceAccountName"),
        *("spec.priorityClassName", "spec.nodeSelector.a", "metadata.namespace", "metadata.labels.siteward.dev/site"),
    }


def test_a_pod_in_the_nodes_process_namespace_cannot_share_its_own():
    """The API takes no pod with both."""
    assert "shareProcessNamespace" not in spec_of(site=with_template(hostPID=True))


# --- reading ------------------------------------------------------------------------------------------------


def test_a_studys_template_takes_the_place_of_the_sites(tmp_path):
    """It is not merged with it."""
    site = SiteOptions(pod_template=pod(SIDE))
    own = pod({"name": "own"})
    assert template_of(site, StudyOptions(pod_template=own), tmp_path) == own
    assert template_of(site, StudyOptions(), tmp_path) == pod(SIDE)
    assert template_of(site, None, tmp_path) == pod(SIDE)
    assert template_of(SiteOptions(), StudyOptions(), tmp_path) is None


def test_a_template_may_be_a_file(tmp_path):
    """YAML with anchors or JSON, found from the site file's folder, and read again when it has changed."""
    path = tmp_path / "pod.yaml"
    path.write_text(
        "x-limits: 1\n".replace("x-limits: 1\n", "") + "spec: {nodeSelector: &a {k: v}, containers: [{name: job}]}\n"
    )
    assert read_template("pod.yaml", tmp_path)["spec"]["nodeSelector"] == {"k": "v"}
    assert read_template(str(path), BASE) == read_template("pod.yaml", tmp_path)
    path.write_text(json.dumps(pod({"name": "other-name"})))
    os.utime(path, ns=(1, 1))
    assert read_template("pod.yaml", tmp_path) == pod({"name": "other-name"})


BROKEN = {
    "text": ("just words", "expected a Pod, got text"),
    "empty": ("", "expected a Pod, got nothing"),
    "yaml": ("spec: [", "line 1, column 8: is not YAML: expected the node content"),
    "python": ("!!python/object/apply:os.system [id]", "is not YAML: could not determine a constructor"),
    "binary": ("spec: \x00", "is not YAML"),
    "key twice": ("spec: {}\nkind: Pod\nspec: {}", "line 1, column 1: is not YAML: 'spec' is there twice"),
    "kind": ("kind: Deployment", "kind: expected Pod, got 'Deployment'"),
    "version": ("apiVersion: v2", "apiVersion: expected v1, got 'v2'"),
    "key": ("sepc: {}", "sepc: unknown key; a Pod has apiVersion, kind, metadata, spec, status"),
    "spec": ("spec: []", "spec: expected a mapping, got a list"),
    "metadata": ("metadata: {labels: {a: 1}}", "metadata.labels.a: expected text, got 1; quote it"),
    "containers": ("spec: {containers: {name: job}}", "spec.containers: expected a list, got a mapping"),
    "container": ("spec: {containers: [job]}", "spec.containers[0]: expected a mapping, got text"),
    "several": (
        "spec: {containers: [{name: a}, {name: b}]}",
        "spec.containers: more than one container, and none is named job",
    ),
    "no name": ("spec: {containers: [{name: job}, {image: x}]}", "spec.containers[1].name: is missing"),
    "twice": (
        "spec: {containers: [{name: job}, {name: job}]}",
        "spec.containers[1].name: job is another container's too",
    ),
    "ours": ("spec: {containers: [{name: job}, {name: siteward-helper}]}", "siteward-helper is siteward's own"),
    "init": (
        "spec: {initContainers: [{name: siteward-stage}]}",
        "spec.initContainers[0].name: siteward-stage is siteward's own",
    ),
    "env": ("spec: {containers: [{env: {A: b}}]}", "spec.containers[0].env: expected a list, got a mapping"),
    "env value": (
        "spec: {containers: [{env: [{name: A, value: 1}]}]}",
        "spec.containers[0].env[0].value: expected text, got 1; quote it",
    ),
    "env name": ("spec: {containers: [{env: [{value: x}]}]}", "spec.containers[0].env[0].name: is missing"),
    "mount": (
        "spec: {containers: [{volumeMounts: [{name: a}]}]}",
        "spec.containers[0].volumeMounts[0].mountPath: is missing",
    ),
    "mounts twice": (
        "spec: {containers: [{volumeMounts: [{name: a, mountPath: /x}, {name: b, mountPath: /x}]}]}",
        "spec.containers[0].volumeMounts[1].mountPath: /x is there twice",
    ),
    "volume": ("spec: {volumes: [{emptyDir: {}}]}", "spec.volumes[0].name: is missing"),
    "resources": (
        "spec: {containers: [{resources: {limits: [cpu]}}]}",
        "spec.containers[0].resources.limits: expected a mapping",
    ),
    "context": ("spec: {securityContext: root}", "spec.securityContext: expected a mapping, got text"),
    "selector": ("spec: {nodeSelector: {gpu: true}}", "spec.nodeSelector.gpu: expected text, got True; quote it"),
    "date": ("metadata: {creationTimestamp: 2026-01-01}", "put quotes around dates"),
    "endless": ("spec: &a {affinity: *a}", "holds something that a Pod cannot"),
    "long": ("#" + "x" * 2**20, "is 1048577 bytes long; a template has at most 1048576"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_bad_template_names_file_place_and_reason(name, tmp_path):
    """All that is wrong at once, never a traceback."""
    text, words = BROKEN[name]
    path = tmp_path / "cancer-pod.yaml"
    path.write_text(text)
    with pytest.raises(OptionsRefused) as caught:
        read_template("cancer-pod.yaml", tmp_path)
    assert words in str(caught.value)
    assert all(str(each).startswith(f"pod_template: {path}: ") for each in caught.value.problems)


@pytest.mark.parametrize("make", ["missing", "folder"])
def test_a_template_that_cannot_be_read_is_named(make, tmp_path):
    """With the system's reason."""
    path = tmp_path / "pod.yaml"
    reason = "No such file or directory"
    if make == "folder":
        path.mkdir()
        reason = "Is a directory"
    with pytest.raises(OptionsRefused, match=f"pod_template: {path}: {reason}"):
        read_template("pod.yaml", tmp_path)


def test_an_inline_template_names_the_place():
    """There is no file to name; several mistakes are told together."""
    with pytest.raises(OptionsRefused) as caught:
        read_template({"kind": "Job", "spec": {"containers": [{"env": [{"name": "A", "value": True}]}]}}, BASE)
    assert [str(each) for each in caught.value.problems] == [
        "pod_template: kind: expected Pod, got 'Job'",
        "pod_template: spec.containers[0].env[0].value: expected text, got True; quote it",
    ]


GOOD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"labels": {"a": "b"}, "annotations": {"a": "b"}, "ownerReferences": [{"uid": "u"}], "namespace": "x"},
    "spec": {
        "containers": [
            {
                "name": "job",
                "env": [{"name": "A", "value": "b"}, {"name": "PYTHONPATH", "value": "/x"}],
                "volumeMounts": [{"name": "v", "mountPath": "/v"}],
                "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}},
                "securityContext": {"capabilities": {"add": ["A"]}, "privileged": False},
                "args": ["x"],
            },
            {"name": "side", "image": "x"},
        ],
        "initContainers": [{"name": "init"}],
        "volumes": [{"name": "v"}],
        "imagePullSecrets": [{"name": "s"}],
        "tolerations": [{"key": "t"}],
        "nodeSelector": {"a": "b"},
        "securityContext": {"fsGroup": 1, "capabilities": {}},
    },
}
JUNK = st.sampled_from(
    [None, True, 3, 1.5, "text", "", [], {}, [None], ["x"], [{}], {"a": None}, {1: 2}, {None: 1, "a": 2}, [[]]]
)


def places(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield from places(each, (*path, key))


def replaced(value, path, junk):
    if not path:
        return junk
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], junk)
    return copy


@given(st.sampled_from(sorted(places(GOOD), key=str)), JUNK)
def test_whatever_is_wrong_in_a_template_is_told_in_words(path, junk):
    """Or it is passed on for the cluster to judge: never another error, and never a pod that is no plain data."""
    site = {
        "env": {"PYTHONPATH": "/y"},
        "image_pull_secrets": ["r"],
        "tolerations": [{"key": "z"}],
        "node_selector": {"a": "z"},
    }
    place, request = a_place(site), a_request(command=None, module="m")
    request = evolve(request, options=resolve(request.options, place.options))
    try:
        template = read_template(replaced(GOOD, path, junk), BASE)
    except OptionsRefused as error:
        assert str(error).startswith("pod_template: ")
    else:
        assert json.dumps(build_pod(request, place, template).manifest)
