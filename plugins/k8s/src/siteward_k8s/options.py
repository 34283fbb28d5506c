"""What a job may ask of this backend, what the site sets, and what a study adds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from attrs import field, frozen

from siteward import check_env, check_positive
from siteward_k8s import checks
from siteward_k8s.quantity import check_quantity

PullPolicy = Literal["Always", "IfNotPresent", "Never"]


def _help(text: str, check: Any = None, **more: Any) -> dict[str, Any]:
    return {"help": text, "check": check, **more}


def _quantity(text: str, **more: Any) -> Any:
    return field(default=None, metadata=_help(text, check_quantity, **more))


@frozen(kw_only=True)
class Dataset:
    """A volume of the cluster that a study's jobs see at ``/data/<study>/<dataset>``."""

    source: str = field(
        metadata=_help(
            "a PersistentVolumeClaim's name; or a path of the nodes that begins with /, or ./ or ../ to start at the"
            " site file's folder, if `allow_host_path` is set"
        )
    )
    mode: Literal["ro", "rw"] = field(default="ro", metadata=_help("ro: jobs can only read it"))


@frozen(kw_only=True)
class SecretKey:
    """One key of a Secret of the cluster."""

    source: str = field(metadata=_help("the Secret's name, in the namespace of the jobs", checks.check_object))
    key: str = field(metadata=_help("which of its keys", checks.check_secret_key))


@frozen(kw_only=True)
class SecretMount:
    """A Secret of the cluster as files that the job can read."""

    source: str = field(metadata=_help("the Secret's name, in the namespace of the jobs", checks.check_object))
    mount_path: str = field(metadata=_help("the folder's absolute path in the container"))
    items: Mapping[str, str] = field(
        factory=dict,
        metadata=_help("key of the Secret: the file's path below mount_path; by default each key", checks.check_items),
    )
    mode: Literal["ro"] = field(default="ro", metadata=_help("always ro"))


@frozen(kw_only=True)
class JobOptions:
    """What a job may ask of this backend. Nothing in it reaches a node, another pod or a Secret."""

    image: str | None = field(
        default=None, metadata=_help("the image; by default the study's, then the site's", checks.check_text)
    )
    python_path: str | None = field(
        default=None, metadata=_help("Python of a job that names a module, as the image has it", checks.check_text)
    )
    cpu: str | None = _quantity("CPUs, like 500m or 2: the limit, and what is reserved", portable="num_of_cpus")
    cpu_request: str | None = _quantity("CPUs that are reserved, if fewer than `cpu`", portable="num_of_cpus")
    memory: str | None = _quantity("memory, like 2Gi: the limit, and what is reserved", portable="memory")
    memory_request: str | None = _quantity("memory that is reserved, if less than `memory`", portable="memory")
    ephemeral_storage: str | None = _quantity(
        "the most that it writes on a node: job directory, output and all else; by default the site's"
    )
    num_of_gpus: int | None = field(
        default=None, metadata=_help("GPUs, as in resource_spec", checks.check_count, portable="num_of_gpus")
    )
    pending_timeout: float | Literal["site"] | None = field(
        default="site",
        metadata=_help(
            "seconds to wait for a place in the cluster; null: without end; site: as the site has it",
            checks.check_seconds,
        ),
    )
    image_pull_policy: PullPolicy | None = field(
        default=None, metadata=_help("when the image is pulled; by default the site's")
    )


@frozen(kw_only=True)
class SiteOptions:
    """What the site sets."""

    kubeconfig: str | None = field(
        default=None,
        metadata=_help(
            "the kubeconfig file; a relative path starts at the site file's folder; by default kubectl's, or inside a"
            " cluster that one's",
            checks.check_text,
        ),
    )
    context: str | None = field(
        default=None, metadata=_help("context in the kubeconfig; by default its current one", checks.check_text)
    )
    namespace: str | None = field(
        default=None, metadata=_help("the jobs' namespace; by default the context's", checks.check_namespace)
    )
    pending_timeout: float | None = field(
        default=600.0,
        metadata=_help("seconds that jobs wait for a place in the cluster; null: without end", checks.check_seconds),
    )
    max_pending_timeout: float | None = field(
        default=None, metadata=_help("the longest pending_timeout that a job may ask for", checks.check_seconds)
    )
    start_timeout: float | None = field(
        default=600.0,
        metadata=_help(
            "seconds from having a place to running: images, volumes, networks; null: without end", checks.check_seconds
        ),
    )
    gated_timeout: float | None = field(
        default=None,
        metadata=_help(
            "seconds that a queue (scheduling gates) may hold a job; by default without end", checks.check_seconds
        ),
    )
    default_image: str | None = field(
        default=None, metadata=_help("the image of jobs for which neither job nor study names one", checks.check_text)
    )
    default_python_path: str = field(
        default="python3", metadata=_help("Python of jobs that name a module, as images have it", checks.check_text)
    )
    job_directory: Literal["transfer", "pvc", "none"] = field(
        default="transfer",
        metadata=_help("how it gets there and back: through the cluster's API; by a shared claim; not at all"),
    )
    job_directory_claim: str | None = field(
        default=None, metadata=_help("with pvc: the ReadWriteMany claim", checks.check_object)
    )
    job_directory_path: str | None = field(
        default=None,
        metadata=_help(
            "with pvc: where this machine sees the claim; a relative path starts at the site file's folder",
            checks.check_text,
        ),
    )
    helper_image: str | None = field(
        default=None,
        metadata=_help(
            "with transfer: an image with sh and tar for the helper; by default the job's", checks.check_text
        ),
    )
    max_collect: int = field(
        default=16 * 2**30,
        metadata=_help("with transfer and pvc: most bytes that are taken back of a job", check_positive),
    )
    ephemeral_storage: str | None = _quantity(
        "most that a job may write on a node, and the limit of jobs that ask for none"
    )
    pod_security_context: Mapping[str, Any] = field(
        factory=dict,
        metadata=_help(
            "changes to the jobs' default (user, group and fsGroup 1000, not root, seccomp RuntimeDefault); null takes"
            " a key away",
            checks.known_keys(checks.POD_SECURITY),
        ),
    )
    container_security_context: Mapping[str, Any] = field(
        factory=dict,
        metadata=_help(
            "changes to the default (no capabilities, no privilege escalation); null takes a key away",
            checks.known_keys(checks.CONTAINER_SECURITY),
        ),
    )
    service_account: str | None = field(
        default=None, metadata=_help("the jobs' ServiceAccount; its token is not mounted", checks.check_object)
    )
    image_pull_secrets: tuple[str, ...] = field(
        default=(), metadata=_help("Secrets to pull images with", checks.check_objects)
    )
    image_pull_policy: PullPolicy | None = field(
        default=None,
        metadata=_help("when images are pulled, unless a job says otherwise; a job cannot loosen Always"),
    )
    gpu_resource: str = field(
        default="nvidia.com/gpu",
        metadata=_help(
            "what the cluster calls a GPU, like amd.com/gpu or nvidia.com/mig-1g.5gb", checks.check_resource
        ),
    )
    allowed_images: tuple[str, ...] | None = field(
        default=None, metadata=_help("patterns, like registry.local/*, of images that jobs may name; by default all")
    )
    max_cpu: str | None = _quantity("most CPUs a job may ask for, and the limit of jobs that ask for none")
    max_memory: str | None = _quantity("most memory a job may ask for, and the limit of jobs that ask for none")
    max_gpus: int | None = field(default=None, metadata=_help("most GPUs a job may ask for", checks.check_count))
    labels: Mapping[str, str] = field(factory=dict, metadata=_help("labels of every pod", checks.check_labels))
    annotations: Mapping[str, str] = field(
        factory=dict, metadata=_help("annotations of every pod", checks.check_annotations)
    )
    node_selector: Mapping[str, str] = field(
        factory=dict, metadata=_help("labels that the nodes of jobs have", checks.check_selector)
    )
    tolerations: tuple[Mapping[str, Any], ...] = field(
        default=(), metadata=_help("taints of nodes that jobs tolerate, as a pod has them")
    )
    priority_class: str | None = field(default=None, metadata=_help("the jobs' PriorityClass", checks.check_object))
    pod_template: str | Mapping[str, Any] | None = field(
        default=None,
        metadata=_help("a Pod, or a file with one, that jobs' pods start from; a study's own takes its place"),
    )
    allow_host_path: bool = field(default=False, metadata=_help("datasets of studies may be paths of the nodes"))
    env: Mapping[str, str] = field(factory=dict, metadata=_help("environment of every job's container", check_env))

    def __attrs_post_init__(self) -> None:
        """Refuse a way to bring the job directory that lacks its claim."""
        if self.job_directory == "pvc" and not (self.job_directory_claim and self.job_directory_path):
            raise ValueError(
                "job_directory: pvc needs job_directory_claim (the ReadWriteMany claim) and job_directory_path (where"
                " this machine sees it)"
            )


@frozen(kw_only=True)
class StudyOptions:
    """What a study of the site adds."""

    image: str | None = field(default=None, metadata=_help("the image of jobs that name none", checks.check_text))
    pod_template: str | Mapping[str, Any] | None = field(
        default=None, metadata=_help("like pod_template of the site, whose place it takes")
    )
    datasets: Mapping[str, Dataset] = field(
        factory=dict,
        metadata=_help("dataset: where it is; jobs see it at /data/<study>/<dataset>", checks.check_datasets),
    )
    env: Mapping[str, str] = field(factory=dict, metadata=_help("environment of its containers", check_env))
    secret_env: Mapping[str, SecretKey] = field(
        factory=dict, metadata=_help("variable: the key of a Secret that it holds", checks.check_secret_env)
    )
    secret_mounts: Mapping[str, SecretMount] = field(
        factory=dict, metadata=_help("any name: a Secret as files", checks.check_mounts)
    )

    def __attrs_post_init__(self) -> None:
        """Refuse a variable that is both a text and a secret."""
        if both := sorted(self.env.keys() & self.secret_env.keys()):
            raise ValueError(f"env and secret_env both set {', '.join(both)}; keep one of each")
