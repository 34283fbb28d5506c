"""The manifests that sites get, ``plugins/k8s/deploy``, put together and applied for tests."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

DEPLOY = Path(__file__).parents[2] / "plugins/k8s/deploy"


def kustomize(kubectl: list[str], folder: Path) -> str:
    """Return the manifests of a kustomization, as YAML; AssertionError with what kubectl says otherwise."""
    done = subprocess.run([*kubectl, "kustomize", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def put_together(kubectl: list[str], components: tuple[str, ...], **more: Any) -> str:
    """Return the base with components, as a site has it, as YAML; ``more`` is the rest of a kustomization."""
    with tempfile.TemporaryDirectory() as scratch:
        # By its true path: kustomize follows links before it goes up.
        folder = Path(scratch).resolve()
        there = Path(os.path.relpath(DEPLOY, folder))
        wanted = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [str(there / "base")],
            "components": [str(there / "components" / name) for name in components],
            **more,
        }
        (folder / "kustomization.yaml").write_text(json.dumps(wanted))
        return kustomize(kubectl, folder)
