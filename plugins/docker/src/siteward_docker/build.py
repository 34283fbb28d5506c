"""From a request to what the engine's API is asked to create. Pure: no engine, no files, no clock."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from siteward import JobRef, JobRequest, LaunchRefused, OptionsRefused, Problem, check_caps, safe_name
from siteward_docker.options import CREATE_KWARGS, Dataset, JobOptions, SiteOptions, StudyOptions, parse_size

# In a volume the job directory is a folder: of the volume's own top the engine lets nobody change the owner.
VOLUME = "/siteward"
JOB_DIR = "/siteward/job"
DATA_DIR = "/data"
OWNER, SITE, JOB_ID, ATTEMPT = "siteward.owner", "siteward.site", "siteward.job-id", "siteward.attempt"
NOBODY = (65534, 65534)
_NAME_LENGTH, _DIGITS = 63, 12
# With NVIDIA's runtime this variable alone, a job's or an image's, gives a container devices.
_GPUS_SEEN = "NVIDIA_VISIBLE_DEVICES"
# The engine's usual driver, json-file, keeps no bytes that are not UTF-8. Of very much output the last is kept.
_LOG_CONFIG = {"Type": "local", "Config": {"max-size": "64m", "max-file": "3"}}


@lru_cache(1024)
def container_name(owner: str, site: str, job_id: str, attempt: int) -> str:
    """Return the name of a job's container: the same for the same job, another for any other, at most 63 characters."""
    digest = hashlib.sha256("\0".join((owner, site, job_id, str(attempt))).encode("utf-8", "surrogatepass"))
    head = f"{safe_name(site, 20)}-{job_id}"[: _NAME_LENGTH - _DIGITS - 1].rstrip("-")
    return f"{head}-{digest.hexdigest()[:_DIGITS]}"


@frozen(kw_only=True)
class Place:
    """Where a site's containers run: whose they are, as whom, and what of the site's options is already worked out.

    ``owner`` tells this installation's containers from all others on the engine; ``user`` is (uid, gid);
    ``base_dir`` is the site file's folder; ``host_config`` the site's container_kwargs in the API's own names.
    """

    owner: str
    site: str
    backend: str
    options: SiteOptions
    user: tuple[int, int]
    base_dir: Path = Path()
    host_config: Mapping[str, Any] = {}

    @property
    def label(self) -> str:
        """The label that all of this installation's containers have, and no others."""
        return f"{OWNER}={self.owner}"

    def labels(self, job_id: str, attempt: int) -> dict[str, str]:
        """Return the labels by which a job's container is found again."""
        return {OWNER: self.owner, SITE: self.site, JOB_ID: job_id, ATTEMPT: str(attempt)}

    def ref(self, job_id: str, attempt: int, container: str | None = None, *, site: str | None = None) -> JobRef:
        """Return the ref of a job; ``site`` is what the site was called when the container was created."""
        data = {"name": container_name(self.owner, site or self.site, job_id, attempt), "id": container}
        return JobRef(site=self.site, backend=self.backend, job_id=job_id, attempt=attempt, data=data)

    def ref_of(self, labels: Mapping[str, str], container: str) -> JobRef | None:
        """Return the ref of a container by its labels; None when they are not whole.

        Its name is the one that it was created with: it may have another now, or, half removed, none at all.
        """
        try:
            return self.ref(labels[JOB_ID], int(labels[ATTEMPT]), container, site=labels[SITE])
        except (KeyError, ValueError):
            return None


def is_same_job(found: Mapping[str, str] | None, wanted: Mapping[str, str]) -> bool:
    """Whether a container's labels are those of exactly this job of this installation."""
    return all((found or {}).get(key) == wanted[key] for key in (OWNER, JOB_ID, ATTEMPT))


def container_of(ref: JobRef) -> str:
    """Return what the engine is asked for: the id, which stays when somebody gives the container another name."""
    return str(ref.data["id"] or ref.data["name"])


def resolve(options: JobOptions, site: SiteOptions) -> JobOptions:
    """Fill in the site's defaults and apply what it allows; OptionsRefused with everything that it does not."""
    problems = []
    if options.image is not None and site.allowed_images is not None:
        allowed = site.allowed_images
        if not any(fnmatchcase(options.image, pattern) for pattern in allowed):
            words = f"the site allows only images like {', '.join(allowed) or 'none'}, got {options.image!r}"
            problems.append(Problem("image", words))
    if options.num_of_gpus is not None and site.max_gpus is not None and options.num_of_gpus > site.max_gpus:
        problems.append(Problem("num_of_gpus", f"the site allows {site.max_gpus}, got {options.num_of_gpus}"))
    if problems:
        raise OptionsRefused(problems)
    entrypoint = (options.entrypoint,) if isinstance(options.entrypoint, str) else options.entrypoint
    return evolve(
        options,
        python_path=options.python_path or site.default_python_path,
        entrypoint=entrypoint,
        shm_size=None if options.shm_size is None else parse_size(options.shm_size),
    )


def image_of(request: JobRequest, site: SiteOptions) -> str:
    """Return the image to use: the job's, else the study's, else the site's; LaunchRefused naming all three places."""
    study = request.study.image if request.study is not None else None
    image = request.options.image or study or site.default_image
    if image is None:
        where = f" studies.{request.study_name}.docker.image in the site file," if request.study_name else ""
        raise LaunchRefused(
            f"no image is named for the job at site {request.site!r}. Name one in the job's launcher_spec (docker:"
            f" {{image: …}}),{where} or default_image in the site file's docker block."
        )
    return str(image)


def container(
    request: JobRequest,
    place: Place,
    *,
    secret_env: Mapping[str, str],
    secret_files: Mapping[str, str],
    study_host_config: Mapping[str, Any],
    default_runtime: str = "",
) -> dict[str, Any]:
    """Return the body of the engine's create call; OptionsRefused with all that is more than the site allows.

    ``secret_env`` is variable to value, ``secret_files`` a path in the container to the file's path at the site;
    ``default_runtime`` is what the engine runs containers with.
    """
    _check_caps(request, place.options)
    study = request.study or StudyOptions()
    options: JobOptions = request.options
    argv = request.argv(str(options.python_path), JOB_DIR)
    entrypoint = options.entrypoint or ()
    # An entrypoint of our own keeps the engine from putting the image's before the command.
    run = [*entrypoint, *argv]
    kwargs = {**place.options.container_kwargs, **study.docker_kwargs}
    host_config = _host_config(request, place, study, secret_files, study_host_config)
    environment = _environment(request, place, study, secret_env)
    if "nvidia" in str(host_config.get("Runtime") or default_runtime):
        _hide_gpus(environment, request, {**place.options.env, **study.env}, bool(host_config.get("DeviceRequests")))
    return {
        "Image": image_of(request, place.options),
        "Entrypoint": run[:1],
        "Cmd": run[1:],
        "Env": [f"{name}={value}" for name, value in environment.items()],
        "WorkingDir": JOB_DIR,
        "User": "{}:{}".format(*place.user),
        "Labels": {
            **place.options.labels,
            **place.labels(request.job_id, request.attempt),
            "siteward.name": request.name,
        },
        **{api: kwargs[name] for name, api in CREATE_KWARGS.items() if name in kwargs},
        "HostConfig": host_config,
    }


def _environment(
    request: JobRequest, place: Place, study: StudyOptions, secret_env: Mapping[str, str]
) -> dict[str, str]:
    # With a read-only root the only folder that every program can write to is /tmp.
    base = {"HOME": "/tmp"}  # noqa: S108
    return {**base, **place.options.env, **study.env, **request.environment(JOB_DIR), **secret_env}


def _hide_gpus(environment: dict[str, str], request: JobRequest, site_env: Mapping[str, str], has_gpus: bool) -> None:
    """Take the variable for devices out of a job's hands; what the site says of it in its docker block stays."""
    own = {**site_env, **(request.allocation.env if request.allocation is not None else {})}
    environment.pop(_GPUS_SEEN, None)
    if _GPUS_SEEN in own:
        environment[_GPUS_SEEN] = own[_GPUS_SEEN]
    elif not has_gpus:
        environment[_GPUS_SEEN] = "void"


def _host_config(
    request: JobRequest,
    place: Place,
    study: StudyOptions,
    secret_files: Mapping[str, str],
    study_host_config: Mapping[str, Any],
) -> dict[str, Any]:
    site = place.options
    config: dict[str, Any] = {"LogConfig": _LOG_CONFIG, **place.host_config, **study_host_config}
    config["Init"] = True
    config["ReadonlyRootfs"] = site.read_only
    config["CapDrop"] = list(site.cap_drop)
    config["Mounts"] = [
        _job_mount(request, site),
        *(_dataset(request.study_name, name, each, place.base_dir) for name, each in study.datasets.items()),
        *(_bind(source, target, read_only=True) for target, source in secret_files.items()),
    ]
    if site.no_new_privileges:
        config["SecurityOpt"] = [*(config.get("SecurityOpt") or ()), "no-new-privileges"]
    if site.read_only:
        config["Tmpfs"] = {"/tmp": "rw,exec,nosuid,nodev,mode=1777", **(config.get("Tmpfs") or {})}  # noqa: S108
    if site.network is not None:
        config["NetworkMode"] = site.network
    if request.options.shm_size is not None:
        config["ShmSize"] = request.options.shm_size
    cpus = request.resources.num_of_cpus or site.max_cpus
    memory = request.resources.memory or site.max_memory
    if cpus is not None:
        config["NanoCpus"] = cpus * 10**9
    if memory is not None:
        # No swap on top: a job that outgrows its memory is ended, not slowed down.
        config["Memory"] = config["MemorySwap"] = memory
    return {**config, **_gpus(request)}


def _job_mount(request: JobRequest, site: SiteOptions) -> dict[str, Any]:
    if site.job_directory == "bind":
        return _bind(str(request.job_dir), JOB_DIR, read_only=False)
    # A volume without a name goes when its container is removed.
    return {"Type": "volume", "Target": VOLUME}


def _bind(source: str, target: str, *, read_only: bool) -> dict[str, Any]:
    return {"Type": "bind", "Source": source, "Target": target, "ReadOnly": read_only}


def _dataset(study: str | None, name: str, dataset: Dataset, base_dir: Path) -> dict[str, Any]:
    source = base_dir / Path(dataset.source).expanduser()
    return _bind(str(source), f"{DATA_DIR}/{study}/{name}", read_only=dataset.mode == "ro")


def _check_caps(request: JobRequest, site: SiteOptions) -> None:
    asked = request.resources
    check_caps(
        request.site,
        {
            "CPUs": (asked.num_of_cpus, site.max_cpus),
            "bytes of memory": (asked.memory, site.max_memory),
            "GPUs": (_gpu_count(request), site.max_gpus),
        },
    )


def _gpu_count(request: JobRequest) -> int | None:
    own: int | None = request.options.num_of_gpus
    return request.resources.num_of_gpus if own is None else own


def _gpus(request: JobRequest) -> dict[str, Any]:
    """Return the devices that were handed to the job, or else as many as it asks for; an explicit 0 means none."""
    devices = list(request.allocation.devices) if request.allocation is not None else []
    count = _gpu_count(request)
    if devices:
        return {"DeviceRequests": [{"DeviceIDs": devices, "Capabilities": [["gpu"]]}]}
    if count is None:
        return {}
    return {"DeviceRequests": [{"Count": count, "Capabilities": [["gpu"]]}] if count else []}
