"""JSON Schema (draft 2020-12) of the files and of the plugins' options, from the classes that read them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import attrs

from siteward.job import Job
from siteward.resources import DEFAULT_KEY
from siteward.sitefile import SiteFile

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_SIMPLE = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
_PORTABLE = {
    "num_of_gpus": {"type": "integer", "minimum": 0},
    "num_of_cpus": {"type": "integer", "minimum": 1},
    "memory": {"type": "string", "pattern": "^[1-9][0-9]*(Mi|Gi|Ti)$"},
}
# What the checks in the classes say in words, for editors that read schemas.
_JOB_DETAILS: Mapping[str, Mapping[str, Any]] = {
    "name": {"pattern": "^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$"},
    "id": {"pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"},
    "command": {"minItems": 1},
    "sites": {"minItems": 1, "uniqueItems": True},
    "min_sites": {"minimum": 1},
    "timeout": {"exclusiveMinimum": 0},
    "resource_spec": {
        "additionalProperties": {"type": "object", "properties": _PORTABLE},
        "properties": {DEFAULT_KEY: {"type": "object", "properties": _PORTABLE, "additionalProperties": False}},
    },
}
_SITE_DETAILS: Mapping[str, Mapping[str, Any]] = {
    "name": {"minLength": 1, "maxLength": 64, "pattern": "^[^/]*$"},
    "backends": {"minProperties": 1, "additionalProperties": {"type": ["object", "null"]}},
    "resources": {
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": {"type": ["object", "null"]},
    },
    "plugins": {"additionalProperties": {"type": ["object", "null"]}},
    "studies": {"propertyNames": {"pattern": "^[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?$"}},
    "max_jobs": {"minimum": 1},
    "grace": {"minimum": 0},
    "poll_interval": {"exclusiveMinimum": 0},
}


def job_schema() -> dict[str, Any]:
    """Return the schema of a job file; the options under ``launcher_spec`` are the backends' own."""
    return _document("siteward job file", block_schema(Job, _JOB_DETAILS))


def site_schema() -> dict[str, Any]:
    """Return the schema of a site file; the blocks of backends and resource managers are their own."""
    return _document("siteward site file", block_schema(SiteFile, _SITE_DETAILS))


def backend_schema(cls: type[Any]) -> dict[str, Any]:
    """Return ``{"job": …, "site": …, "study": …}``: the schemas of a backend's three option classes.

    A class that the backend does not have takes no options.
    """
    names = {"job": "JobOptions", "site": "SiteOptions", "study": "StudyOptions"}
    kinds = {key: getattr(cls, name, None) for key, name in names.items()}
    return {key: _document(names[key], block_schema(kind) if kind else _object({}, [])) for key, kind in kinds.items()}


def plugin_schema(plugin: object) -> dict[str, Any]:
    """Return the schema of what a site sets for a resource manager or another plugin, if anything."""
    kind = getattr(plugin, "SiteOptions", None)
    return _document("SiteOptions", block_schema(kind) if kind else _object({}, []))


def block_schema(cls: type[Any], details: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """Return the schema of a mapping that is read as ``cls``, an attrs class.

    ``help`` in a field's metadata becomes its description; ``details`` adds keywords to single fields. A
    default that is made anew each time (a random id) is not shown.
    """
    hints, properties, required = get_type_hints(cls), {}, []
    for field in attrs.fields(cls):
        if not field.init or field.metadata.get("internal"):
            continue
        schema = _type_schema(hints[field.name])
        if field.metadata.get("help"):
            schema["description"] = field.metadata["help"]
        if field.default is attrs.NOTHING:
            required.append(field.name)
        else:
            schema |= _default(field.default)
        properties[field.name] = schema | dict((details or {}).get(field.name, {}))
    return _object(properties, required)


def _document(title: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"$schema": DIALECT, "title": title, **schema}


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**schema, "required": required} if required else schema


def _default(default: Any) -> dict[str, Any]:
    """Return ``{"default": …}`` as JSON has it, or nothing for what JSON cannot show."""
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        if default.takes_self:
            return {}
        default = default.factory()
    if attrs.has(type(default)):
        default = attrs.asdict(default)
    try:
        return {} if default is None else {"default": json.loads(json.dumps(default))}
    except (TypeError, ValueError):
        return {}


def _type_schema(type_: Any) -> dict[str, Any]:
    origin, arguments = get_origin(type_), get_args(type_)
    if type_ in _SIMPLE:
        return {"type": _SIMPLE[type_]}
    if origin in (Union, UnionType):
        # `x | None`: a key that may be left out. An explicit null is read as leaving it out.
        members = [_type_schema(member) for member in arguments]
        plain = all(set(member) == {"type"} for member in members)
        return {"type": [member["type"] for member in members]} if plain else {"anyOf": members}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (tuple, list, Sequence):
        return {"type": "array", "items": _type_schema((arguments or (Any,))[0])}
    if origin in (dict, Mapping) or type_ in (dict, Mapping):
        return {"type": "object", "additionalProperties": _type_schema((arguments or (str, Any))[1])}
    return block_schema(type_) if attrs.has(type_) else {}
