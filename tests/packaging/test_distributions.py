"""What every distribution of this repository keeps to."""

import configparser
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECTS = sorted(path.parent for path in [ROOT / "core/pyproject.toml", *ROOT.glob("plugins/*/pyproject.toml")])
PLUGINS = [project for project in PROJECTS if project.parent.name == "plugins"]


def project_table(project):
    return tomllib.loads((project / "pyproject.toml").read_text())["project"]


VERSION = project_table(ROOT / "core")["version"]


@pytest.mark.parametrize("project", PROJECTS, ids=lambda project: project.name)
def test_a_distribution_is_complete(project):
    """It has a README, the licence and a typed package with a flat name, for every Python that we support."""
    table = project_table(project)
    package = project / "src" / table["name"].replace("-", "_")
    assert (project / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert table["license"] == "Apache-2.0"
    assert len((project / table["readme"]).read_text()) > 200
    assert table["requires-python"] == ">=3.11"
    assert (package / "py.typed").is_file()


@pytest.mark.parametrize("project", PROJECTS, ids=lambda project: project.name)
def test_all_distributions_carry_one_version(project):
    """A plugin is released with the core and asks for exactly that version of it."""
    table = project_table(project)
    assert table["version"] == VERSION
    assert project in PLUGINS or project == ROOT / "core"
    if project in PLUGINS:
        assert f"siteward=={VERSION}" in table["dependencies"]


@pytest.mark.parametrize("project", PROJECTS, ids=lambda project: project.name)
def test_tox_has_an_environment_named_after_the_folder(project):
    """`tox -e <folder>` tests one distribution."""
    tox = configparser.ConfigParser()
    tox.read(ROOT / "tox.ini")
    assert f"testenv:{project.name}" in tox
    assert project.name in tox["tox"]["env_list"].replace(",", " ").split()


@pytest.mark.parametrize("project", PLUGINS, ids=lambda project: project.name)
def test_the_layers_are_checked_for_every_plugin(project):
    """import-linter knows each plugin's package, so that the core never imports it."""
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    package = project_table(project)["name"].replace("-", "_")
    assert package in linter["root_packages"]
    assert all(package in str(contract) for contract in linter["contracts"][1:3])


def test_importing_the_core_imports_no_plugin():
    """`import siteward` and its command line load no plugin and no platform's client."""
    unwanted = {project_table(project)["name"].replace("-", "_") for project in PLUGINS} | {"docker", "kubernetes"}
    code = f"import sys, siteward, siteward.cli; print(sorted({unwanted} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
