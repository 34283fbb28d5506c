"""The README's example is complete and does what the README says."""

import re
import subprocess
import sys
from pathlib import Path

import yaml

README = (Path(__file__).parents[2] / "README.md").read_text()
BIN = Path(sys.executable).parent


def block(marker):
    """The fenced block that holds this text."""
    return next(text for text in re.findall(r"```\w+\n(.*?)```", README, re.DOTALL) if marker in text)


def test_the_example_runs_as_printed(tmp_path):
    """Its files and its command, copied as they are, end with verdict 0 and a folder for each site."""
    job, site, command = block("# job.yaml"), block("# clinic.yaml"), block("siteward run").removeprefix("$ ")
    assert sum(len(text.splitlines()) for text in (job, site, command)) < 20
    (tmp_path / "job.yaml").write_text(job)
    (tmp_path / "clinic.yaml").write_text(site)
    (tmp_path / "hospital.yaml").write_text(site.replace("name: clinic", "name: hospital"))
    for name in ("clinic", "hospital"):
        # The one thing that a test adds: its own state_dir rather than the user's.
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "state_dir": f"./state/{name}"}))
    done = subprocess.run(
        [BIN / command.split()[0], *command.split()[1:]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert {"hello from clinic", "hello from hospital"} <= set(re.findall(r"hello from \w+", done.stdout + done.stderr))
    for name in ("clinic", "hospital"):
        assert (tmp_path / "results" / name).is_dir()
        assert (tmp_path / "results" / f"{name}.log").read_text() == f"hello from {name}\n"


def test_every_link_leads_somewhere():
    """Every relative link of the README and of CONTRIBUTING names a file or folder of the repository."""
    root = Path(__file__).parents[2]
    for page in ("README.md", "CONTRIBUTING.md", "examples/fedavg/README.md", "plugins/process/README.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", (root / page).read_text()):
            assert (root / page).parent.joinpath(target).exists(), f"{page}: {target}"
