"""The examples that people are shown are files that siteward reads."""

import re
from pathlib import Path

import pytest
import yaml

from siteward import Job, SiteFile
from siteward.config import build as read
from siteward_k8s.limits import resolve
from siteward_k8s.options import JobOptions, SiteOptions, StudyOptions
from siteward_k8s.template import read_template

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "docs/how-to/run-jobs-in-kubernetes.md", ROOT / "plugins/k8s/README.md"]
BLOCKS = [block for page in PAGES for block in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)]
KINDS = {
    "backends": lambda data, folder: read(SiteOptions, SiteFile.from_mapping(data, base_dir=folder).backends["k8s"]),
    "studies": lambda data, folder: [read(StudyOptions, study["k8s"]) for study in data["studies"].values()],
    "kind": lambda data, folder: read_template(data, folder),
    "command": lambda data, folder: [
        resolve(read(JobOptions, offer["k8s"]), SiteOptions())
        for offer in Job.from_mapping(data, base_dir=folder).launcher_spec.values()
    ],
    "pod_security_context": lambda data, folder: read(SiteOptions, data),
}


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_an_example_of_the_guide_is_right(number, tmp_path):
    """Site files, studies, templates and jobs, each read as the real thing is."""
    (tmp_path / "app").mkdir()
    data = yaml.safe_load(BLOCKS[number])
    (kind,) = KINDS.keys() & data.keys()
    assert KINDS[kind](data, tmp_path)


def test_the_guide_names_every_reason_to_look_at_an_option():
    """Each option of the site is on the page, or speaks for itself in the table of the reference."""
    page = PAGES[0].read_text()
    own_words = {"default_python_path"}
    missing = {name for name in SiteOptions.__annotations__ if f"`{name}" not in page and f"{name}:" not in page}
    assert missing <= own_words
