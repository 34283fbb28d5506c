"""The processes of a cluster: any process that knows the folder can stop them and start them again."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from signal import SIGCONT, SIGTERM, Signals

import psutil

from ..machine.common import PATH, end_all, is_alive


class Parts:
    """What runs, and how it is started, by the part's name; written down in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def start(self, name: str, command: list[str] | None = None) -> None:
        """Start a part; without a command, as it was started before."""
        self._folder.mkdir(parents=True, exist_ok=True)
        written = self._folder / f"{name}.json"
        if command is None:
            command = json.loads(written.read_text())
        written.write_text(json.dumps(command))
        with self.log(name).open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # The programs beside it come first: containerd starts its shim by name.
                env={**os.environ, "PATH": f"{Path(command[0]).parent}:{PATH}"},
                start_new_session=True,
            )
        (self._folder / f"{name}.pid").write_text(f"{process.pid} {psutil.Process(process.pid).create_time()}")
        # Its end is seen in /proc, by whichever process asks; there it stays a zombie until this one ends.
        process.returncode = 0

    def process(self, name: str) -> psutil.Process | None:
        """Return a part's process, if it runs."""
        try:
            pid, started = (self._folder / f"{name}.pid").read_text().split()
            process = psutil.Process(int(pid))
        except (FileNotFoundError, psutil.NoSuchProcess):
            return None
        return process if process.create_time() == float(started) and is_alive(process) else None

    def signal(self, name: str, number: Signals) -> None:
        """Signal a part."""
        process = self.process(name)
        assert process is not None, f"{name} does not run"
        process.send_signal(number)

    def stop(self, name: str, number: Signals = SIGTERM) -> None:
        """End a part, and wait until it has ended."""
        if process := self.process(name):
            process.send_signal(SIGCONT)
            end_all([process], number)

    def log(self, name: str) -> Path:
        """The file of all that a part has said."""
        return self._folder / f"{name}.log"

    def last_words(self, name: str) -> str:
        """Return the end of a part's log."""
        words = self.log(name).read_text(errors="replace")[-2000:] if self.log(name).exists() else "nothing"
        return f"{name} {'runs' if self.process(name) else 'has ended'} and says: {words.strip()}"
