"""From a request to a pod: what runs, as whom, with what, and nothing that the site did not allow."""

import json
from pathlib import Path

import pytest

from siteward import Allocation, LaunchRefused
from siteward_k8s import layout
from siteward_k8s.options import Dataset, StudyOptions
from siteward_k8s.volumes import volumes_of

from .building import OWNER, a_place, built, env_of, main_of, spec_of

MODULE = {"command": None, "module": "fed.avg", "args": ["a b"]}
POD_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "runAsGroup": 1000,
    "fsGroup": 1000,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_what_runs_is_exactly_the_command():
    """As words, never for a shell, in the job directory; a module with the image's Python."""
    main = main_of(command=["x", "{job_dir}", "{site}", "{other}", "a b"])
    assert main["command"] == ["x", "/siteward/job", "site-1", "{other}", "a b"]
    assert main["workingDir"] == "/siteward/job"
    assert "args" not in main
    assert main_of(**MODULE)["command"] == ["python3", "-u", "-m", "fed.avg", "a b"]
    assert main_of({"python_path": "/opt/py"}, **MODULE)["command"][0] == "/opt/py"
    assert main_of(site={"default_python_path": "/opt/py3"}, **MODULE)["command"][0] == "/opt/py3"


def expand(text, known):
    """Do what a kubelet does to commands and variables (k8s.io/kubernetes third_party/forked/golang/expansion)."""
    found, at = "", 0
    while at < len(text):
        if text[at] == "$" and at + 1 < len(text):
            end = text.find(")", at) if text[at + 1] == "(" else -1
            if text[at + 1] == "$":
                found, at = found + "$", at + 2
                continue
            if end > 0:
                name = text[at + 2 : end]
                found, at = found + known.get(name, f"$({name})"), end + 1
                continue
        found, at = found + text[at], at + 1
    return found


@pytest.mark.parametrize(
    "text", ["$(HOME)", "$$(HOME)", "$$", "$", "a$", "$HOME", "$(", "${HOME}", "$(date) $$ $x", "$$$(HOME)"]
)
def test_dollars_reach_the_job_as_they_are(text):
    """Kubernetes replaces $(NAME) in commands and variables; a job's mean themselves."""
    known = {"HOME": "/other"}
    assert expand(main_of(command=["sh", "-c", text])["command"][2], known) == text
    env = env_of(site={"env": {"B": text}}, env={"A": text})
    assert [expand(env[name], known) for name in "AB"] == [text, text]


def test_rights_are_as_few_as_can_be_by_default():
    """Not root, no capabilities, no new privileges, no token, no shared namespace of the node, nothing restarted."""
    spec = spec_of()
    assert spec["securityContext"] == POD_SECURITY
    assert all(each["securityContext"] == CONTAINER_SECURITY for each in spec["containers"] + spec["initContainers"])
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec["restartPolicy"] == "Never"
    assert spec["shareProcessNamespace"] is True
    assert (
        not {"hostNetwork", "hostPID", "hostIPC", "nodeName", "serviceAccountName", "activeDeadlineSeconds"}
        & spec.keys()
    )
    assert [volume for volume in spec["volumes"] if "hostPath" in volume] == []


def test_the_site_may_loosen_rights():
    """Key by key; null takes one away."""
    site = {
        "pod_security_context": {"runAsUser": 0, "runAsNonRoot": None, "supplementalGroups": [5]},
        "container_security_context": {"capabilities": {"add": ["SYS_PTRACE"]}, "readOnlyRootFilesystem": True},
    }
    spec = spec_of(site=site)
    assert spec["securityContext"] == {
        **{key: value for key, value in POD_SECURITY.items() if key != "runAsNonRoot"},
        "runAsUser": 0,
        "supplementalGroups": [5],
    }
    assert spec["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"], "add": ["SYS_PTRACE"]},
        "readOnlyRootFilesystem": True,
    }
    assert main_of(site={"container_security_context": {"capabilities": None}})["securityContext"] == {
        "allowPrivilegeEscalation": False
    }
    assert main_of(site={"container_security_context": {"privileged": True}})["securityContext"] == {
        "capabilities": {"drop": ["ALL"]},
        "privileged": True,
    }


def test_the_sites_options_of_a_pod():
    """Each is where Kubernetes has it."""
    site = {
        "service_account": "jobs",
        "image_pull_secrets": ["reg"],
        "image_pull_policy": "Always",
        "node_selector": {"pool": "fl"},
        "tolerations": [{"key": "fl", "operator": "Exists"}],
        "priority_class": "low",
    }
    spec = spec_of(site=site)
    assert spec["serviceAccountName"] == "jobs"
    assert spec["automountServiceAccountToken"] is False
    assert spec["imagePullSecrets"] == [{"name": "reg"}]
    assert spec["nodeSelector"] == {"pool": "fl"}
    assert spec["tolerations"] == [{"key": "fl", "operator": "Exists"}]
    assert spec["priorityClassName"] == "low"
    assert {each["imagePullPolicy"] for each in spec["containers"] + spec["initContainers"]} == {"Always"}
    assert "imagePullPolicy" not in main_of()
    assert main_of({"image_pull_policy": "Never"})["imagePullPolicy"] == "Never"


IMAGES = {
    "job": ({"image": "job:1"}, {"image": "study:1"}, "job:1"),
    "study": ({}, {"image": "study:1"}, "study:1"),
    "site": ({}, {}, "img:1"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_whose_image_it_is(name):
    """The job's, else the study's, else the site's; what the site names need not match its own patterns."""
    job, study, image = IMAGES[name]
    assert main_of(job, {"allowed_images": ["job:*"]}, study)["image"] == image


def test_no_image_anywhere_is_an_error_that_names_all_three_places():
    """Without a study there are two."""
    with pytest.raises(LaunchRefused) as caught:
        built(site={"default_image": None}, study={})
    for words in (
        "launcher_spec (k8s: {image: …})",
        "studies.cancer.k8s.image",
        "default_image in the site file's k8s block",
    ):
        assert words in str(caught.value)
    with pytest.raises(LaunchRefused) as caught:
        built(site={"default_image": None})
    assert "studies" not in str(caught.value)


# --- the environment ----------------------------------------------------------------------------------------


def test_the_environment_from_weakest_to_strongest():
    """HOME, site, study, job, allocation, secrets, siteward's own, the study's secrets."""
    env = env_of(
        site={"env": dict.fromkeys("ABCDEF", "site")},
        study={"env": dict.fromkeys("BCDE", "study"), "secret_env": {"F": {"source": "db", "key": "password"}}},
        env=dict.fromkeys("CDEF", "job"),
        allocation=Allocation(token="t", env={"D": "allocated", "E": "allocated"}),
        secrets={"E": "hunter2"},
        attempt=2,
    )
    name = a_place().pod_name("train-1", 2)
    assert env == {
        "HOME": "/tmp",
        "A": "site",
        "B": "study",
        "C": "job",
        "D": "allocated",
        "E": {"secretKeyRef": {"name": name, "key": "E"}},
        "F": {"secretKeyRef": {"name": "db", "key": "password"}},
        "SITEWARD_SITE": "site-1",
        "SITEWARD_JOB_ID": "train-1",
        "SITEWARD_JOB_DIR": "/siteward/job",
        "SITEWARD_BACKEND": "k8s",
        "SITEWARD_ATTEMPT": "2",
    }
    assert env_of(env={"HOME": "/siteward/job"})["HOME"] == "/siteward/job"


def test_a_module_finds_its_job_directory_before_what_else_is_named():
    """A PYTHONPATH of the job, study or site stays behind it; the image's own is left alone."""
    assert env_of(env={"PYTHONPATH": "/lib"}, **MODULE)["PYTHONPATH"] == "/siteward/job:/lib"
    assert env_of(site={"env": {"PYTHONPATH": "/lib"}}, **MODULE)["PYTHONPATH"] == "/siteward/job:/lib"
    assert env_of(env={"PYTHONPATH": ""}, **MODULE)["PYTHONPATH"] == "/siteward/job"
    assert env_of(env={"PYTHONPATH": "/lib"})["PYTHONPATH"] == "/lib"
    assert "PYTHONPATH" not in env_of(**MODULE)


GPUS = {
    "a job helps itself": ({}, {}, {"env": {"NVIDIA_VISIBLE_DEVICES": "all"}}, "void"),
    "a job's secret": ({}, {}, {"secrets": {"NVIDIA_VISIBLE_DEVICES": "all"}}, "void"),
    "none asked": ({}, {"max_gpus": 2}, {}, "void"),
    "nobody speaks of GPUs": ({}, {}, {}, None),
    "the site has none": ({}, {"max_gpus": 0}, {}, "void"),
    "no NVIDIA, but a cap": ({}, {"gpu_resource": "amd.com/gpu", "max_gpus": 2}, {}, None),
    "0 asked": ({"num_of_gpus": 0}, {}, {}, "void"),
    "some asked": ({"num_of_gpus": 1}, {}, {"env": {"NVIDIA_VISIBLE_DEVICES": "all"}}, None),
    "the site's word": ({}, {"env": {"NVIDIA_VISIBLE_DEVICES": "0"}}, {"env": {"NVIDIA_VISIBLE_DEVICES": "all"}}, "0"),
    "no NVIDIA": ({}, {"gpu_resource": "amd.com/gpu"}, {"env": {"NVIDIA_VISIBLE_DEVICES": "all"}}, None),
}


@pytest.mark.parametrize("name", GPUS)
def test_no_variable_gives_a_job_gpus(name):
    """With NVIDIA's runtime a job's would, and an image's where the site counts GPUs; only the site may say so."""
    job, site, fields, value = GPUS[name]
    assert env_of(job, site, **fields).get("NVIDIA_VISIBLE_DEVICES") == value


# --- secrets ------------------------------------------------------------------------------------------------


def test_secrets_are_in_a_secret_of_the_jobs_own_and_nowhere_else():
    """The pod refers to it; its values are shown by nothing, and do not change the spec's hash."""
    found = built(
        secrets={"TOKEN": "hunter2", "OTHER": "swordfish"}, study={"secret_env": {"DB": {"source": "db", "key": "k"}}}
    )
    metadata = found.manifest["metadata"]
    assert found.secret == {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {
            "name": metadata["name"],
            "namespace": "fl",
            "labels": metadata["labels"],
            "annotations": {"siteward.dev/site": "site-1", "siteward.dev/job-id": "train-1"},
        },
        "stringData": {"TOKEN": "hunter2", "OTHER": "swordfish"},
    }
    shown = json.dumps(found.manifest) + repr(found) + str(found)
    assert "hunter2" not in shown
    assert "swordfish" not in shown
    other = built(secrets={"TOKEN": "x", "OTHER": "y"}, study={"secret_env": {"DB": {"source": "db", "key": "k"}}})
    assert other.manifest == found.manifest
    assert built().secret is None


def test_secrets_that_no_cluster_keeps_are_refused():
    """And the words show none of them."""
    with pytest.raises(LaunchRefused, match="secrets are larger than") as caught:
        built(secrets={"TOKEN": "hunter2" * 200_000})
    assert "hunter2" not in str(caught.value)


def test_a_study_brings_secrets_as_files():
    """Read-only, with the keys and names that it says."""
    mounts = {
        "db": {"source": "db", "mount_path": "/run/db", "items": {"password": "pw"}},
        "ca": {"source": "certs", "mount_path": "/etc/ca"},
    }
    spec = spec_of(study={"secret_mounts": mounts})
    volumes = {each["name"]: each for each in spec["volumes"]}
    seen = {each["mountPath"]: each for each in spec["containers"][0]["volumeMounts"]}
    assert all(seen[path]["readOnly"] for path in ("/run/db", "/etc/ca"))
    assert volumes[seen["/run/db"]["name"]]["secret"] == {
        "secretName": "db",
        "items": [{"key": "password", "path": "pw"}],
    }
    assert volumes[seen["/etc/ca"]["name"]]["secret"] == {"secretName": "certs"}


# --- data ---------------------------------------------------------------------------------------------------


def test_datasets_are_claims_or_paths_of_the_nodes():
    """At /data/<study>/<dataset>, read-only unless they say otherwise."""
    datasets = {"ct": {"source": "ct-pvc"}, "out_1": {"source": "out", "mode": "rw"}, "mri": {"source": "/srv/mri"}}
    spec = spec_of(site={"allow_host_path": True}, study={"datasets": datasets})
    volumes = {each["name"]: {k: v for k, v in each.items() if k != "name"} for each in spec["volumes"]}
    mounts = {
        each["mountPath"]: (each.get("readOnly"), volumes[each["name"]])
        for each in spec["containers"][0]["volumeMounts"]
    }
    assert {path: found for path, found in mounts.items() if path.startswith("/data/")} == {
        "/data/cancer/ct": (True, {"persistentVolumeClaim": {"claimName": "ct-pvc", "readOnly": True}}),
        "/data/cancer/out_1": (False, {"persistentVolumeClaim": {"claimName": "out", "readOnly": False}}),
        "/data/cancer/mri": (True, {"hostPath": {"path": "/srv/mri", "type": "Directory"}}),
    }


@pytest.mark.parametrize(("source", "path"), [("./a", "/srv/site/a"), ("../a", "/srv/a"), ("../a/./b/", "/srv/a/b")])
def test_paths_may_start_at_the_site_files_folder(source, path):
    """As all paths in a site file do."""
    place = a_place({"allow_host_path": True}, base_dir=Path("/srv/site"))
    volumes, _mounts, _problems = volumes_of(
        StudyOptions(datasets={"a": Dataset(source=source)}), "cancer", place, "pod", None
    )
    assert volumes[-1]["hostPath"] == {"path": path, "type": "Directory"}


def test_paths_of_the_nodes_need_the_sites_word():
    """All that lack it are named at once."""
    with pytest.raises(LaunchRefused) as caught:
        built(study={"datasets": {"a": {"source": "/srv/a"}, "b": {"source": "/srv/b"}, "c": {"source": "c"}}})
    words = "is a path of the nodes, {}, which needs allow_host_path: true in the site file's k8s block"
    assert "dataset 'a' of study 'cancer' " + words.format("/srv/a") in str(caught.value)
    assert "dataset 'b'" in str(caught.value)
    assert "dataset 'c'" not in str(caught.value)


def test_names_of_volumes_are_valid_and_apart():
    """Whatever datasets and secrets are called."""
    names = ["a", "a-b", "a_b", "x" * 63, "x" * 62 + "y", "a--b"]
    study = {
        "datasets": {name: {"source": "c"} for name in names},
        "secret_mounts": {f"{name}.UPPER": {"source": "s", "mount_path": f"/m/{name}"} for name in names},
    }
    found = [each["name"] for each in spec_of(study=study)["volumes"]]
    assert len(found) == len(set(found)) == 2 * len(names) + 2
    assert all(len(each) <= 63 and each == each.lower() and each.replace("-", "").isalnum() for each in found)


# --- the job directory --------------------------------------------------------------------------------------


def test_transfer_stages_before_the_job_and_helps_beside_it():
    """Both see the directory and the control files, the job only the directory; all run as the same user."""
    spec = spec_of({"ephemeral_storage": "2Gi"}, {"container_security_context": {"runAsUser": 7}}, secrets={"A": "x"})
    (stage,), (main, helper) = spec["initContainers"], spec["containers"]
    assert (stage["name"], main["name"], helper["name"]) == (layout.STAGE, layout.JOB, layout.HELPER)
    assert {each["image"] for each in (stage, main, helper)} == {"img:1"}
    assert {each["securityContext"]["runAsUser"] for each in (stage, main, helper)} == {7}
    both = [
        {"name": "siteward-job", "mountPath": "/siteward"},
        {"name": "siteward-control", "mountPath": "/siteward-control"},
    ]
    assert stage["volumeMounts"] == helper["volumeMounts"] == both
    assert main["volumeMounts"] == both[:1]
    assert spec["volumes"] == [
        {"name": "siteward-job", "emptyDir": {"sizeLimit": "2Gi"}},
        {"name": "siteward-control", "emptyDir": {}},
    ]
    assert {each["name"] for each in stage["env"] + helper["env"]} == {"NVIDIA_VISIBLE_DEVICES"}
    assert layout.STAGED in stage["command"][2]
    assert layout.RELEASE in helper["command"][2]
    assert {"requests", "limits"} == helper["resources"].keys()


def test_the_helpers_may_have_an_image_of_their_own():
    """With the site's pull policy, not the job's."""
    spec = spec_of({"image_pull_policy": "Always"}, {"helper_image": "busybox:1"})
    assert [each["image"] for each in (*spec["initContainers"], *spec["containers"])] == [
        "busybox:1",
        "img:1",
        "busybox:1",
    ]
    assert ["imagePullPolicy" in each for each in spec["containers"]] == [True, False]


def test_a_claim_brings_the_job_directory_with_no_helper():
    """Each job sees its own folder of it."""
    site = {"job_directory": "pvc", "job_directory_claim": "work", "job_directory_path": "/mnt/work"}
    spec = spec_of({"ephemeral_storage": "2Gi"}, site)
    assert [each["name"] for each in spec["containers"]] == ["job"]
    assert "initContainers" not in spec
    assert spec["volumes"] == [{"name": "siteward-job", "persistentVolumeClaim": {"claimName": "work"}}]
    folder = f"{OWNER}/{a_place().pod_name('train-1', 1)}"
    assert spec["containers"][0]["volumeMounts"] == [
        {"name": "siteward-job", "mountPath": "/siteward/job", "subPath": folder}
    ]


def test_without_a_way_home_the_job_still_has_a_directory():
    """An empty one, which goes with the pod."""
    spec = spec_of(site={"job_directory": "none"})
    assert [each["name"] for each in spec["containers"]] == ["job"]
    assert spec["volumes"] == [{"name": "siteward-job", "emptyDir": {}}]
    assert spec["containers"][0]["volumeMounts"] == [{"name": "siteward-job", "mountPath": "/siteward/job"}]


# --- times --------------------------------------------------------------------------------------------------

DEADLINES = {
    "no timeout": (None, {}, None),
    "late": (60, {}, 60 + 600 + 600 + 10 + 3600),
    "without ends": (60.5, {"pending_timeout": None, "start_timeout": None}, 60 + 10 + 3600 + 1),
    "for ever": (1e12, {}, 2**31 - 1),
}


@pytest.mark.parametrize("name", DEADLINES)
def test_the_clusters_own_deadline_is_a_late_backstop(name):
    """Only for jobs with a timeout, which siteward enforces itself; long after that has passed."""
    timeout, site, seconds = DEADLINES[name]
    assert spec_of(site=site, timeout=timeout).get("activeDeadlineSeconds") == seconds


@pytest.mark.parametrize(("grace", "seconds"), [(0, 1), (2.5, 3), (30, 30), (1e9, 3600)])
def test_the_grace_of_a_pod_is_the_sites(grace, seconds):
    """In whole seconds, at least one."""
    assert spec_of(grace=grace)["terminationGracePeriodSeconds"] == seconds


# --- the whole ----------------------------------------------------------------------------------------------


def test_the_same_request_builds_the_same_pod():
    """With the same hash; nothing is shared between two, or with the site's options."""
    site = {
        "tolerations": [{"key": "a"}],
        "node_selector": {"a": "b"},
        "pod_template": {"spec": {"volumes": [{"name": "v"}]}},
    }
    place = a_place(site)
    one, two = built(place=place), built(place=place)
    assert one.manifest == two.manifest
    one.manifest["spec"]["tolerations"][0]["key"] = "changed"
    one.manifest["spec"]["volumes"][0]["name"] = "changed"
    one.manifest["spec"]["nodeSelector"]["a"] = "changed"
    assert built(place=place).manifest == two.manifest


def test_a_pod_that_no_cluster_takes_is_refused():
    """Before it is sent, with what to do."""
    with pytest.raises(LaunchRefused, match="give a long command or environment as files in the workspace"):
        built(command=["x", "y" * 1_500_000])
