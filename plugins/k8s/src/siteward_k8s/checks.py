"""What is wrong with a value of the options, in words."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from siteward import Problem, check_env, check_not_negative, nearest
from siteward_k8s.layout import APP, CONTROL, MANAGED_BY, PREFIX, VOLUME

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_SUBDOMAIN = re.compile(rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*", re.ASCII)
_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?", re.ASCII)
_KEY = re.compile(
    rf"(?:(?=[^/]{{1,253}}/){_LABEL}(?:\.{_LABEL})*/)?[A-Za-z0-9](?:[A-Za-z0-9_.-]{{0,61}}[A-Za-z0-9])?", re.ASCII
)
_DATASET = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?", re.ASCII)
_SECRET_KEY = re.compile(r"[A-Za-z0-9._-]{1,253}", re.ASCII)
_RUN_AS = ("runAsGroup", "runAsNonRoot", "runAsUser", "seLinuxOptions", "seccompProfile", "appArmorProfile")
POD_SECURITY = frozenset(
    [
        *(*_RUN_AS, "fsGroup", "fsGroupChangePolicy", "seLinuxChangePolicy", "supplementalGroups"),
        *("supplementalGroupsPolicy", "sysctls"),
    ]
)
CONTAINER_SECURITY = frozenset(
    [
        *(*_RUN_AS, "allowPrivilegeEscalation", "capabilities", "privileged", "procMount"),
        "readOnlyRootFilesystem",
    ]
)


def check_text(text: str) -> str | None:
    """Refuse nothing at all, and blanks at the ends."""
    if not text or text != text.strip() or "\0" in text:
        return f"expected some text without blanks around it, got {text[:40]!r}"
    return None


def check_count(count: int) -> str | None:
    """Refuse less than none."""
    return None if count >= 0 else f"expected 0 or more, got {count}"


def check_seconds(seconds: float | str) -> str | None:
    """Refuse less than 0 seconds; a word is none of this check's business."""
    return check_not_negative(seconds) if isinstance(seconds, (int, float)) else None


def check_object(name: str) -> str | None:
    """Refuse what no object of a cluster can be called (RFC 1123)."""
    if _SUBDOMAIN.fullmatch(name):
        return None
    return f"expected a name of lower-case letters, digits, - and ., got {name[:40]!r}"


def check_namespace(name: str) -> str | None:
    """Refuse what no namespace can be called."""
    words = f"expected at most 63 lower-case letters, digits and -, got {name[:70]!r}"
    return None if re.fullmatch(_LABEL, name) else words


def check_objects(names: tuple[str, ...]) -> list[Problem] | None:
    """Refuse names that no object can have."""
    return [Problem(f"[{i}]", words) for i, name in enumerate(names) if (words := check_object(name))] or None


def check_resource(name: str) -> str | None:
    """Refuse what is no extended resource, like ``nvidia.com/gpu``."""
    if _KEY.fullmatch(name) and "/" in name:
        return None
    return f"expected the name of an extended resource, like nvidia.com/gpu, got {name!r}"


def _check_keys(keys: Collection[str]) -> list[Problem]:
    problems = [
        Problem(key, "is set by siteward itself") for key in keys if key.startswith(PREFIX) or key in (APP, MANAGED_BY)
    ]
    return problems + [
        Problem(key, "is not a name for a label or annotation") for key in keys if not _KEY.fullmatch(key)
    ]


def check_annotations(annotations: Mapping[str, str]) -> list[Problem] | None:
    """Refuse names that no annotation can have, and siteward's own."""
    return _check_keys(annotations) or None


def check_labels(labels: Mapping[str, str]) -> list[Problem] | None:
    """Refuse what no label can be, and siteward's own."""
    return _check_keys(labels) + check_values(labels) or None


def check_values(labels: Mapping[str, str]) -> list[Problem]:
    """Refuse what no label can hold."""
    words = "expected at most 63 letters, digits, -, _ and ., got {!r}"
    return [Problem(key, words.format(value[:70])) for key, value in labels.items() if not _VALUE.fullmatch(value)]


def check_selector(labels: Mapping[str, str]) -> list[Problem] | None:
    """Refuse labels that no node can have."""
    wrong = [Problem(key, "is not a name for a label") for key in labels if not _KEY.fullmatch(key)]
    return wrong + check_values(labels) or None


def known_keys(known: Collection[str]) -> Callable[[Mapping[str, Any]], list[Problem] | None]:
    """Return a check that refuses other keys than these."""

    def check(block: Mapping[str, Any]) -> list[Problem] | None:
        wrong = [Problem(key, "unknown key", nearest(key, known)) for key in block if key not in known]
        if not isinstance(block.get("capabilities") or {}, Mapping):
            wrong.append(Problem("capabilities", "expected a mapping with add and drop"))
        return wrong or None

    return check


def is_path(source: str) -> bool:
    """Whether a dataset is a path of the nodes, and no claim."""
    return source.startswith(("/", "./", "../"))


def check_datasets(datasets: Mapping[str, Any]) -> list[Problem] | None:
    """Refuse names that are no folder's, and sources that are neither a path nor a claim."""
    words = "a dataset's name is 1 to 63 of a-z, 0-9, _ and -, with a letter or digit at both ends"
    problems = [Problem(name, words) for name in datasets if not _DATASET.fullmatch(name)]
    for name, each in datasets.items():
        dots = each.source.startswith("/") and ".." in each.source.split("/")
        if dots or (not is_path(each.source) and check_object(each.source)):
            words = "expected a claim's name, or a path that begins with /, ./ or ../, got"
            problems.append(Problem(f"{name}.source", f"{words} {each.source!r}"))
    return problems or None


def check_secret_env(variables: Mapping[str, Any]) -> list[Problem] | None:
    """Refuse names that are no variable's, or siteward's."""
    return check_env(dict.fromkeys(variables, ""))


def check_secret_key(key: str) -> str | None:
    """Refuse what no key of a Secret can be called."""
    return None if _SECRET_KEY.fullmatch(key) else f"expected letters, digits, -, _ and ., got {key[:40]!r}"


def check_items(items: Mapping[str, str]) -> list[Problem] | None:
    """Refuse keys that no Secret has, and paths that lead out of the mount."""
    problems = [Problem(key, words) for key in items if (words := check_secret_key(key))]
    return (
        problems
        + [
            Problem(key, f"expected a relative path without .., got {path!r}")
            for key, path in items.items()
            if not path or path.startswith("/") or ".." in path.split("/")
        ]
        or None
    )


def check_mounts(mounts: Mapping[str, Any]) -> list[Problem] | None:
    """Refuse paths that are another one's too, no absolute ones, or siteward's own."""
    paths = [mount.mount_path.rstrip("/") for mount in mounts.values()]
    problems = []
    for number, (name, path) in enumerate(zip(mounts, paths, strict=True)):
        where = f"{name}.mount_path"
        if not path.startswith("/") or ".." in path.split("/") or ":" in path:
            problems.append(Problem(where, f"expected an absolute path without .. and :, got {path or '/'!r}"))
        elif path in paths[:number]:
            problems.append(Problem(where, "is another one's too"))
        elif f"{path}/".startswith((f"{VOLUME}/", f"{CONTROL}/")):
            problems.append(Problem(where, f"{VOLUME} and {CONTROL} are siteward's own"))
    return problems or None
