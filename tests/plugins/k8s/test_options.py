"""What a job, a site and a study may say, and what of a job's wishes the site lets through."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siteward import Allocation, LaunchRefused, OptionsRefused, PortableResources
from siteward.config import Problems
from siteward.config import build as read
from siteward.schema import backend_schema
from siteward_k8s.limits import resolve, size_words
from siteward_k8s.options import JobOptions, SiteOptions, StudyOptions
from siteward_k8s.quantity import parse_quantity

from .building import GIB, built, main_of

QUANTITIES = {
    "1": 1,
    "500m": Decimal("0.5"),
    "1.5": Decimal("1.5"),
    "2.": 2,
    ".5": Decimal("0.5"),
    "2Ki": 2048,
    "1.5Gi": 3 * 2**29,
    "1Ti": 2**40,
    "1Pi": 2**50,
    "1Ei": 2**60,
    "2k": 2000,
    "3M": 3 * 10**6,
    "1G": 10**9,
    "1T": 10**12,
    "1P": 10**15,
    "1E": 10**18,
    "250u": Decimal("0.00025"),
    "1n": Decimal("1e-9"),
    "1e3": 1000,
    "5E2": 500,
    "1E-2": Decimal("0.01"),
    "12e+1": 120,
}


@pytest.mark.parametrize(("text", "value"), QUANTITIES.items())
def test_quantities_as_kubernetes_takes_them(text, value):
    """Binary and decimal units, fractions and exponents are read exactly."""
    assert parse_quantity(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        " 1",
        "1 ",
        "0",
        "0m",
        "-1",
        "+1",
        "1K",
        "1gi",
        "1GB",
        "1,5",
        ".",
        "e3",
        "1e",
        "1e999",
        "9" * 40,
        "1.5Eii",
        "\uff18",
        "1\n",
        "nan",
    ],
)
def test_what_is_no_quantity(text):
    """It is refused with an example, however hostile."""
    with pytest.raises(ValueError, match="expected a quantity above 0, like 500m"):
        parse_quantity(text)


@given(
    st.integers(1, 10**6),
    st.sampled_from(["m", "", "k", "Mi", "Gi"]),
    st.integers(1, 10**6),
    st.sampled_from(["u", "M", "Ti"]),
)
def test_quantities_compare_by_what_they_are_worth(number, unit, other, other_unit):
    """A cap in one unit holds a wish in another, to the last digit."""
    worth = {
        "u": Decimal("1e-6"),
        "m": Decimal("0.001"),
        "": 1,
        "k": 1000,
        "M": 10**6,
        "Mi": 2**20,
        "Gi": 2**30,
        "Ti": 2**40,
    }
    one, two = parse_quantity(f"{number}{unit}"), parse_quantity(f"{other}{other_unit}")
    assert (one > two) == (number * worth[unit] > other * worth[other_unit])


BAD_JOBS = {
    "unknown": ({"imagee": "x"}, "did you mean 'image'"),
    "privileged": ({"privileged": True}, "unknown key"),
    "template": ({"pod_template": {}}, "unknown key"),
    "service account": ({"service_account": "admin"}, "unknown key"),
    "node": ({"node_selector": {"a": "b"}}, "unknown key"),
    "image": ({"image": 3}, "image: expected text"),
    "blank": ({"image": " x"}, "image: expected some text without blanks"),
    "cpu": ({"cpu": 2}, 'cpu: expected text, got the number 2 (quote it if it is meant as text: "2")'),
    "cpu words": ({"cpu": "two"}, "cpu: expected a quantity above 0, like 500m"),
    "memory": ({"memory": "2GB"}, "memory: expected a quantity"),
    "request": ({"memory_request": "0"}, "memory_request: expected a quantity above 0"),
    "storage": ({"ephemeral_storage": ""}, "ephemeral_storage: expected a quantity"),
    "gpus": ({"num_of_gpus": -1}, "num_of_gpus: expected 0 or more"),
    "bool": ({"num_of_gpus": True}, "expected a whole number"),
    "pending": ({"pending_timeout": -1}, "pending_timeout: expected 0 or more"),
    "pending words": ({"pending_timeout": "soon"}, "pending_timeout: expected a number or site, got text 'soon'"),
    "pull": ({"image_pull_policy": "always"}, "expected one of Always, IfNotPresent, Never"),
}


@pytest.mark.parametrize("name", BAD_JOBS)
def test_what_a_job_may_not_ask(name):
    """A job has ten options; nothing else, and nothing of another shape."""
    block, words = BAD_JOBS[name]
    with pytest.raises(Problems) as caught:
        read(JobOptions, block)
    assert words in str(caught.value)


BAD_SITES = {
    "namespace": ({"namespace": "Fl"}, "namespace: expected at most 63 lower-case letters"),
    "timeout": ({"start_timeout": -1}, "start_timeout: expected 0 or more"),
    "directory": ({"job_directory": "nfs"}, "expected one of transfer, pvc, none"),
    "pvc": ({"job_directory": "pvc"}, "job_directory: pvc needs job_directory_claim (the ReadWriteMany claim)"),
    "claim": ({"job_directory_claim": "Claim_1"}, "job_directory_claim: expected a name of lower-case letters"),
    "context key": (
        {"pod_security_context": {"runAsUsr": 1}},
        "pod_security_context.runAsUsr: unknown key; did you mean 'runAsUser'",
    ),
    "capabilities": ({"container_security_context": {"fsGroup": 1}}, "container_security_context.fsGroup: unknown key"),
    "pull secret": ({"image_pull_secrets": ["a", "B"]}, "image_pull_secrets[1]: expected a name"),
    "gpu": ({"gpu_resource": "gpu"}, "gpu_resource: expected the name of an extended resource, like nvidia.com/gpu"),
    "max cpu": ({"max_cpu": 4}, "max_cpu: expected text"),
    "max memory": ({"max_memory": "4GB"}, "max_memory: expected a quantity"),
    "our label": ({"labels": {"siteward.dev/site": "x"}}, "labels.siteward.dev/site: is set by siteward itself"),
    "label name": ({"labels": {"a b": "x"}}, "is not a name for a label"),
    "label value": ({"labels": {"a": "x y"}}, "labels.a: expected at most 63 letters"),
    "annotation": ({"annotations": {"app.kubernetes.io/name": "x"}}, "is set by siteward itself"),
    "selector": ({"node_selector": {"a": "-"}}, "node_selector.a: expected at most 63"),
    "tolerations": ({"tolerations": {"key": "a"}}, "tolerations: expected a list"),
    "env": ({"env": {"SITEWARD_X": "1"}}, "env.SITEWARD_X: names that begin with SITEWARD_ are set by siteward itself"),
    "env value": ({"env": {"A": 1}}, "env.A: expected text"),
    "images": ({"allowed_images": "registry.local/*"}, "allowed_images: expected a list"),
    "typo": ({"max_gpu": 1}, "did you mean 'max_gpus'"),
}


@pytest.mark.parametrize("name", BAD_SITES)
def test_what_a_site_cannot_set(name):
    """A site's mistakes are told with their place."""
    block, words = BAD_SITES[name]
    with pytest.raises(Problems) as caught:
        read(SiteOptions, block)
    assert words in str(caught.value)


def mounts(*paths, **more):
    return {
        "secret_mounts": {
            f"m{number}": {"source": "s", "mount_path": path, **more} for number, path in enumerate(paths)
        }
    }


BAD_STUDIES = {
    "dataset": ({"datasets": {"CT": {"source": "x"}}}, "datasets.CT: a dataset's name is"),
    "mode": ({"datasets": {"ct": {"source": "x", "mode": "w"}}}, "expected one of ro, rw"),
    "source": (
        {"datasets": {"ct": {"source": "x/y"}}},
        "datasets.ct.source: expected a claim's name, or a path",
    ),
    "dots": ({"datasets": {"ct": {"source": "/a/../b"}}}, "expected a claim's name, or a path"),
    "no key": ({"secret_env": {"A": {"source": "s"}}}, "secret_env.A.key: is missing"),
    "key": ({"secret_env": {"A": {"source": "s", "key": "a/b"}}}, "secret_env.A.key: expected letters, digits"),
    "reserved": ({"secret_env": {"SITEWARD_X": {"source": "s", "key": "k"}}}, "set by siteward itself"),
    "both": (
        {"env": {"A": "1", "B": "2"}, "secret_env": {"A": {"source": "s", "key": "k"}}},
        "env and secret_env both set A; keep one of each",
    ),
    "relative": (mounts("x"), "secret_mounts.m0.mount_path: expected an absolute path"),
    "root": (mounts("/"), "expected an absolute path without .. and :, got '/'"),
    "out": (mounts("/a/../../b"), "expected an absolute path"),
    "twice": (mounts("/x", "/x/"), "secret_mounts.m1.mount_path: is another one's too"),
    "ours": (mounts("/siteward/job/x"), "/siteward and /siteward-control are siteward's own"),
    "items": (mounts("/x", items={"k": "../y"}), "secret_mounts.m0.items.k: expected a relative path"),
    "rw": (mounts("/x", mode="rw"), "expected one of ro"),
    "docker's": ({"docker_kwargs": {}}, "unknown key"),
}


@pytest.mark.parametrize("name", BAD_STUDIES)
def test_what_a_study_cannot_bring(name):
    """A study's mistakes are told with their place."""
    block, words = BAD_STUDIES[name]
    with pytest.raises(Problems) as caught:
        read(StudyOptions, block)
    assert words in str(caught.value)


def test_the_options_have_a_schema():
    """Editors are told of every key of a job, a site and a study, and of words beside numbers."""

    class Backend:
        JobOptions, SiteOptions, StudyOptions = JobOptions, SiteOptions, StudyOptions

    schemas = backend_schema(Backend)
    assert len(schemas["job"]["properties"]) == 10
    assert schemas["job"]["properties"]["pending_timeout"]["anyOf"][:2] == [{"type": "number"}, {"enum": ["site"]}]
    assert schemas["site"]["properties"]["gpu_resource"]["default"] == "nvidia.com/gpu"
    assert all("description" in each for schema in schemas.values() for each in schema["properties"].values())


# --- caps ---------------------------------------------------------------------------------------------------


def resolved(job=None, site=None):
    return resolve(read(JobOptions, job or {}), read(SiteOptions, site or {}))


CAPS = {
    "image": (
        {"image": "docker.io/x"},
        {"allowed_images": ["registry.local/*", "busybox"]},
        "image: the site allows only images like registry.local/*, busybox, got 'docker.io/x'",
    ),
    "no image": ({"image": "x"}, {"allowed_images": []}, "image: the site allows only images like none"),
    "cpu": ({"cpu": "2001m"}, {"max_cpu": "2"}, "cpu: the site allows 2, got 2001m"),
    "cpu request": ({"cpu_request": "3"}, {"max_cpu": "2"}, "cpu_request: the site allows 2, got 3"),
    "memory": ({"memory": "1025Mi"}, {"max_memory": "1Gi"}, "memory: the site allows 1Gi, got 1025Mi"),
    "memory request": ({"memory_request": "2G"}, {"max_memory": "1Gi"}, "memory_request: the site allows 1Gi, got 2G"),
    "more reserved": (
        {"memory": "1G", "memory_request": "1Gi"},
        {},
        "memory_request: expected at most what memory is, 1G, got 1Gi",
    ),
    "storage": (
        {"ephemeral_storage": "2Gi"},
        {"ephemeral_storage": "1Gi"},
        "ephemeral_storage: the site allows 1Gi, got 2Gi",
    ),
    "gpus": ({"num_of_gpus": 1}, {"max_gpus": 0}, "num_of_gpus: the site allows 0, got 1"),
    "pending": (
        {"pending_timeout": 301},
        {"max_pending_timeout": 300},
        "pending_timeout: the site allows 300 seconds, got 301",
    ),
    "for ever": (
        {"pending_timeout": None},
        {"max_pending_timeout": 300},
        "pending_timeout: the site allows 300 seconds, got null, which is without end",
    ),
    "pull": (
        {"image_pull_policy": "Never"},
        {"image_pull_policy": "Always"},
        "image_pull_policy: the site allows only Always, got Never",
    ),
}


@pytest.mark.parametrize("name", CAPS)
def test_what_exceeds_a_cap_is_refused_not_cut(name):
    """In words, with both figures."""
    job, site, words = CAPS[name]
    with pytest.raises(OptionsRefused) as caught:
        resolved(job, site)
    assert words in str(caught.value)


def test_everything_over_a_cap_is_told_at_once():
    """Nobody finds out one by one."""
    jobs, sites = [each[0] for each in CAPS.values()], [each[1] for each in CAPS.values()]
    job = {key: value for each in reversed(jobs) for key, value in each.items()}
    site = {key: value for each in reversed(sites) for key, value in each.items()}
    with pytest.raises(OptionsRefused) as caught:
        resolved(job, site)
    assert {problem.path for problem in caught.value.problems} == {*job}


ALLOWED = {
    "glob": ({"image": "registry.local/a/b:1"}, {"allowed_images": ["registry.local/*"]}),
    "exactly": ({"cpu": "2000m", "memory": "1024Mi"}, {"max_cpu": "2", "max_memory": "1Gi"}),
    "less": ({"cpu": "2", "cpu_request": "1"}, {"max_cpu": "2"}),
    "gpus": ({"num_of_gpus": 2}, {"max_gpus": 2}),
    "storage": ({"ephemeral_storage": "1024Mi"}, {"ephemeral_storage": "1Gi"}),
    "pull": ({"image_pull_policy": "Always"}, {"image_pull_policy": "Never"}),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_is_within_the_caps_is_let_through(name):
    """As it was asked for."""
    job, site = ALLOWED[name]
    found = resolved(job, site)
    assert {key: getattr(found, key) for key in job} == job


PENDING = {
    "nothing said": ({}, {}, 600),
    "site": ({}, {"pending_timeout": 120}, 120),
    "site without end": ({}, {"pending_timeout": None}, None),
    "site at once": ({}, {"pending_timeout": 0}, 0),
    "job": ({"pending_timeout": 5}, {"pending_timeout": 120}, 5),
    "job longer": ({"pending_timeout": 500}, {"pending_timeout": 120}, 500),
    "job at once": ({"pending_timeout": 0}, {"max_pending_timeout": 300}, 0),
    "job without end": ({"pending_timeout": None}, {"pending_timeout": 120}, None),
    "job says site": ({"pending_timeout": "site"}, {"pending_timeout": 120}, 120),
    "at the cap": ({"pending_timeout": 300}, {"max_pending_timeout": 300}, 300),
    "site over its cap": ({}, {"pending_timeout": None, "max_pending_timeout": 300}, 300),
    "default over the cap": ({}, {"max_pending_timeout": 30}, 30),
}


@pytest.mark.parametrize("name", PENDING)
def test_how_long_a_job_may_be_pending(name):
    """0 is at once, null without end; a job's word counts within the site's cap."""
    job, site, seconds = PENDING[name]
    assert resolved(job, site).pending_timeout == seconds


# --- resources ----------------------------------------------------------------------------------------------

NOTHING = PortableResources()
RESOURCES = {
    "nothing": ({}, {}, NOTHING, {}, {}),
    "portable": (
        {},
        {},
        PortableResources(num_of_cpus=2, memory=3 * GIB, num_of_gpus=1),
        {"cpu": "2", "memory": "3Gi", "nvidia.com/gpu": "1"},
        {"cpu": "2", "memory": "3Gi", "nvidia.com/gpu": "1"},
    ),
    "its own": (
        {"cpu": "1500m", "memory": "1G", "num_of_gpus": 2, "ephemeral_storage": "2Gi"},
        {},
        NOTHING,
        {"cpu": "1500m", "memory": "1G", "nvidia.com/gpu": "2", "ephemeral-storage": "2Gi"},
        {"cpu": "1500m", "memory": "1G", "nvidia.com/gpu": "2", "ephemeral-storage": "2Gi"},
    ),
    "both": (
        {"memory": "1G"},
        {},
        PortableResources(num_of_cpus=1),
        {"cpu": "1", "memory": "1G"},
        {"cpu": "1", "memory": "1G"},
    ),
    "reserve less": ({"cpu": "2", "cpu_request": "1"}, {}, NOTHING, {"cpu": "1"}, {"cpu": "2"}),
    "reserve only": ({"memory_request": "1Gi"}, {}, NOTHING, {"memory": "1Gi"}, {}),
    "caps": (
        {},
        {"max_cpu": "4", "max_memory": "8Gi"},
        NOTHING,
        {"cpu": "0", "memory": "0"},
        {"cpu": "4", "memory": "8Gi"},
    ),
    "reserve under a cap": ({"cpu_request": "1"}, {"max_cpu": "4"}, NOTHING, {"cpu": "1"}, {"cpu": "4"}),
    "less than the cap": ({"cpu": "1"}, {"max_cpu": "4"}, NOTHING, {"cpu": "1"}, {"cpu": "1"}),
    "most GPUs": ({}, {"max_gpus": 2}, NOTHING, {}, {}),
    "no GPUs": ({"num_of_gpus": 0}, {}, NOTHING, {}, {}),
    "other GPUs": (
        {"num_of_gpus": 1},
        {"gpu_resource": "amd.com/gpu"},
        NOTHING,
        {"amd.com/gpu": "1"},
        {"amd.com/gpu": "1"},
    ),
    "slices": (
        {"num_of_gpus": 3},
        {"gpu_resource": "nvidia.com/mig-1g.5gb"},
        NOTHING,
        {"nvidia.com/mig-1g.5gb": "3"},
        {"nvidia.com/mig-1g.5gb": "3"},
    ),
    "the site's storage": (
        {},
        {"ephemeral_storage": "5Gi"},
        NOTHING,
        {"ephemeral-storage": "5Gi"},
        {"ephemeral-storage": "5Gi"},
    ),
}


@pytest.mark.parametrize("name", RESOURCES)
def test_resources_of_a_job(name):
    """A limit is reserved too, unless less is asked; of a cap that is a limit by default nothing is reserved."""
    job, site, portable, requests, limits = RESOURCES[name]
    found = main_of(job, site, resources=portable).get("resources", {})
    assert (found.get("requests", {}), found.get("limits", {})) == (requests, limits)


def test_portable_resources_keep_to_the_caps_too():
    """All that exceeds one is told at once; with the image that is not named, if that is so."""
    portable = PortableResources(num_of_cpus=5, memory=2 * GIB, num_of_gpus=2)
    site = {"max_cpu": "4500m", "max_memory": "1Gi", "max_gpus": 1, "default_image": None}
    with pytest.raises(LaunchRefused) as caught:
        built(site=site, resources=portable)
    for words in (
        "num_of_cpus: the site allows 4500m, got 5",
        "memory: the site allows 1Gi, got 2Gi",
        "num_of_gpus: the site allows 1, got 2",
        "no image is named",
    ):
        assert words in str(caught.value)


def test_devices_of_this_machine_are_but_a_count():
    """The cluster chooses its own: neither ids nor variables of the site's resource manager reach the pod."""
    env = {"CUDA_VISIBLE_DEVICES": "GPU-1,GPU-2", "NVIDIA_VISIBLE_DEVICES": "GPU-1,GPU-2", "LICENCE": "a"}
    main = main_of(allocation=Allocation(token="t", devices=["GPU-1", "GPU-2"], env=env))
    assert main["resources"]["limits"] == {"nvidia.com/gpu": "2"}
    names = {each["name"] for each in main["env"]}
    assert "LICENCE" in names
    assert not names & {"CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"}
    asked = main_of({"num_of_gpus": 1}, allocation=Allocation(token="t", devices=["GPU-1", "GPU-2"]))
    assert asked["resources"]["limits"] == {"nvidia.com/gpu": "1"}


@pytest.mark.parametrize(
    ("size", "words"),
    [(GIB, "1Gi"), (1536 * 2**20, "1536Mi"), (2**40, "1024Gi"), (1000, "1000"), (GIB + 1, str(GIB + 1))],
)
def test_sizes_are_written_as_people_do(size, words):
    """And are worth what they were."""
    assert size_words(size) == words
    assert parse_quantity(words) == size
