"""YAML that hides nothing: no aliases, no tags, no timestamps, no duplicate keys, bounded size and depth."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml

from siteward.config import Problems, describe
from siteward.errors import FileError, Problem

MAX_SIZE = 2**20
MAX_DEPTH = 32
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)", re.ASCII)
_TAG = "tag:yaml.org,2002:"


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a mapping from a YAML file; FileError for anything that is not plain, finite, unambiguous data."""
    file = str(path)
    try:
        with Path(path).expanduser().open("rb") as stream:
            data = stream.read(MAX_SIZE + 1)
    except (OSError, RuntimeError, ValueError) as error:
        words = getattr(error, "strerror", None) or error
        raise FileError(file, [Problem("", f"cannot be read: {words}")]) from error
    if len(data) > MAX_SIZE:
        raise FileError(file, [Problem("", "is larger than 1 MiB; big inputs belong in the workspace")])
    try:
        return parse_yaml(data.decode())
    except Problems as error:
        raise FileError(file, error.problems) from error
    except UnicodeDecodeError as error:
        raise FileError(file, [Problem("", f"is not UTF-8 text (byte {error.start})")]) from error


def parse_yaml(text: str) -> dict[str, Any]:
    """Parse a YAML mapping; raise :class:`Problems` with all that is wrong in it."""
    try:
        _refuse_what_hides(text)
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        words = f"is not valid YAML: {error.problem or error.context}"
        if "nesting" in str(error.problem):  # the scanner reads ahead of the events that are counted below
            words = f"is nested deeper than {MAX_DEPTH} levels"
        raise Problems([Problem(where, words)]) from error
    except yaml.YAMLError as error:
        words = " ".join(str(error).split())
        raise Problems([Problem("", f"is not valid YAML: {words}")]) from error
    problems: list[Problem] = []
    value = _plain(root, "", problems)
    if not problems and not isinstance(value, dict):
        problems.append(Problem("", f"expected a mapping, got {describe(value)}"))
    if problems:
        raise Problems(problems)
    return value  # type: ignore[no-any-return]


def _refuse_what_hides(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        line = f"line {event.start_mark.line + 1}" if event.start_mark else ""
        if isinstance(event, yaml.AliasEvent):
            raise Problems([Problem(line, f"aliases (*{event.anchor}) are not allowed; write the value out")])
        if tag := getattr(event, "tag", None):
            raise Problems([Problem(line, f"tags ({tag}) are not allowed; quote what is meant as text")])
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise Problems([Problem(line, f"is nested deeper than {MAX_DEPTH} levels")])
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _plain(node: yaml.Node | None, path: str, problems: list[Problem]) -> Any:
    if node is None:
        return None
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, f"{path}[{index}]", problems) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _plain_mapping(node, path, problems)
    assert isinstance(node, yaml.ScalarNode)
    value = _plain_scalar(node)
    if isinstance(value, float) and not math.isfinite(value):
        problems.append(Problem(path, f"expected a finite number, got {node.value}"))
    return value


def _plain_mapping(node: yaml.MappingNode, path: str, problems: list[Problem]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = _plain_scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else None
        if not isinstance(key, str):
            shown = key_node.value if isinstance(key_node, yaml.ScalarNode) else "a collection"
            problems.append(Problem(path, f"line {line}: keys are text; quote {shown!r} if it is meant as text"))
        elif key in result:
            problems.append(Problem(_join(path, key), f"line {line}: the key is there twice"))
        else:
            result[key] = _plain(value_node, _join(path, key), problems)
    return result


def _plain_scalar(node: yaml.ScalarNode) -> Any:
    text, tag = node.value, node.tag.removeprefix(_TAG)
    if tag == "null":
        return None
    if tag == "bool":
        return text.lower() in ("yes", "true", "on")
    if tag == "int" and _INT.fullmatch(text):
        return int(text) if len(text) < 20 else text
    if tag == "float":
        try:
            return float(text.replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:
            return text
    return text


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
