"""One site's use of one backend: the choice of it, and typed calls to its hooks with the core's fallbacks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import attrs
import pluggy

from siteward.config import Problems, build, nearest
from siteward.errors import BackendError, LaunchError, NoBackend, OptionsRefused, Problem, sentences
from siteward.hookspecs import Publish
from siteward.job import DEFAULT_SITE, Job
from siteward.pluginrules import DEVICES
from siteward.plugins import Plugins, backend_hooks
from siteward.request import Context, Finding, JobRef, JobRequest, JobStatus
from siteward.resources import PortableResources, nested_blocks

T = TypeVar("T")


@attrs.frozen
class NoOptions:
    """The options of a backend that has none."""


_PLACES = {
    "JobOptions": "a job's `launcher_spec` for {}",
    "SiteOptions": "`backends.{}` of a site file",
    "StudyOptions": "`studies.NAME.{}` of a site file",
}


def read_options(backend: type[Any], name: str, kind: str, block: Mapping[str, Any]) -> Any:
    """Read a block as a backend's ``JobOptions``, ``SiteOptions`` or ``StudyOptions``; Problems with every mistake."""
    kinds = {each: getattr(backend, each, NoOptions) for each in _PLACES}
    others = {place.format(name): kinds[each] for each, place in _PLACES.items() if each != kind}
    return build(kinds[kind], block, others)


def offered_backends(job: Job, site: str) -> dict[str, Mapping[str, Any]]:
    """Return what the job offers at this site: backend name to its merged options.

    ``default`` merged with the site's own, per backend, key by key, the site winning; an explicit ``{}`` counts.
    A legacy block in ``resource_spec`` counts for backends that ``launcher_spec`` does not name.
    """
    general, own = job.launcher_spec.get(DEFAULT_SITE, {}), job.launcher_spec.get(site, {})
    merged = {name: {**general.get(name, {}), **own.get(name, {})} for name in (*general, *own)}
    return {**nested_blocks(job.resource_spec, site), **merged}


def where_offered(job: Job, site: str, backend: str, option: str) -> str:
    """Return the path of the block in the job file that an option of :func:`offered_backends` came from.

    Where the block does not have it (a key that is missing), the path of the strongest block that there is.
    """
    key = option.partition(".")[0].partition("[")[0]
    blocks = {f"launcher_spec.{name}.{backend}": job.launcher_spec.get(name, {}) for name in (site, DEFAULT_SITE)}
    present = {path: spec[backend] for path, spec in blocks.items() if backend in spec}
    if not present and backend in nested_blocks(job.resource_spec, site):
        return f"resource_spec.{site}.{backend}"
    having = [path for path, block in present.items() if key in block]
    return next(iter([*having, *present, *blocks]))


def choose_backend(
    offered: Iterable[str],
    enabled: Sequence[str],
    default: str | None,
    broken: Mapping[str, str] | None = None,
    *,
    site: str | None = None,
) -> str:
    """Return the backend to use: the first enabled one (in the site's order) that the job offers.

    A job that offers nothing for this site gets the site's default. NoBackend otherwise, naming what the job
    offers, what the ``site`` has, near misses, and plugins that are broken (name to reason).
    """
    offered = list(offered)
    for name in enabled:
        if name in offered:
            return name
    if not offered and default is not None:
        return default
    hints = [f"{name!r} is broken: {reason}" for name, reason in (broken or {}).items() if name in offered]
    hints += [f"Did you mean {close!r} for {name!r}?" for name in offered if (close := nearest(name, enabled))]
    where = "this site" if site is None else f"site {site!r}"
    if offered:
        message = f"the job offers {', '.join(offered)}, but {where} enables {', '.join(enabled)}"
        hints.append("Enable one of them in the site file's `backends`, or offer another in `launcher_spec`")
    else:
        message = f"the job offers no backend for {where}, which enables {', '.join(enabled)} and has no default"
        hints.append("Name one in the job's `launcher_spec`, or set `default_backend` in the site file")
    raise NoBackend(sentences(message, *hints), offered=offered, enabled=enabled)


def conflicts(options_class: type, block: Mapping[str, Any], resources: PortableResources) -> list[Problem]:
    """Return options that say again what ``resource_spec`` says (a field's metadata ``portable`` names the key)."""
    return [
        Problem(field.name, f"conflicts with resource_spec's {key}; give it once")
        for field in attrs.fields(options_class)
        if (key := field.metadata.get("portable")) and field.name in block and getattr(resources, key) is not None
    ]


class Launcher:
    """A backend at work for a site: it owns a plugin manager in which exactly this backend is registered.

    ``stages`` says whether it is to be asked to bring job directories.
    """

    def __init__(self, plugins: Plugins, context: Context, block: Mapping[str, Any]) -> None:
        self.name = context.backend
        self.context = context
        self._class = plugins.backend(self.name)
        options = read_options(self._class, self.name, "SiteOptions", block)
        try:
            backend = self._class(context, options)
        except (OptionsRefused, Problems) as error:
            raise Problems(error.problems) from error
        except Exception as error:
            raise BackendError(f"backend {self.name!r} cannot be set up: {type(error).__name__}: {error}") from error
        self.manager: pluggy.PluginManager = plugins.make_manager()
        plugins.register_backend(self.manager, backend, self.name)
        self._hook = self.manager.hook
        self.hooks = backend_hooks(self._class)
        self.stages = self.has("stage_job") and bool(getattr(backend, "stages", True))
        self.devices: str = getattr(self._class, "devices", DEVICES[0])
        self._defaults: Any = None

    def has(self, hook: str) -> bool:
        """Whether the backend implements ``siteward_<hook>``."""
        return f"siteward_{hook}" in self.hooks

    def study_options(self, block: Mapping[str, Any]) -> Any:
        """Read a study's block for this backend; raise Problems with every mistake."""
        return read_options(self._class, self.name, "StudyOptions", block)

    def job_options(self, block: Mapping[str, Any], resources: PortableResources) -> Any:
        """Read and resolve what a job asks of this backend; OptionsRefused with everything it may not ask."""
        if not block:
            if self._defaults is None:
                self._defaults = self._read_options(block, resources)
            return self._defaults
        return self._read_options(block, resources)

    def _read_options(self, block: Mapping[str, Any], resources: PortableResources) -> Any:
        kind = getattr(self._class, "JobOptions", NoOptions)
        try:
            options = read_options(self._class, self.name, "JobOptions", block)
        except Problems as error:
            raise OptionsRefused(error.problems) from error
        if problems := conflicts(kind, block, resources):
            raise OptionsRefused(problems)
        if not self.has("resolve_options"):
            return options
        try:
            return self._expect(
                self._call("siteward_resolve_options", options=options), kind, "siteward_resolve_options"
            )
        except LaunchError:
            raise
        except Exception as error:
            words = f"backend {self.name!r} cannot resolve the job's options: {type(error).__name__}: {error}"
            raise LaunchError(words) from error

    def _call(self, hook: str, **arguments: object) -> Any:
        try:
            return getattr(self._hook, hook)(**arguments)
        except SystemExit as error:
            raise BackendError(f"backend {self.name!r}: {hook} called sys.exit({error.code!r})") from error

    def launch(self, request: JobRequest) -> JobRef:
        """Hand the job to the platform."""
        ref = self._call("siteward_launch_job", request=request)
        return self._expect(ref, JobRef, "siteward_launch_job")

    def poll(self, ref: JobRef) -> JobStatus:
        """Look once."""
        return self._expect(self._call("siteward_poll_job", ref=ref), JobStatus, "siteward_poll_job")

    def _expect(self, value: Any, kind: type[T], hook: str) -> T:
        if not isinstance(value, kind):
            raise BackendError(f"backend {self.name!r}: {hook} returned {type(value).__name__}, not {kind.__name__}")
        return value

    def terminate(self, ref: JobRef, grace: float) -> None:
        """Ask for the job's end; returns at once."""
        self._call("siteward_terminate_job", ref=ref, grace=grace)

    def watch(self, publish: Publish) -> bool:
        """Start the backend's watch; False if it has none and must be polled."""
        if not self.has("watch_jobs"):
            return False
        self._call("siteward_watch_jobs", publish=publish)
        return True

    def stage(self, ref: JobRef, source: Path) -> None:
        """Bring the job directory to the platform."""
        self._call("siteward_stage_job", ref=ref, source=source)

    def collect(self, ref: JobRef, target: Path) -> str:
        """Bring the job directory back: ``returned``, ``partial`` or ``lost``."""
        if not self.has("collect_job"):
            return "returned"
        answer = self._call("siteward_collect_job", ref=ref, target=target)
        return answer if answer in ("returned", "partial", "lost") else "partial"

    def read_logs(self, ref: JobRef, *, follow: bool, tail: int | None) -> Iterator[bytes]:
        """Return chunks of the job's output; BackendError if this backend keeps none."""
        if not self.has("read_logs"):
            raise BackendError(f"backend {self.name!r} keeps no logs")
        return self._chunks(ref, follow, tail)

    def _chunks(self, ref: JobRef, follow: bool, tail: int | None) -> Iterator[bytes]:
        try:
            yield from self._call("siteward_read_logs", ref=ref, follow=follow, tail=tail)
        except SystemExit as error:
            raise BackendError(f"backend {self.name!r}: siteward_read_logs called sys.exit({error.code!r})") from error

    def list_jobs(self) -> list[JobRef] | None:
        """Return this site's jobs on the platform, None if the backend cannot list."""
        return list(self._call("siteward_list_jobs") or ()) if self.has("list_jobs") else None

    def remove(self, ref: JobRef) -> None:
        """Let the platform forget the job."""
        if self.has("remove_job"):
            self._call("siteward_remove_job", ref=ref)

    def render(self, request: JobRequest) -> object:
        """Return what would be submitted, secrets masked."""
        if not self.has("render_job"):
            raise BackendError(f"backend {self.name!r} cannot render what it would submit")
        return self._call("siteward_render_job", request=request.masked())

    def check(self) -> list[Finding]:
        """Return the backend's findings for doctor; an exception is a finding too."""
        if not self.has("check_backend"):
            return [Finding(level="ok", subject=self.name, message="this backend checks nothing")]
        try:
            return list(self._call("siteward_check_backend") or ())
        except Exception as error:
            message = f"the check failed: {type(error).__name__}: {error}"
            return [Finding(level="fail", subject=self.name, message=message, remedy="Mend or disable this backend")]

    def close(self) -> None:
        """Let go of the platform; jobs go on."""
        self._call("siteward_close_backend")
