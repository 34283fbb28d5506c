"""The tutorial does what it says: its files and commands, run as they are printed, give the output that is printed.

Files are the blocks whose first line is a comment with their name. In the output ids, times and durations may
differ, and lines of several sites may come in another order; a line ``…`` stands for any lines.
"""

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# What differs each time, with what it looks like.
VARYING = re.compile(
    r"(?P<id>\b[a-z]+-[0-9a-f]{8}\b)"
    r"|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d|\b\d+s\b"
)
# A quick job may be seen in these states, or not.
PASSING = re.compile(r"\w+ (PENDING|RUNNING)")


class Reader:
    """Somebody who does what the page says, in an empty folder."""

    def __init__(self, folder):
        self.folder, self.ids, self.last = folder, {}, 0
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.env = {"PATH": path, "HOME": str(folder), "LANG": "C.UTF-8", "COLUMNS": "200"}

    def write(self, block):
        name = block.split("\n", 1)[0].removeprefix("# ")
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(block)

    def type(self, command):
        """Return the lines that a command prints."""
        if command.startswith("export "):
            name, _, value = command.removeprefix("export ").partition("=")
            self.env[name] = value
            return []
        for printed, real in self.ids.items():
            command = command.replace(printed, real)
        script = f"(exit {self.last}); {command}"
        done = subprocess.run(
            ["sh", "-c", script], cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=60
        )
        self.last = done.returncode
        return (done.stdout + done.stderr).splitlines()

    def compare(self, printed, real, command):
        rest = squeeze(real)
        for line in squeeze(printed):
            if line == "…":
                continue
            match = next(filter(None, map(self.pattern(line).fullmatch, rest)), None)
            assert match, f"{command}\nprinted: {line}\nreal:\n" + "\n".join(real)
            self.ids |= zip([each["id"] for each in VARYING.finditer(line) if each["id"]], match.groups(), strict=True)
            rest.remove(match.string)
        assert not rest or "…" in printed, f"{command}\nnot on the page:\n" + "\n".join(rest)

    def pattern(self, line):
        def looks_like(match):
            if match["id"]:
                return f"({self.ids.get(match['id'], match['id'][:-8] + '[0-9a-f]{8}')})"
            return re.sub(r"\d+", r"\\d+", re.escape(match[0]))

        parts, at = [], 0
        for match in VARYING.finditer(line):
            parts += [re.escape(line[at : match.start()]), looks_like(match)]
            at = match.end()
        return re.compile("".join([*parts, re.escape(line[at:])]))


def squeeze(lines):
    """Return the lines that say something, with single spaces."""
    words = (" ".join(line.split()) for line in lines)
    return [line for line in words if line and not PASSING.fullmatch(line)]


def steps(block):
    """Return each command of a console block with its output."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, output = re.sub(r"\\\n>? *", "", part).partition("\n")
        yield command, output.splitlines()


@pytest.fixture
def reader(tmp_path):
    """A reader whose jobs end with the test, however it ends."""
    yield Reader(tmp_path)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("SITEWARD_JOB_DIR", "").startswith(f"{tmp_path}/"):
                process.kill()


def test_every_command_prints_what_the_page_shows(reader):
    """From the first file to the last command."""
    commands = 0
    for kind, block in BLOCK.findall(PAGE.read_text()):
        if kind == "console":
            for command, output in steps(block):
                reader.compare(output, reader.type(command), command)
                commands += 1
        elif re.match(r"# [\w./-]+\.\w+\n", block):
            reader.write(block)
    assert commands > 10
