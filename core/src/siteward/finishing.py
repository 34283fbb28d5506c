"""After a job's end: result, collect, log, free, report, observers, remove. Each step can be repeated."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from logging import Logger
from pathlib import Path
from typing import Any, TypeVar

import pluggy
from attrs import Factory, evolve, frozen

from siteward.ends import JobState, Result
from siteward.errors import SitewardError, Unreachable
from siteward.failures import FailureReport, fold_filters, is_reportable
from siteward.hookspecs import PLUGIN_HOOKS
from siteward.manager import ResourceManager
from siteward.statedir import open_plain
from siteward.store import Phase, Store
from siteward.tracked import Tracked

T = TypeVar("T")
Call = Callable[..., Any]
TAIL_BYTES = 8192
TAIL_LINES = 40
_TRIES = 3
_OUTAGE = 300.0


class Closing(SitewardError):
    """The site is being closed: the steps that are left are the next driver's."""


@frozen(kw_only=True)
class Finisher:
    """Brings ended jobs of one site to their last phase."""

    site: str
    store: Store
    global_plugins: pluggy.PluginManager
    manager: ResourceManager | None
    log: Logger
    closing: Callable[[], bool]
    _listening: dict[str, dict[str, list[tuple[str, Call]]]] = Factory(dict)

    def calls(self, tracked: Tracked, hook: str) -> list[tuple[str, Call]]:
        """Return who implements a hook of every plugin, in name order: global ones, the job's backend, the manager."""
        return self._all_calls(tracked)[hook]

    def _all_calls(self, tracked: Tracked) -> dict[str, list[tuple[str, Call]]]:
        key = tracked.backend if tracked.launcher is not None else ""
        if key not in self._listening:
            managers = [self.global_plugins]
            managers += [tracked.launcher.manager] if tracked.launcher is not None else []
            managers += [self.manager.manager] if self.manager is not None else []
            self._listening[key] = {name: _calls(managers, name) for name in PLUGIN_HOOKS}
        return self._listening[key]

    def is_quick(self, tracked: Tracked, result: Result) -> bool:
        """Whether finishing touches nothing but this site's own disk, so that any thread may do it in passing."""
        launcher = tracked.launcher
        saves_log = launcher is not None and launcher.has("read_logs") and not os.path.exists(tracked.log_file)
        collects = launcher is not None and launcher.has("collect_job")
        calls = self._all_calls(tracked)
        filtered = result.state is not JobState.SUCCEEDED and calls["siteward_filter_failure_report"]
        listening = filtered or calls["siteward_job_ended"]
        return not (collects or saves_log or tracked.token or listening)

    def finish(self, tracked: Tracked, result: Result, *, quick: bool) -> Result:
        """Do every step that is left, up to the report; the caller removes.

        A store that cannot be written (a full disk) loses nothing: the platform keeps the end, because it is not
        removed, and the next driver of the job repeats the steps.
        """
        if quick:
            result = _with_log_tail(tracked, result)
        elif tracked.phase in (Phase.LAUNCHED, Phase.ENDED):
            self._store(tracked, Phase.ENDED, result)
            result = _with_log_tail(tracked, self._collect(tracked, result))
            self._store(tracked, Phase.COLLECTED, result)
        if tracked.token is not None and self.manager is not None and tracked.phase is not Phase.FREED:
            self._retry(tracked, "free resources", lambda: self.manager.free(tracked.token or ""))  # type: ignore[union-attr]
            self._store(tracked, Phase.FREED, result)
        if result.state is not JobState.SUCCEEDED:
            result = evolve(result, report=self._report(tracked, result))
        if not quick:  # before it is stored that they were told: after a crash they are told again
            self._tell(tracked, "siteward_job_ended", ref=tracked.some_ref(), result=result)
        self._store(tracked, Phase.REPORTED, result)
        return result

    def _store(self, tracked: Tracked, phase: Phase, result: Result) -> None:
        self.store.update(
            tracked.job_id,
            phase=phase,
            state=result.state,
            message=result.message,
            reachable=True,
            result=result,
            started_at=result.started_at,
            ended_at=result.ended_at,
        )
        tracked.phase = phase

    def _collect(self, tracked: Tracked, result: Result) -> Result:
        launcher, ref = tracked.launcher, tracked.ref
        workspace = result.workspace
        if launcher is not None and ref is not None:
            if launcher.has("collect_job"):
                answer = self._retry(tracked, "collect", lambda: launcher.collect(ref, tracked.job_dir))
                workspace = answer or "lost"
            if launcher.has("read_logs") and not os.path.exists(tracked.log_file):
                self._retry(tracked, "save the log", lambda: _save_log(tracked))
        return result if workspace == result.workspace else evolve(result, workspace=workspace)

    def _retry(self, tracked: Tracked, what: str, step: Callable[[], T]) -> T | None:
        """Run a step until it works; give up on errors after a few tries, on an outage after some minutes."""
        tries, pause, give_up = 0, 0.1, time.monotonic() + _OUTAGE
        while True:
            try:
                with tracked.calls:
                    return step()
            except Exception as error:
                tries += 1
                if self.closing():
                    raise Closing(f"cannot {what} before the site is closed: {error}") from error
                over = time.monotonic() > give_up if isinstance(error, Unreachable) else tries >= _TRIES
                if over:
                    self.log.error("job %s: cannot %s: %s", tracked.job_id, what, error)
                    self.store.update(tracked.job_id, f"cannot {what}", str(error))
                    return None
                wake_up = time.monotonic() + pause
                while time.monotonic() < wake_up and not self.closing():
                    time.sleep(min(pause, 0.1))
                pause = min(pause * 2, 10.0)

    def _report(self, tracked: Tracked, result: Result) -> FailureReport:
        report = FailureReport(
            site=self.site,
            job_id=tracked.job_id,
            backend=tracked.backend,
            code=result.return_code,
            reason=result.reason.value,
            message=result.message,
            log_tail=result.log_tail,
            reportable=is_reportable(result.return_code),
        )
        filters = [
            (name, lambda report, call=call: call(report=report))
            for name, call in self.calls(tracked, "siteward_filter_failure_report")
        ]
        return fold_filters(report, filters, self._filter_failed)

    def _filter_failed(self, name: str, error: Exception) -> None:
        self.log.error("failure filter %s raised %s: %s", name, type(error).__name__, error)

    def launched(self, tracked: Tracked) -> None:
        """Tell the observers of a launch."""
        self._tell(tracked, "siteward_job_launched", ref=tracked.some_ref())

    def _tell(self, tracked: Tracked, hook: str, **arguments: object) -> None:
        for name, call in self.calls(tracked, hook):
            try:
                call(**arguments)
            except Exception:
                self.log.exception("%s of plugin %s raised", hook, name)


def _calls(managers: Sequence[pluggy.PluginManager], hook: str) -> list[tuple[str, Call]]:
    impls = {impl.plugin_name: impl for manager in managers for impl in getattr(manager.hook, hook).get_hookimpls()}
    named = sorted((full_name.partition("/")[2], full_name) for full_name in impls)
    return [(name, _caller(impls[full_name])) for name, full_name in named]


def _caller(impl: pluggy.HookImpl) -> Call:
    def call(**arguments: object) -> Any:
        try:
            return impl.function(*(arguments[name] for name in (*impl.argnames, *impl.kwargnames)))
        except SystemExit as error:
            raise RuntimeError(f"it called sys.exit({error.code!r})") from error

    return call


def _with_log_tail(tracked: Tracked, result: Result) -> Result:
    log_tail = result.log_tail or read_tail(tracked.log_file)
    return evolve(result, log_tail=log_tail) if log_tail else result


def read_tail(path: str) -> str:
    """Return the last lines of a file, at most 8 KiB; empty if there is none."""
    try:
        if os.stat(path).st_size == 0:
            return ""
        fd = open_plain(path, os.O_RDONLY)
    except OSError:
        return ""
    try:
        size = os.fstat(fd).st_size
        data = os.pread(fd, TAIL_BYTES, max(0, size - TAIL_BYTES))
    except OSError:
        return ""
    finally:
        os.close(fd)
    return "\n".join(data.decode(errors="replace").splitlines()[-TAIL_LINES:])


def _save_log(tracked: Tracked) -> None:
    assert tracked.launcher is not None
    assert tracked.ref is not None
    partial = Path(f"{tracked.log_file}.partial")
    partial.touch(mode=0o600)
    with partial.open("wb") as stream:
        for chunk in tracked.launcher.read_logs(tracked.ref, follow=False, tail=None):
            stream.write(chunk)
    partial.rename(tracked.log_file)
