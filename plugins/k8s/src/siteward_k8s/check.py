"""What ``siteward doctor`` is told about the cluster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from siteward import BackendError, Finding
from siteward_k8s.client import Cluster
from siteward_k8s.errors import Forbidden, Missing, Refused
from siteward_k8s.options import SiteOptions
from siteward_k8s.quantity import parse_quantity

_ROLE = "See plugins/k8s/deploy for a Role that has all that is needed."
# (verb, resource, subresource, what for); without the first ones no job can run.
_NEEDED = (
    ("create", "pods", "", "starting jobs"),
    ("get", "pods", "", "looking at jobs"),
    ("list", "pods", "", "finding jobs again"),
    ("delete", "pods", "", "ending and removing jobs"),
    ("get", "pods", "log", "jobs' output"),
)
_USEFUL = (
    ("watch", "pods", "", "seeing ends at once; without it jobs are looked at one by one"),
    ("patch", "pods", "", "writing down why a pod was given up"),
    ("list", "events", "", "saying why a job is pending"),
    ("watch", "events", "", "saying why a job is pending, at once"),
    *((verb, "secrets", "", "jobs with secrets") for verb in ("create", "get", "list", "update", "patch", "delete")),
)


def check_cluster(cluster: Cluster, options: SiteOptions) -> list[Finding]:
    """Look at everything that a job will need; an API that cannot be asked is one finding."""
    try:
        version = cluster.version()
        words = f"{cluster.address}: Kubernetes {version.get('gitVersion', 'of an unknown version')}"
        found = [Finding(level="ok", subject="cluster", message=words)]
        if absent := _no_namespace(cluster):
            return [*found, absent]
        found += [*_check_permissions(cluster, options), *_check_quotas(cluster)]
        found += [
            *_check_pull_secrets(cluster, options),
            *_check_claim(cluster, options),
            *_check_nodes(cluster, options),
        ]
    except BackendError as error:
        remedy = "See that `kubectl get pods` works with the site's kubeconfig and context."
        return [Finding(level="fail", subject="cluster", message=str(error), remedy=remedy)]
    return found


def _no_namespace(cluster: Cluster) -> Finding | None:
    """Return what to say of a namespace that is not there: rights in it can be had, and lists of it are empty."""
    container = {"name": "job", "image": "none"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "siteward-doctor-"}}
    try:
        cluster.create_pod({**pod, "spec": {"containers": [container]}}, dry=True)
    except Missing:
        remedy = f"Create it (kubectl create namespace {cluster.namespace}), or set another `namespace`."
        return Finding(
            level="fail", subject="namespace", message=f"there is no namespace {cluster.namespace}", remedy=remedy
        )
    except Refused:  # of other causes than that, and other checks' business
        return None
    return None


def _check_permissions(cluster: Cluster, options: SiteOptions) -> Iterator[Finding]:
    needed = list(_NEEDED)
    if options.job_directory == "transfer":
        needed += [("create", "pods", "exec", "job_directory: transfer (or use pvc, or none)")]
        needed += [("get", "pods", "exec", "job_directory: transfer (or use pvc, or none)")]
    rights = [("fail", right) for right in needed] + [("warn", right) for right in _USEFUL]
    missing = [(level, right) for level, right in rights if not cluster.review(*right[:3])]
    if len(missing) == len(rights):
        yield _nothing_allowed(cluster)
    for level, (verb, resource, part, purpose) in missing:
        name = f"{resource}/{part}" if part else resource
        words = f"may not {verb} {name} in namespace {cluster.namespace}: needed for {purpose}"
        yield Finding(level=level, subject="permissions", message=words, remedy=_ROLE)  # type: ignore[arg-type]
    if not missing:
        words = f"everything that is needed in namespace {cluster.namespace}"
        yield Finding(level="ok", subject="permissions", message=words)


def _nothing_allowed(cluster: Cluster) -> Finding:
    """Return what to say of a namespace in which nothing is allowed: most likely it is the wrong one."""
    asked, user = cluster.namespace, cluster.user()
    account = (
        user.removeprefix("system:serviceaccount:").split(":") if user.startswith("system:serviceaccount:") else []
    )
    if account and account[0] != asked:
        cause, other = f"the account is one of namespace {account[0]}", f"`namespace: {account[0]}`"
    else:
        cause, other = "this user works in another one, or has no Role yet", "another `namespace`"
    who = f"the user {user!r}" if user else "this user"
    words = f"{who} may do nothing in namespace {asked}: it may not exist, or {cause}"
    remedy = (
        f"Set {other} in the site file, or have {asked} created and a Role in it bound to this user (see"
        " plugins/k8s/deploy)."
    )
    return Finding(level="fail", subject="namespace", message=words, remedy=remedy)


def _check_quotas(cluster: Cluster) -> Iterator[Finding]:
    path = f"/api/v1/namespaces/{cluster.namespace}"
    try:
        quotas = cluster.get(f"{path}/resourcequotas")["items"]
    except Forbidden:
        yield Finding(level="ok", subject="quotas", message="may not be looked at")
        return
    except Missing:
        quotas = []
    if not quotas:
        yield Finding(level="ok", subject="quotas", message=f"none in namespace {cluster.namespace}")
    for quota in quotas:
        hard, used = quota.get("status", {}).get("hard") or {}, quota.get("status", {}).get("used") or {}
        full = [name for name, most in sorted(hard.items()) if used.get(name) == most]
        words = ", ".join(f"{name} {used.get(name, '0')} of {most}" for name, most in sorted(hard.items()))
        subject = f"quota {quota['metadata']['name']}"
        if full:
            remedy = f"Jobs that need more {' or '.join(full)} are refused until something is freed."
            yield Finding(level="warn", subject=subject, message=words, remedy=remedy)
        else:
            yield Finding(level="ok", subject=subject, message=words)


def _check_pull_secrets(cluster: Cluster, options: SiteOptions) -> Iterator[Finding]:
    for name in options.image_pull_secrets:
        subject = f"image_pull_secrets {name}"
        try:
            cluster.get(f"/api/v1/namespaces/{cluster.namespace}/secrets/{name}")
        except Forbidden:
            yield Finding(level="ok", subject=subject, message="may not be looked at")
        except Missing:
            words = f"namespace {cluster.namespace} has no such Secret"
            remedy = f"Create it with: kubectl -n {cluster.namespace} create secret docker-registry {name} …"
            yield Finding(level="fail", subject=subject, message=words, remedy=remedy)
        else:
            yield Finding(level="ok", subject=subject, message="is there")


def _check_claim(cluster: Cluster, options: SiteOptions) -> Iterator[Finding]:
    name = options.job_directory_claim
    if options.job_directory != "pvc" or name is None:
        return
    try:
        claim = cluster.get(f"/api/v1/namespaces/{cluster.namespace}/persistentvolumeclaims/{name}")
    except Forbidden:
        yield Finding(level="ok", subject=f"claim {name}", message="may not be looked at")
    except Missing:
        words = f"namespace {cluster.namespace} has no such PersistentVolumeClaim"
        remedy = "Create it, or name another as job_directory_claim."
        yield Finding(level="fail", subject=f"claim {name}", message=words, remedy=remedy)
    else:
        modes = claim.get("spec", {}).get("accessModes") or []
        shared = "ReadWriteMany" in modes
        remedy = "" if shared else "Jobs on several nodes need a claim that is ReadWriteMany."
        level: Any = "ok" if shared else "warn"
        yield Finding(level=level, subject=f"claim {name}", message=", ".join(modes), remedy=remedy)


def _check_nodes(cluster: Cluster, options: SiteOptions) -> Iterator[Finding]:
    try:
        nodes = cluster.list_nodes()
    except (Forbidden, Missing):
        yield Finding(level="ok", subject="nodes", message="may not be looked at")
        return
    allocatable = [node.get("status", {}).get("allocatable") or {} for node in nodes]
    counts = [each.get(options.gpu_resource, "0") for each in allocatable]
    gpus = [0 if count == "0" else int(parse_quantity(count)) for count in counts]
    total, having = sum(gpus), sum(1 for each in gpus if each)
    words = f"{len(nodes)}, {having} of them with {options.gpu_resource} ({total} in all)"
    if options.max_gpus and not total:
        remedy = "Install the vendor's device plugin, name another gpu_resource, or set max_gpus to 0."
        yield Finding(level="warn", subject="nodes", message=words, remedy=remedy)
    else:
        yield Finding(level="ok", subject="nodes", message=words)
