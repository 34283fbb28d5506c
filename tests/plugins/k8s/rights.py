"""The rights that ``plugins/k8s/deploy`` gives to sites."""

from __future__ import annotations

from functools import cache
from typing import Any

import yaml

from ...cluster.cluster import kubectl
from ...cluster.deploy import put_together


@cache
def rules(*components: str) -> list[dict[str, Any]]:
    """Return the rules of the Role in the base with these components."""
    found = yaml.safe_load_all(put_together(kubectl(None), components))
    (role,) = (each for each in found if each["kind"] == "Role")
    return list(role["rules"])
