"""The rights that ``plugins/k8s/deploy`` gives to sites."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[3] / "plugins" / "k8s" / "deploy"


def rules(*components: str) -> list[dict[str, Any]]:
    """Return the rules of the minimal Role, and of those that these components add to it."""
    found = []
    if not DEPLOY.exists():
        return [
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["create", "get", "list", "watch", "patch", "delete"]},
            {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
            {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create", "get"]},
            {"apiGroups": [""], "resources": ["events"], "verbs": ["list", "watch"]},
            {
                "apiGroups": [""],
                "resources": ["secrets"],
                "verbs": ["create", "get", "list", "update", "patch", "delete"],
            },
        ]
    for part in ("base", *(f"components/{each}" for each in components)):
        for file in sorted((DEPLOY / part).glob("*role*.yaml")):
            for each in yaml.safe_load_all(file.read_text()):
                found += each["rules"] if each["kind"] == "Role" else []
    assert found
    return found
