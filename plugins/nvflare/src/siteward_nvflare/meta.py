"""What a FLARE job's meta asks of one site, in siteward's words. Pure; the meta comes from whoever submitted the job.

Resolution of ``launcher_spec`` and ``resource_spec`` is FLARE's own (``nvflare.utils.job_launcher_utils``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nvflare.apis.app_validation import AppValidationKey
from nvflare.apis.job_def import DEFAULT_STUDY, JobMetaKey
from nvflare.utils.job_launcher_utils import (
    get_job_launcher_spec,
    get_portable_resource_spec,
    get_resource_manager_spec,
)

DEFAULT_SITE = "default"
# A legacy `process` block in resource_spec holds resources, no launcher options (get_site_launcher_spec).
_RESOURCES_ONLY = "process"
_BRINGS_CODE = ("image", "python_path", "entrypoint")


def offered_backends(meta: Mapping[str, Any], site: str) -> dict[str, dict[str, Any]]:
    """Return the backends that a job offers at a site, each with its options; ValueError for a wrong shape.

    An option that is null counts as not given.
    """
    general = _block(_spec(meta, JobMetaKey.JOB_LAUNCHER_SPEC.value), DEFAULT_SITE, "launcher_spec")
    own = _block(_spec(meta, JobMetaKey.JOB_LAUNCHER_SPEC.value), site, "launcher_spec")
    legacy = _block(_spec(meta, JobMetaKey.RESOURCE_SPEC.value), site, "resource_spec")
    nested = [name for name in ("process", "docker", "k8s", "slurm") if isinstance(legacy.get(name), Mapping)]
    offered: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys([*general, *own, *nested]):
        for where, block in (("default", general), (site, own)):
            if not isinstance(block.get(name) or {}, Mapping):
                raise ValueError(f"launcher_spec.{where}.{name}: expected a mapping of options")
        if name == _RESOURCES_ONLY and name not in general and name not in own:
            offered[name] = {}
            continue
        options = get_job_launcher_spec(dict(meta), site, name)
        offered[name] = {key: value for key, value in options.items() if value is not None}
    return offered


def resource_block(meta: Mapping[str, Any], site: str) -> dict[str, Any]:
    """Return one flat ``resource_spec`` block for a site: what FLARE's launchers and resource manager would be told.

    ValueError when a portable value is wrong.
    """
    _block(_spec(meta, JobMetaKey.RESOURCE_SPEC.value), site, "resource_spec")
    return {**get_resource_manager_spec(dict(meta), site), **get_portable_resource_spec(dict(meta), site)}


def without_repeats(offered: Mapping[str, dict[str, Any]], resources: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the options without a GPU count that the resources say again, as legacy jobs must."""
    again = resources.get("num_of_gpus")
    return {
        name: {key: value for key, value in options.items() if (key, value) != ("num_of_gpus", again)}
        for name, options in offered.items()
    }


def study_of(meta: Mapping[str, Any], known: Mapping[str, Any]) -> str | None:
    """Return the job's study; FLARE's ``default``, which every job has, is none unless the site knows one."""
    study = meta.get(JobMetaKey.STUDY.value)
    return None if not study or (study == DEFAULT_STUDY and study not in known) else str(study)


def own_code(meta: Mapping[str, Any], options: Mapping[str, Any]) -> str | None:
    """Return what a job brings that runs as code at the site though it may not; None if all is well.

    FLARE checks this for the blocks that it knows when the job is deployed; whatever reads a block must, too.
    """
    brings = [key for key in _BRINGS_CODE if options.get(key) is not None]
    if not brings or meta.get(AppValidationKey.BYOC) is True:
        return None
    return (
        f"the job names its own {' and '.join(brings)}, but this site has not authorised it to bring code (BYOC)."
        " Leave it out to use the site's, or ask for the right `byoc`"
    )


def _spec(meta: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    spec = meta.get(key) or {}
    if not isinstance(spec, Mapping):
        raise ValueError(f"{key}: expected a mapping by site")
    return spec


def _block(spec: Mapping[str, Any], site: str, where: str) -> Mapping[str, Any]:
    block = spec.get(site) or {}
    if not isinstance(block, Mapping):
        raise ValueError(f"{where}.{site}: expected a mapping")
    return block
