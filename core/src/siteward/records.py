"""A site's jobs as stored: for looking only. Nothing is created, started, adopted or asked."""

from __future__ import annotations

from pathlib import Path

from attrs import frozen

from siteward.config import nearest
from siteward.errors import StoreError, UnknownJob
from siteward.loop import wake
from siteward.sitefile import SiteFile
from siteward.store import Event, JobRow, Store


@frozen(kw_only=True)
class Records:
    """What one site remembers of its jobs; ``store`` is None for a site that has had none yet."""

    site: str
    store: Store | None
    state_dir: Path

    @classmethod
    def of(cls, file: SiteFile) -> Records:
        """Open a site's store without its backends: they may be broken, or their options wrong."""
        state_dir = file.state_path()
        try:
            exists = (state_dir / "siteward.db").exists()
        except OSError as error:
            raise StoreError(f"state_dir {state_dir} cannot be looked at: {error.strerror or error}") from error
        return cls(site=file.name, store=Store(state_dir) if exists else None, state_dir=state_dir)

    def close(self) -> None:
        """Close the store."""
        if self.store is not None:
            self.store.close()

    def jobs(self, *, ended: bool = True) -> list[JobRow]:
        """Return the jobs, oldest first; with ``ended=False`` only those not ended."""
        rows = self.store.rows() if self.store is not None else []
        return [row for row in rows if ended or not row.state.ended]

    def row(self, job_id: str) -> JobRow:
        """Return one job; UnknownJob, with the near miss, if there is none."""
        row = self.store.get(job_id) if self.store is not None else None
        if row is None:
            ids = [each.job_id for each in self.jobs()]
            # The name alone, or the beginning of an id: the newest job of those that it may be.
            begun = next((each for each in reversed(ids) if job_id and each.startswith(job_id)), None)
            raise UnknownJob(job_id, self.site, begun or nearest(job_id, ids))
        return row

    def is_driven(self, row: JobRow) -> bool:
        """Whether some process looks after a job that is not done; what is stored of the others may be old."""
        return row.driver is not None and wake(self.state_dir / "drivers", row.driver, b"")

    def events(self, job_id: str) -> list[Event]:
        """Return a job's history in words, oldest first; UnknownJob if there is none."""
        self.row(job_id)
        return self.store.events(job_id) if self.store is not None else []
