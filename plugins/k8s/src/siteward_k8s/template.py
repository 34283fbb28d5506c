"""Pod templates of the site and of studies: read, checked, and the job's container found in them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from attrs import field, frozen

from siteward import OptionsRefused, Problem
from siteward_k8s.layout import HELPER, JOB, STAGE
from siteward_k8s.options import SiteOptions, StudyOptions

# What FLARE's templates call it; no container of a pod can have this name.
FLARE_JOB = "nvflare_job"
_LARGEST = 2**20
_TOP = ("apiVersion", "kind", "metadata", "spec", "status")
_SPEC_LISTS = ("containers", "initContainers", "volumes", "imagePullSecrets", "tolerations", "hostAliases")
# The lists of a container that are merged, and the key by which.
CONTAINER_LISTS = {"env": "name", "volumeMounts": "mountPath", "volumeDevices": "devicePath"}


def template_of(site: SiteOptions, study: StudyOptions | None, base_dir: Path) -> Mapping[str, Any] | None:
    """Return the template for a study's jobs, its own or else the site's; OptionsRefused if it is no good."""
    own = study.pod_template if study is not None else None
    return read_template(site.pod_template if own is None else own, base_dir)


def read_template(value: str | Mapping[str, Any] | None, base_dir: Path) -> Mapping[str, Any] | None:
    """Return a template as plain data, not to be changed: of a file, or as it is written in the site file.

    A relative path starts at ``base_dir``. OptionsRefused names the file, the place in it, and everything wrong there.
    """
    if value is None:
        return None
    if isinstance(value, str):
        path = base_dir / Path(value).expanduser()
        try:
            status = path.stat()
            data, problems = _read_file(path, status.st_mtime_ns, status.st_size, status.st_ino)
        except OSError as error:
            raise OptionsRefused([Problem("pod_template", f"{path}: {error.strerror or error}")]) from error
        where = f"{path}: "
    else:
        data, where = value, ""
        problems = _check_inline(_Same(value))
    if problems:
        raise OptionsRefused(Problem("pod_template", f"{where}{problem}") for problem in problems)
    found: Mapping[str, Any] = data
    return found


@frozen
class _Same:
    """A template of the site file, which is the same as long as it is this very object."""

    value: Mapping[str, Any] = field(eq=id)


@lru_cache(maxsize=64)
def _check_inline(template: _Same) -> tuple[Problem, ...]:
    return tuple(_problems(template.value))


@lru_cache(maxsize=64)
def _read_file(path: Path, _mtime: int, size: int, _inode: int) -> tuple[Any, tuple[Problem, ...]]:
    """Read a file once for as long as it stays the same."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Takes no key twice: the first would be lost without a word."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
            if again := [name for number, name in enumerate(names) if name in names[:number]]:
                raise yaml.constructor.ConstructorError(None, None, f"{again[0]!r} is there twice", node.start_mark)
            return super().construct_mapping(node, deep)

    if size > _LARGEST:
        return None, (Problem("", f"is {size} bytes long; a template has at most {_LARGEST}"),)
    try:
        data = yaml.load(path.read_bytes(), Loader)  # noqa: S506  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        return None, (Problem(where, f"is not YAML: {error.problem or error.context}"),)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        return None, (Problem("", f"is not YAML: {' '.join(str(error).split()) or type(error).__name__}"),)
    return data, tuple(_problems(data))


def main_container(containers: list[Mapping[str, Any]]) -> int | None:
    """Return which container is the job's: the one named ``job`` or ``nvflare_job``, else the only one, else None."""
    names = [each.get("name") for each in containers]
    for name in (JOB, FLARE_JOB):
        if name in names:
            return names.index(name)
    return 0 if len(containers) == 1 else None


def _problems(template: Any) -> Iterator[Problem]:
    if not isinstance(template, Mapping):
        yield Problem("", f"expected a Pod, got {_kind(template)}")
        return
    yield from (Problem(str(key), f"unknown key; a Pod has {', '.join(_TOP)}") for key in template if key not in _TOP)
    for key, wanted in (("kind", "Pod"), ("apiVersion", "v1")):
        if template.get(key, wanted) != wanted:
            yield Problem(key, f"expected {wanted}, got {template[key]!r}")
    yield from _maps("", template, ("metadata", "spec"))
    metadata, spec = template.get("metadata"), template.get("spec")
    if isinstance(metadata, Mapping):
        yield from _maps("metadata", metadata, ("labels", "annotations"), text=True)
        yield from _mappings("metadata.ownerReferences", metadata.get("ownerReferences"))
    if isinstance(spec, Mapping):
        yield from _maps("spec", spec, ("nodeSelector",), text=True)
        yield from _maps("spec", spec, ("securityContext", "affinity", "overhead"))
        if isinstance(context := spec.get("securityContext"), Mapping):
            yield from _maps("spec.securityContext", context, ("capabilities",))
        broken = [problem for key in _SPEC_LISTS for problem in _mappings(f"spec.{key}", spec.get(key))]
        yield from broken or _pod_problems(spec)
    try:
        json.dumps(template, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        yield Problem("", f"holds something that a Pod cannot ({error}); put quotes around dates")
    else:
        yield from _keys("", template)


def _pod_problems(spec: Mapping[str, Any]) -> Iterator[Problem]:
    containers, names = spec.get("containers") or [], set[str]()
    if containers and main_container(containers) is None:
        words = f"more than one container, and none is named {JOB}: give that name to the one that runs the job"
        yield Problem("spec.containers", words)
    for key in ("containers", "initContainers"):
        for number, each in enumerate(spec.get(key) or []):
            where, name = f"spec.{key}[{number}]", each.get("name")
            if not isinstance(name, str | None):
                yield Problem(f"{where}.name", f"expected text, got {_kind(name)}")
            elif name in (STAGE, HELPER):
                yield Problem(f"{where}.name", f"{name} is siteward's own; choose another name")
            elif name in names:
                yield Problem(f"{where}.name", f"{name} is another container's too")
            elif name is None and (key == "initContainers" or len(containers) > 1):
                yield Problem(f"{where}.name", "is missing")
            elif name is not None:
                names.add(name)
            yield from _container_problems(where, each)
    for key in ("volumes", "imagePullSecrets"):
        yield from _keyed(f"spec.{key}", spec.get(key) or [], "name")


def _container_problems(where: str, container: Mapping[str, Any]) -> Iterator[Problem]:
    yield from _maps(where, container, ("resources", "securityContext", "lifecycle"))
    for key, by in CONTAINER_LISTS.items():
        broken = [*_mappings(f"{where}.{key}", container.get(key))]
        yield from broken or _keyed(f"{where}.{key}", container.get(key) or [], by)
    env = container.get("env")
    for number, each in enumerate(env if isinstance(env, list) else ()):
        if isinstance(each, Mapping) and not isinstance(each.get("value") or "", str):
            yield Problem(f"{where}.env[{number}].value", f"expected text, got {each['value']!r}; quote it")
    for key, blocks in (("resources", ("requests", "limits")), ("securityContext", ("capabilities",))):
        if isinstance(container.get(key), Mapping):
            yield from _maps(f"{where}.{key}", container[key], blocks)


def _keyed(where: str, items: list[Mapping[str, Any]], key: str) -> Iterator[Problem]:
    """Every item has the text by which it is merged, and no two the same."""
    seen = set()
    for number, each in enumerate(items):
        text = each.get(key)
        if not isinstance(text, str) or not text:
            yield Problem(f"{where}[{number}].{key}", "is missing" if text is None else f"expected text, got {text!r}")
        elif text in seen:
            yield Problem(f"{where}[{number}].{key}", f"{text} is there twice")
        seen.add(str(text))


def _mappings(where: str, value: Any) -> Iterator[Problem]:
    if value is None:
        return
    if not isinstance(value, (list, tuple)):
        yield Problem(where, f"expected a list, got {_kind(value)}")
        return
    for number, each in enumerate(value):
        if not isinstance(each, Mapping):
            yield Problem(f"{where}[{number}]", f"expected a mapping, got {_kind(each)}")


def _maps(where: str, value: Mapping[str, Any], keys: tuple[str, ...], *, text: bool = False) -> Iterator[Problem]:
    """Each of the keys, where it is there, is a mapping; of texts, if so wanted."""
    for key in keys:
        inner = value.get(key)
        if inner is not None and not isinstance(inner, Mapping):
            yield Problem(f"{where}.{key}".lstrip("."), f"expected a mapping, got {_kind(inner)}")
        elif text and inner:
            yield from (
                Problem(f"{where}.{key}.{name}", f"expected text, got {each!r}; quote it")
                for name, each in inner.items()
                if not isinstance(each, str)
            )


def _keys(where: str, value: Any) -> Iterator[Problem]:
    """Every key is text."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            inner = f"{where}.{key}".lstrip(".")
            if not isinstance(key, str):
                yield Problem(inner, f"expected text as its name, got {key!r}; quote it")
            yield from _keys(inner, each)
    elif isinstance(value, (list, tuple)):
        for number, each in enumerate(value):
            yield from _keys(f"{where}[{number}]", each)


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    kinds = {str: "text", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "a mapping"}
    return kinds.get(type(value), type(value).__name__)
