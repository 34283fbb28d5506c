"""Jobs without a container: why there is none (yet), on disk, so that the next process knows it too."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path

from siteward import Reason, Result, ended

_STOPPED = "siteward or the engine was stopped before it had a container"


def old_files(directory: Path, seconds: float) -> set[str]:
    """Return the names in a folder, which need not be there, that have not changed for so long."""
    latest, found = time.time() - seconds, set()
    with suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                if entry.stat(follow_symlinks=False).st_mtime < latest:
                    found.add(entry.name)
    return found


class Absences:
    """One small file for each launched job that has no container: it is being created, or could not be.

    The file is empty until there is something to say.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def expect(self, name: str) -> None:
        """Note that a job's container is about to be created."""
        try:
            (self._directory / name).write_bytes(b"")
        except FileNotFoundError:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            (self._directory / name).write_bytes(b"")

    def note(self, name: str, reason: Reason, message: str) -> None:
        """Write down why a job, which was expected, has no container."""
        draft = self._directory / f"{name}.draft"
        draft.write_text(json.dumps([reason.value, message]))
        os.replace(draft, self._directory / name)

    def end_of(self, name: str) -> Result | None:
        """Return how a job without a container ended; None when nothing is known of it, and it must have had one."""
        try:
            reason, message = json.loads((self._directory / name).read_text())
        except FileNotFoundError:
            return None
        except ValueError:  # nothing was written, or not all of it when the machine lost power
            return ended(reason=Reason.LAUNCH_FAILED, message=_STOPPED)
        return ended(reason=Reason(reason), message=message)

    def older_than(self, seconds: float) -> set[str]:
        """Return the names of jobs of which this was noted so long ago."""
        return old_files(self._directory, seconds)

    def forget(self, name: str) -> None:
        """Forget a job: it has a container now, or is done with."""
        (self._directory / name).unlink(missing_ok=True)
