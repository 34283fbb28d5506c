"""What the pieces of one open site share: its file, plugins, store, driver, launchers and resource manager."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from logging import Logger
from pathlib import Path
from typing import Any

from siteward.config import Problems
from siteward.driver import Driver
from siteward.errors import BackendError, FileError, PluginError, Problem, StoreError
from siteward.finishing import Finisher
from siteward.launcher import Launcher, read_options
from siteward.manager import ResourceManager
from siteward.names import safe_name
from siteward.plugins import Plugins
from siteward.request import Context
from siteward.sitefile import SiteFile
from siteward.siteplugins import SitePlugins
from siteward.statedir import prepare as prepare_state_dir
from siteward.store import ACTIVE, JobRow, Phase, Store
from siteward.tracked import Tracked

DEFAULT_MANAGER = "best_effort"


@contextmanager
def _collecting(problems: list[Problem], path: str) -> Iterator[None]:
    try:
        yield
    except Problems as error:
        problems += [problem.under(path) for problem in error.problems]
    except (PluginError, BackendError) as error:
        problems.append(Problem(path, str(error)))


def make_context(file: SiteFile, name: str, state_dir: Path, log: Logger) -> Context:
    """Return what a plugin of this site is told about where it works."""
    path = file.base_dir / Path(file.file).name
    return Context(
        site=file.name,
        backend=name,
        directory=state_dir / "plugins" / safe_name(name),
        log=log.getChild(name),
        env=file.env,
        base_dir=file.base_dir,
        lease_dir=file.lease_path(),
        state_dir=state_dir,
        site_file=path if path.is_file() else None,
        read_secret=file.read_secret,
        secret_names=tuple(file.job_secrets),
    )


class SiteParts:
    """Built once per open site; launchers are set up at once, so that a wrong block is told before any job."""

    def __init__(self, file: SiteFile, plugins: Plugins) -> None:
        self.file = file
        self.plugins = plugins
        self.log: Logger = logging.getLogger(f"siteward.{safe_name(file.name)}")
        self.state_dir = prepare_state_dir(file.state_path())
        self.store = Store(self.state_dir)
        try:
            self.launchers, self.manager = self._set_up()
        except BaseException:
            self.store.close()
            raise
        self.finisher = Finisher(
            site=file.name,
            store=self.store,
            global_plugins=self.site_plugins.plugins.make_manager(),
            manager=self.manager,
            log=self.log,
            closing=lambda: self.driver.closed,
        )
        self.driver = Driver(
            store=self.store,
            state_dir=self.state_dir,
            finisher=self.finisher,
            poll_interval=file.poll_interval,
            log=self.log,
        )
        self.adopt: Callable[[JobRow], Tracked | None] = lambda _row: None
        if file.max_jobs is not None:
            self.driver.on_slot_freed = self.admit
        self._admission = threading.RLock()
        self._waiting = False

    def _set_up(self) -> tuple[dict[str, Launcher], ResourceManager | None]:
        """Set up every enabled backend and the resource manager; FileError with every mistake in their blocks."""
        problems: list[Problem] = []
        launchers: dict[str, Launcher] = {}

        def on_error(name: str, error: Exception) -> None:
            with _collecting(problems, f"plugins.{name}"):
                raise error

        self.site_plugins = SitePlugins(self.plugins, self.file.plugins, self._context, on_error)
        plugins = self.site_plugins.plugins
        for name, block in self.file.backends.items():
            with _collecting(problems, f"backends.{name}"):
                launchers[name] = Launcher(plugins, self._context(name), block)
        for study, blocks in self.file.studies.items():
            for name in blocks:
                if name in self.file.backends:
                    with _collecting(problems, f"studies.{study}.{name}"):
                        self._check_study(name, self.file.study_block(study, name))
                elif name != "env":
                    words = f"is no backend of this site; expected env or one of {', '.join(self.file.backends)}"
                    problems.append(Problem(f"studies.{study}.{name}", words))
        manager = None
        for name, block in self._manager_block().items():
            with _collecting(problems, f"resources.{name}"):
                manager = ResourceManager(plugins, self._context(name), block)
        if problems:
            raise FileError(self.file.file, problems)
        return launchers, manager

    def _check_study(self, name: str, block: Mapping[str, Any]) -> None:
        """Read a study's block, also for a backend whose own block is wrong; a missing backend is told already."""
        with suppress(PluginError):
            read_options(self.plugins.backend(name), name, "StudyOptions", block)

    def _manager_block(self) -> dict[str, Any]:
        if self.file.resources is not None:
            return dict(self.file.resources)
        return {DEFAULT_MANAGER: {}} if DEFAULT_MANAGER in self.plugins.names("siteward.resources") else {}

    def _context(self, name: str) -> Context:
        directory = self.state_dir / "plugins" / safe_name(name)
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{directory} cannot be made: {error.strerror or error}") from error
        return make_context(self.file, name, self.state_dir, self.log)

    def launcher(self, name: str) -> Launcher:
        """Return an enabled backend's launcher."""
        return self.launchers[name]

    def job_folder(self, job_id: str) -> str:
        """Return the path of the folder that holds all that the site keeps of a job."""
        return f"{self.state_dir}/jobs/{job_id}"

    # --- the queue ---

    def admit(self, here: Tracked | None = None) -> None:
        """Start queued jobs while there are slots, oldest first; ``here`` in this thread, others in the pool."""
        try:
            while (tracked := self._next_admitted()) is not None:
                assert tracked.launch is not None
                if tracked is here:
                    tracked.launch()
                elif not self.driver.submit(tracked.launch):
                    with tracked.changed:
                        tracked.phase = Phase.QUEUED
                        self.driver.note(tracked, phase=Phase.QUEUED)
        except Exception as error:
            self.log.warning("the queue cannot be served just now: %s", error)
        self._look_again()

    def _next_admitted(self) -> Tracked | None:
        """Give a slot to the oldest queued job that can use it, if it is ours; wake its driver otherwise."""
        with self._admission:
            while not self.driver.closed and (tracked := self._take_slot()) is not None:
                with tracked.changed:
                    if not tracked.finishing:
                        tracked.phase = Phase.INTENT
                        return tracked
        return None

    def _take_slot(self) -> Tracked | None:
        limit = self.file.max_jobs
        if limit is not None and self.store.count_active() >= limit:
            return None
        for row in self.store.rows([Phase.QUEUED]):
            tracked = self.driver.tracked(row.job_id)
            if tracked is None and self.driver.is_alive(row.driver):
                if row.message:  # refused by the resource manager: its driver tries again when it is time
                    continue
                self.driver.wake(row.driver)
                return None
            tracked = tracked or self.adopt(row)
            if tracked is None:
                return None
            ready = tracked.launch is not None and tracked.not_before <= time.monotonic()
            if ready and not tracked.finishing and tracked.stop_cause is None and self.store.admit(row.job_id, limit):
                return tracked
        return None

    def _look_again(self) -> None:
        """While a job of ours waits, look from time to time whether those it waits for still have a driver."""
        with self._admission:
            if self._waiting or self.driver.closed:
                return
            self._waiting = any(tracked.phase is Phase.QUEUED for tracked in self.driver.jobs())
            if self._waiting:
                self.driver.loop.call_later(self.file.poll_interval, self._wait_no_longer)

    def _wait_no_longer(self) -> None:
        self._waiting = False
        try:
            for row in self.store.rows(ACTIVE):
                if self.driver.tracked(row.job_id) is None and not self.driver.is_alive(row.driver):
                    self.adopt(row)
        except Exception as error:
            self.log.warning("jobs without a driver cannot be taken over just now: %s", error)
        self.admit()
