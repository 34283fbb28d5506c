"""The hooks: jobs as containers of a Docker engine, found again by their labels."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from siteward import (
    Context,
    Finding,
    JobRef,
    JobRequest,
    JobStatus,
    Later,
    LaunchRefused,
    LaunchUncertain,
    OptionsRefused,
    Problem,
    Publish,
    Unreachable,
    hand_over,
    hookimpl,
    installation_id,
    pack_directory,
    unpack_directory,
)
from siteward_docker import build, options
from siteward_docker.absent import Absences
from siteward_docker.client import Engine, host_config
from siteward_docker.errors import Conflict, Missing, NotSent
from siteward_docker.logs import read_logs
from siteward_docker.news import News
from siteward_docker.ownership import user_of
from siteward_docker.secretfiles import SecretFiles
from siteward_docker.starting import Starts
from siteward_docker.stopping import Stops
from siteward_docker.watch import Watch

_LAST_LINES_WITHIN = 5.0
_KILLED_WITHIN = 30.0
_LONG_AGO = 86400.0


class Backend:
    """Runs each job as one container. It asks nothing of the engine until the first job."""

    api = 1
    devices = "ids"
    JobOptions = options.JobOptions
    SiteOptions = options.SiteOptions
    StudyOptions = options.StudyOptions

    def __init__(self, context: Context, options: options.SiteOptions) -> None:
        self._context = context
        self._options = options
        self._place = build.Place(
            owner=installation_id(context.directory),
            site=context.site,
            backend=context.backend,
            options=options,
            user=user_of(options.user),
            base_dir=context.base_dir,
            host_config=_host_config(options.container_kwargs),
        )
        self._engine = Engine(options.docker_host, _logins(context, options))
        self._secrets = SecretFiles(self._place.owner)
        self._absences = Absences(context.directory / "absent")
        self._later = Later("siteward-docker-later", context.log)
        self._news = News(
            self._engine,
            self._place,
            self._absences,
            self._later,
            waiting=lambda name: self._starts.status(name),
            is_stopped=lambda name: name in self._stops,
        )
        self._stops = Stops(self._engine, self._later, self._on_idle)
        self._starts = Starts(
            self._engine,
            self._stops,
            self._absences,
            pull=options.pull,
            tell=self._news.tell,
            publish=self._news.publish,
            log=context.log,
        )
        self._watch: Watch | None = None
        self._readers: Counter[str] = Counter()

    # --- launching ------------------------------------------------------------------------------------------

    @hookimpl
    def siteward_resolve_options(self, options: options.JobOptions) -> options.JobOptions:
        """Fill in defaults, apply the site's caps."""
        return build.resolve(options, self._options)

    @hookimpl
    def siteward_launch_job(self, request: JobRequest) -> JobRef:
        """Create the container, or note that its image must come first; ``siteward_stage_job`` starts it."""
        ref = self._place.ref(request.job_id, request.attempt)
        name = ref.data["name"]
        try:
            body = self._body(request, name)
            self._absences.expect(name)
            self._news.expect(ref)
            container = self._starts.create(ref, body)
        except Unreachable as error:
            if not isinstance(error, NotSent):
                raise LaunchUncertain(ref, str(error)) from error
            self._forget(name)
            raise LaunchRefused(str(error)) from error
        except (LaunchRefused, OptionsRefused):
            self._forget(name)
            raise
        except Exception as error:
            self._forget(name)
            raise LaunchRefused(f"the engine refuses the container: {error}") from error
        return ref if container is None else self._place.ref(request.job_id, request.attempt, container)

    def _body(self, request: JobRequest, name: str) -> dict[str, Any]:
        study = request.study or options.StudyOptions()
        if self._options.job_directory == "bind":
            paths = [self._context.base_dir / Path(each.source).expanduser() for each in study.datasets.values()]
            if missing := [str(path) for path in paths if not path.exists()]:
                raise LaunchRefused(f"study {request.study_name!r}: there is no {', '.join(missing)}. Create it.")
        elif study.secret_mounts:
            raise LaunchRefused("secret_mounts need an engine that shares this machine's files (job_directory: bind)")
        secret_files = {mount.mount_path: self._secret(mount.source) for mount in study.secret_mounts.values()}
        return build.container(
            request,
            self._place,
            secret_env={variable: self._secret(each.source) for variable, each in study.secret_env.items()},
            secret_files=self._secrets.write(name, secret_files, self._place.user),
            study_host_config=_host_config(study.docker_kwargs),
            default_runtime=self._engine.default_runtime(),
        )

    def _secret(self, name: str) -> str:
        try:
            return self._context.read_secret(name)
        except ValueError as error:
            raise LaunchRefused(str(error)) from error

    @hookimpl
    def siteward_stage_job(self, ref: JobRef, source: Path) -> None:
        """Bring the inputs to the container and start it; what has been started is left alone."""
        self._starts.start(ref, lambda container: self._bring(container, source))

    def _bring(self, container: str, source: Path) -> None:
        if self._options.job_directory == "copy":
            folder = os.path.basename(build.JOB_DIR)
            self._engine.put_archive(
                container, build.VOLUME, pack_directory(source, name=folder, owner=self._place.user)
            )
        else:
            hand_over(source, self._place.user)

    # --- looking --------------------------------------------------------------------------------------------

    @hookimpl
    def siteward_poll_job(self, ref: JobRef) -> JobStatus:
        """Look at the container, uncached."""
        return self._news.look(ref)

    @hookimpl
    def siteward_watch_jobs(self, publish: Publish) -> None:
        """Publish what one stream of events tells of all this site's containers."""
        self._news.begin(publish)
        self._watch = Watch(
            self._engine,
            self._place.label,
            on_event=self._news.on_event,
            look=self._look_at_all,
            on_outage=self._news.on_outage,
            log=self._context.log,
        )

    def _look_at_all(self) -> None:
        listed = self._listed()
        self._news.on_list(listed)
        self._forget_leftovers({ref.data["name"] for ref in (*listed, *self._news.known())})

    def _forget_leftovers(self, kept: set[str]) -> None:
        """Forget jobs of which a parent that was killed left a note or a secret, and nothing else."""
        for name in (self._absences.older_than(_LONG_AGO) | self._secrets.older_than(_LONG_AGO)) - kept:
            self._forget(name)

    def _on_idle(self, ref: JobRef) -> None:
        """Tell of a job that is to be ended and does not run: it never will."""
        self._starts.cancel(ref.data["name"])
        self._news.tell(ref)

    # --- ending ---------------------------------------------------------------------------------------------

    @hookimpl
    def siteward_terminate_job(self, ref: JobRef, grace: float) -> None:
        """TERM to the command, KILL to the whole container after ``grace`` seconds."""
        self._stops.stop(ref, grace)

    @hookimpl
    def siteward_collect_job(self, ref: JobRef, target: Path) -> str:
        """Bring the job directory back, as this process's user's."""
        if self._options.job_directory == "bind":
            hand_over(target, (os.geteuid(), os.getegid()))
            return "returned"
        try:
            chunks = self._engine.get_archive(build.container_of(ref), build.JOB_DIR)
            return "returned" if unpack_directory(chunks, target, max_bytes=self._options.max_collect) else "partial"
        except Missing:
            return "lost"

    @hookimpl
    def siteward_read_logs(self, ref: JobRef, follow: bool, tail: int | None) -> Iterator[bytes]:
        """Read the container's output as the engine keeps it."""
        name = ref.data["name"]
        with self._news.changed:
            self._readers[name] += 1
        try:
            yield from read_logs(self._engine, self._news, ref, follow, tail)
        finally:
            with self._news.changed:
                self._readers[name] -= 1
                self._news.changed.notify_all()

    # --- the site -------------------------------------------------------------------------------------------

    @hookimpl
    def siteward_list_jobs(self) -> list[JobRef]:
        """Return the jobs of all containers of this installation."""
        return self._listed()

    def _listed(self) -> list[JobRef]:
        found = self._engine.containers(self._place.label)
        refs = (self._place.ref_of(each["Labels"], each["Id"]) for each in found)
        return [ref for ref in refs if ref is not None]

    @hookimpl
    def siteward_remove_job(self, ref: JobRef) -> None:
        """Remove the container; one that runs, and has been told to end, when it has."""
        name, container = ref.data["name"], build.container_of(ref)
        with self._news.changed:  # whoever follows the output may be just before its last line
            self._news.changed.wait_for(lambda: not self._readers[name], _LAST_LINES_WITHIN)
            del self._readers[name]
        with suppress(Missing):
            try:
                self._engine.remove(container)
            except Conflict:
                self._engine.wait(container, self._stops.grace(name) + _KILLED_WITHIN)
                self._engine.remove(container)
        self._stops.forget(name)
        self._forget(name)

    def _forget(self, name: str) -> None:
        self._absences.forget(name)
        self._secrets.remove(name)
        self._news.forget(name)

    @hookimpl
    def siteward_render_job(self, request: JobRequest) -> object:
        """Return the engine's create call."""
        study = request.study or options.StudyOptions()
        body = build.container(
            request,
            self._place,
            secret_env=dict.fromkeys(study.secret_env, "***"),
            secret_files={mount.mount_path: "***" for mount in study.secret_mounts.values()},
            study_host_config=_host_config(study.docker_kwargs),
        )
        return {"name": self._place.ref(request.job_id, request.attempt).data["name"], **body}

    @hookimpl
    def siteward_check_backend(self) -> list[Finding]:
        """Look at the engine and at what jobs will need of it."""
        from siteward_docker.check import check_engine

        return check_engine(self._engine, self._options)

    @hookimpl
    def siteward_close_backend(self) -> None:
        """Hang up. Containers go on."""
        self._news.end()
        if self._watch is not None:
            self._watch.close()
        self._starts.close()
        self._later.close()
        self._engine.close()

    # --- in between -----------------------------------------------------------------------------------------


def _host_config(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    own = {name: value for name, value in kwargs.items() if name not in options.CREATE_KWARGS}
    return host_config(own) if own else {}


def _logins(context: Context, options: options.SiteOptions) -> dict[str, tuple[str, str]]:
    """Return registry to (user, password); OptionsRefused with every password that cannot be had."""
    logins, problems = {}, []
    for registry, auth in options.registry_auth.items():
        try:
            logins[registry] = auth.username, auth.password(context.base_dir)
        except ValueError as error:
            problems.append(Problem(f"registry_auth.{registry}", str(error)))
    if problems:
        raise OptionsRefused(problems)
    return logins
