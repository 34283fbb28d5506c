"""Jobs without a container: why there is none (yet), on disk, so that the next process knows it too."""

from __future__ import annotations

import json
import os
from pathlib import Path

from siteward import Reason, Result, ended


class Absences:
    """One small file for each launched job that has no container: it is being created, or could not be."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def note(self, name: str, reason: Reason, message: str) -> None:
        """Write down, or write down anew, why a job has no container."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        draft = self._directory / f"{name}.draft"
        draft.write_text(json.dumps([reason.value, message]))
        os.replace(draft, self._directory / name)

    def end_of(self, name: str) -> Result | None:
        """Return how a job without a container ended; None when nothing is known of it, and it must have had one."""
        try:
            reason, message = json.loads((self._directory / name).read_text())
        except FileNotFoundError:
            return None
        except ValueError:  # the machine lost power in the middle of writing it
            return ended(reason=Reason.LAUNCH_FAILED, message="its container was never created")
        return ended(reason=Reason(reason), message=message)

    def forget(self, name: str) -> None:
        """Forget a job: it has a container now, or is done with."""
        (self._directory / name).unlink(missing_ok=True)
