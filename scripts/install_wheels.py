"""Build a wheel of each project and install them here: ``install_wheels.py FOLDER PROJECT…``."""

import subprocess
import sys
from pathlib import Path


def main(folder: str, *projects: str) -> None:
    """Leave the wheels in the folder, and no others."""
    for wheel in Path(folder).glob("*.whl"):
        wheel.unlink()
    for project in projects:
        run("build", "--wheel", "--out-dir", folder, project)
    wheels = sorted(Path(folder).glob("*.whl"))
    again = [f"--reinstall-package={wheel.name.partition('-')[0]}" for wheel in wheels]
    run("pip", "install", "--python", sys.executable, *again, *map(str, wheels))


def run(*arguments: str) -> None:
    """Run this environment's uv."""
    subprocess.run([sys.executable, "-m", "uv", *arguments], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
