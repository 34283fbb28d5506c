"""What a job asks for against what the site allows, and the resources that come of it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from attrs import evolve, field, frozen

from siteward import OptionsRefused, PortableResources, Problem
from siteward_k8s.options import JobOptions, SiteOptions
from siteward_k8s.quantity import parse_quantity

STORAGE = "ephemeral-storage"
_UNITS = (("Gi", 2**30), ("Mi", 2**20))


def resolve(job: JobOptions, site: SiteOptions) -> JobOptions:
    """Fill in the site's defaults; OptionsRefused with everything that the site does not allow.

    CPUs, memory and GPUs may be asked for in ``resource_spec`` too: :func:`resources_of` puts them together.
    """
    if problems := [*_refused(job, site)]:
        raise OptionsRefused(problems)
    return evolve(
        job,
        python_path=job.python_path or site.default_python_path,
        pending_timeout=_pending_timeout(job, site),
        image_pull_policy=job.image_pull_policy or site.image_pull_policy,
        ephemeral_storage=job.ephemeral_storage or site.ephemeral_storage,
    )


def _refused(job: JobOptions, site: SiteOptions) -> Iterator[Problem]:
    allowed = site.allowed_images
    if job.image is not None and allowed is not None and not any(fnmatchcase(job.image, each) for each in allowed):
        yield Problem("image", f"the site allows only images like {', '.join(allowed) or 'none'}, got {job.image!r}")
    for name, cap in (
        ("cpu", site.max_cpu),
        ("cpu_request", site.max_cpu),
        ("memory", site.max_memory),
        ("memory_request", site.max_memory),
        ("ephemeral_storage", site.ephemeral_storage),
    ):
        asked = getattr(job, name)
        if _exceeds(asked, cap):
            yield Problem(name, f"the site allows {cap}, got {asked}")
    for request, limit in (("cpu_request", "cpu"), ("memory_request", "memory")):
        if _exceeds(getattr(job, request), most := getattr(job, limit)):
            yield Problem(request, f"expected at most what {limit} is, {most}, got {getattr(job, request)}")
    if job.num_of_gpus is not None and site.max_gpus is not None and job.num_of_gpus > site.max_gpus:
        yield Problem("num_of_gpus", f"the site allows {site.max_gpus}, got {job.num_of_gpus}")
    longest = site.max_pending_timeout
    if longest is not None and job.pending_timeout != "site":
        if job.pending_timeout is None:
            yield Problem("pending_timeout", f"the site allows {longest:g} seconds, got null, which is without end")
        elif float(job.pending_timeout) > longest:
            yield Problem("pending_timeout", f"the site allows {longest:g} seconds, got {job.pending_timeout:g}")
    if site.image_pull_policy == "Always" and job.image_pull_policy not in (None, "Always"):
        yield Problem("image_pull_policy", f"the site allows only Always, got {job.image_pull_policy}")


def _exceeds(asked: str | None, cap: str | None) -> bool:
    return asked is not None and cap is not None and parse_quantity(asked) > parse_quantity(cap)


def _pending_timeout(job: JobOptions, site: SiteOptions) -> float | None:
    if job.pending_timeout != "site":
        return job.pending_timeout
    known = [each for each in (site.pending_timeout, site.max_pending_timeout) if each is not None]
    return min(known, default=None)


@frozen(kw_only=True)
class Resources:
    """A container's resources as Kubernetes names them; ``caps`` are limits of what the job says nothing about."""

    requests: dict[str, str] = field(factory=dict)
    limits: dict[str, str] = field(factory=dict)
    caps: dict[str, str] = field(factory=dict)
    no_gpus: bool = False


def resources_of(
    job: JobOptions, portable: PortableResources, site: SiteOptions, devices: int = 0
) -> tuple[Resources, list[str]]:
    """Return a job's resources, and in words all that exceeds the site's caps.

    A limit is also reserved, unless the job asks to reserve less. ``devices`` is how many the site's resource manager
    handed out; the cluster chooses its own, so they are but a count. ``no_gpus``: the job asks for none at all.
    """
    problems = []
    cpu = job.cpu or (None if portable.num_of_cpus is None else str(portable.num_of_cpus))
    memory = job.memory or (None if portable.memory is None else size_words(portable.memory))
    for key, asked, cap in (("num_of_cpus", cpu, site.max_cpu), ("memory", memory, site.max_memory)):
        if _exceeds(asked, cap):
            problems.append(f"resource_spec's {key}: the site allows {cap}, got {asked}")
    gpus = job.num_of_gpus if job.num_of_gpus is not None else portable.num_of_gpus
    count = devices if gpus is None else gpus
    if site.max_gpus is not None and count > site.max_gpus:
        problems.append(f"resource_spec's num_of_gpus: the site allows {site.max_gpus}, got {count}")
    result = Resources(no_gpus=gpus == 0)
    _add(result, "cpu", cpu, job.cpu_request, site.max_cpu)
    _add(result, "memory", memory, job.memory_request, site.max_memory)
    _add(result, STORAGE, job.ephemeral_storage, None, None)
    _add(result, site.gpu_resource, str(count) if count else None, None, None)
    return result, problems


def _add(result: Resources, name: str, limit: str | None, request: str | None, cap: str | None) -> None:
    if limit is not None:
        result.limits[name] = limit
    elif cap is not None:
        result.caps[name] = cap
    if (reserved := request or limit) is not None:
        result.requests[name] = reserved


def size_words(size: int) -> str:
    """Return bytes as people write them: ``2Gi``."""
    return next((f"{size // unit}{name}" for name, unit in _UNITS if size and size % unit == 0), str(size))
