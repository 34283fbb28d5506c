"""The hooks: jobs as containers of a Docker engine, found again by their labels."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from siteward import (
    BackendError,
    Context,
    Finding,
    JobRef,
    JobRequest,
    JobState,
    JobStatus,
    LaunchRefused,
    LaunchUncertain,
    OptionsRefused,
    Problem,
    Publish,
    Reason,
    Unreachable,
    hookimpl,
    pack_directory,
    unpack_directory,
)
from siteward_docker import build, diagnose, options
from siteward_docker.absent import Absences
from siteward_docker.client import Conflict, Engine, Missing, NotSent, host_config
from siteward_docker.later import Later
from siteward_docker.logs import read_logs
from siteward_docker.ownership import hand_over, owner_of, user_of
from siteward_docker.secretfiles import SecretFiles
from siteward_docker.starting import Starts
from siteward_docker.stopping import Stops
from siteward_docker.watch import Watch

_LAST_LINES = 5
_LAST_LINES_WITHIN = 5.0
_KILLED_WITHIN = 30.0
_LONG_AGO = 86400.0
# An engine may tell of a lack of memory after the end that came of it, and forget it in what it keeps.
_LAST_NEWS_WITHIN = 0.2
_LOOK_AGAIN = 5.0


class Backend:
    """Runs each job as one container. It asks nothing of the engine until the first job."""

    api = 1
    JobOptions = options.JobOptions
    SiteOptions = options.SiteOptions
    StudyOptions = options.StudyOptions

    def __init__(self, context: Context, options: options.SiteOptions) -> None:
        self._context = context
        self._options = options
        self._owner = owner_of(context.directory)
        self._place = build.Place(
            owner=self._owner,
            options=options,
            user=user_of(options.user),
            base_dir=context.base_dir,
            host_config=_host_config(options.container_kwargs),
        )
        self._engine = Engine(options.docker_host, _logins(context, options))
        self._secrets = SecretFiles(self._owner)
        self._absences = Absences(context.directory / "absent")
        self._later = Later("siteward-docker-later", context.log)
        self._stops = Stops(self._engine, self._later, self._on_idle)
        self._starts = Starts(
            self._engine,
            self._stops,
            self._absences,
            pull=options.pull,
            tell=self._tell_of,
            publish=self._publish,
            log=context.log,
        )
        self._publisher: Publish | None = None
        self._watch: Watch | None = None
        self._closed = False
        self._changed = threading.Condition()
        self._known: dict[str, JobRef] = {}
        self._ended: set[str] = set()
        self._short_of_memory: set[str] = set()
        self._unseen: set[str] = set()
        self._readers: Counter[str] = Counter()

    # --- launching ------------------------------------------------------------------------------------------

    @hookimpl
    def siteward_resolve_options(self, options: options.JobOptions) -> options.JobOptions:
        """Fill in defaults, apply the site's caps."""
        return build.resolve(options, self._options)

    @hookimpl
    def siteward_launch_job(self, request: JobRequest) -> JobRef:
        """Create the container, or note that its image must come first; ``siteward_stage_job`` starts it."""
        ref = self._ref(request.job_id, request.attempt)
        name = ref.data["name"]
        try:
            body = self._body(request, name)
            words = "siteward or the engine was stopped before it had a container"
            self._absences.note(name, Reason.LAUNCH_FAILED, words)
            self._know(ref)
            container = self._starts.create(ref, body)
        except Unreachable as error:
            if not isinstance(error, NotSent):
                raise LaunchUncertain(ref, str(error)) from error
            self._forget(name)
            raise LaunchRefused(str(error)) from error
        except Exception as error:
            self._forget(name)
            words = str(error) if isinstance(error, LaunchRefused) else f"the engine refuses the container: {error}"
            raise LaunchRefused(words) from error
        return ref if container is None else self._ref(request.job_id, request.attempt, container)

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
        return self._look(ref)

    def _look(self, ref: JobRef) -> JobStatus:
        name = ref.data["name"]
        waiting = self._starts.status(name)
        if waiting is not None:
            return waiting
        try:
            found = self._engine.inspect(build.container_of(ref))
            if not build.is_same_job(found["Config"].get("Labels"), self._labels(ref)):
                raise Missing(f"container {name} is of another job")
        except Missing:
            result = self._absences.end_of(name)
            return diagnose.removed() if result is None else diagnose.finished(result)
        state = found["State"]
        if state["Status"] == "created" and name in self._stops:
            return diagnose.NEVER_STARTED
        if found["Id"] in self._short_of_memory:
            state = {**state, "OOMKilled": True}
        output = self._last_output(ref) if state.get("ExitCode") in diagnose.COMMAND_CODES else b""
        return diagnose.status_of(state, output)

    def _last_output(self, ref: JobRef) -> bytes:
        with suppress(Missing, Conflict):
            return b"".join(
                text for _time, text in self._engine.logs(build.container_of(ref), follow=False, tail=_LAST_LINES)
            )
        return b""

    @hookimpl
    def siteward_watch_jobs(self, publish: Publish) -> None:
        """Publish what one stream of events tells of all this site's containers."""
        self._publisher = publish
        self._watch = Watch(
            self._engine,
            f"{build.OWNER}={self._owner}",
            on_event=self._on_event,
            look=self._look_at_all,
            on_outage=self._on_outage,
            log=self._context.log,
        )

    def _on_event(self, event: Mapping[str, Any]) -> None:
        actor, labels = event["Actor"], event["Actor"]["Attributes"]
        ref = self._ref_of(labels, actor["ID"])
        if ref is None:
            return
        match event["Action"]:
            case "start" | "unpause":
                self._publish(ref, diagnose.RUNNING)
            case "pause":
                self._publish(ref, diagnose.PAUSED)
            case "oom":
                self._short_of_memory.add(actor["ID"])
            case "die" if labels.get("exitCode") == str(diagnose.KILLED):
                self._later.call(_LAST_NEWS_WITHIN, lambda: self._tell_surely(ref))
            case "die":
                self._tell_surely(ref)
            case "destroy":
                self._tell_surely(ref)
                self._ended.discard(ref.data["name"])
                self._short_of_memory.discard(actor["ID"])

    def _look_at_all(self) -> None:
        """After each connecting, look at every container there is, and for those that should be there."""
        listed = self._listed()
        names = {ref.data["name"] for ref in listed}
        for ref in (*listed, *(ref for ref in self._all_known() if ref.data["name"] not in names)):
            if not self._closed and not self._tell_surely(ref):
                self._engine.version()  # or it is the engine that is away
        self._forget_leftovers(names)

    def _forget_leftovers(self, names: set[str]) -> None:
        """Forget jobs of which a parent that was killed left a note or a secret, and nothing else."""
        kept = names | {ref.data["name"] for ref in self._all_known()}
        for name in (self._absences.older_than(_LONG_AGO) | self._secrets.older_than(_LONG_AGO)) - kept:
            self._forget(name)

    def _on_outage(self, error: Exception) -> None:
        for ref in self._all_known():
            self._publish(ref, JobStatus(state=JobState.PENDING, reachable=False, message=str(error)))

    def _on_idle(self, ref: JobRef) -> None:
        """Tell of a job that is to be ended and does not run: it never will."""
        self._starts.cancel(ref.data["name"])
        self._tell_of(ref)

    def _tell_of(self, ref: JobRef) -> None:
        status = self._look(ref)
        self._publish(ref, status)

    def _tell_surely(self, ref: JobRef) -> bool:
        """Tell of a job, later if it cannot be looked at now: it keeps no other from being seen. Whether it was now."""
        try:
            self._tell_of(ref)
        except BackendError as error:
            self._publish(ref, JobStatus(state=JobState.PENDING, reachable=False, message=str(error)))
            if ref.data["name"] not in self._unseen:
                self._unseen.add(ref.data["name"])
                self._later.call(_LOOK_AGAIN, lambda: self._tell_again(ref))
            return False
        return True

    def _tell_again(self, ref: JobRef) -> None:
        self._unseen.discard(ref.data["name"])
        self._tell_surely(ref)

    def _publish(self, ref: JobRef, status: JobStatus) -> None:
        name = ref.data["name"]
        with self._changed:
            if status.state.ended:
                self._known.pop(name, None)
                if name in self._ended:  # the list and the event told of the same end
                    return
                self._ended.add(name)
            elif name not in self._ended:  # also what another process launched: it may be this one's by now
                self._known.setdefault(name, ref)
            self._changed.notify_all()
        if self._publisher is not None and not self._closed:
            self._publisher(ref, status)

    def _know(self, ref: JobRef) -> None:
        with self._changed:
            self._known[ref.data["name"]] = ref

    def _all_known(self) -> list[JobRef]:
        with self._changed:
            return list(self._known.values())

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
        with self._changed:
            self._readers[name] += 1
        try:
            container = build.container_of(ref)
            yield from read_logs(self._engine, container, follow, tail, lambda: self._look(ref), self._changed)
        finally:
            with self._changed:
                self._readers[name] -= 1
                self._changed.notify_all()

    # --- the site -------------------------------------------------------------------------------------------

    @hookimpl
    def siteward_list_jobs(self) -> list[JobRef]:
        """Return the jobs of all containers of this installation."""
        return self._listed()

    def _listed(self) -> list[JobRef]:
        found = self._engine.containers(f"{build.OWNER}={self._owner}")
        refs = (self._ref_of(each["Labels"], each["Id"]) for each in found)
        return [ref for ref in refs if ref is not None]

    @hookimpl
    def siteward_remove_job(self, ref: JobRef) -> None:
        """Remove the container; one that runs, and has been told to end, when it has."""
        name, container = ref.data["name"], build.container_of(ref)
        with self._changed:  # whoever follows the output may be just before its last line
            self._changed.wait_for(lambda: not self._readers[name], _LAST_LINES_WITHIN)
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
        with self._changed:
            self._known.pop(name, None)
            self._ended.discard(name)

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
        return {"name": self._ref(request.job_id, request.attempt).data["name"], **body}

    @hookimpl
    def siteward_check_backend(self) -> list[Finding]:
        """Look at the engine and at what jobs will need of it."""
        from siteward_docker.check import check_engine

        return check_engine(self._engine, self._options)

    @hookimpl
    def siteward_close_backend(self) -> None:
        """Hang up. Containers go on."""
        self._closed = True
        if self._watch is not None:
            self._watch.close()
        self._starts.close()
        self._later.close()
        with self._changed:
            self._changed.notify_all()
        self._engine.close()

    # --- in between -----------------------------------------------------------------------------------------

    def _ref(self, job_id: str, attempt: int, container: str | None = None) -> JobRef:
        name = build.container_name(self._owner, self._context.site, job_id, attempt)
        return self._named(job_id, attempt, name, container)

    def _named(self, job_id: str, attempt: int, name: str, container: str | None) -> JobRef:
        site, backend = self._context.site, self._context.backend
        data = {"name": name, "id": container}
        return JobRef(site=site, backend=backend, job_id=job_id, attempt=attempt, data=data)

    def _ref_of(self, labels: Mapping[str, str], container: str) -> JobRef | None:
        """Return the ref of a container by its labels; None when they are not whole.

        Its name is the one that it was created with: it may have another now, or, half removed, none at all.
        """
        with suppress(KeyError, ValueError):
            job_id, attempt = labels[build.JOB_ID], int(labels[build.ATTEMPT])
            name = build.container_name(self._owner, labels[build.SITE], job_id, attempt)
            return self._named(job_id, attempt, name, container)
        return None

    def _labels(self, ref: JobRef) -> dict[str, str]:
        return build.labels(self._owner, ref.site, ref.job_id, ref.attempt)


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
