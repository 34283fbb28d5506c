"""JSON Schema: what editors and other programs are told agrees with what the files' readers do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import attrs
import pytest

from siteward.job import JOB_KEYS, Job
from siteward.schema import DIALECT, backend_schema, block_schema, job_schema, site_schema
from siteward.sitefile import SiteFile


@attrs.frozen(kw_only=True)
class Mount:
    source: str = attrs.field(metadata={"help": "where it comes from"})
    mode: Literal["ro", "rw"] = "ro"


@attrs.frozen(kw_only=True)
class Options:
    image: str = attrs.field(metadata={"help": "the image"})
    cpus: int | None = None
    limit: float = 1.5
    init: bool = True
    command: tuple[str, ...] = ()
    labels: Mapping[str, str] = attrs.field(factory=dict)
    mounts: Mapping[str, Mount] = attrs.field(factory=dict)
    either: int | str = "auto"
    anything: Any = None
    secret: str = attrs.field(default="x", metadata={"internal": True})


class Backend:
    JobOptions = Options
    SiteOptions = Mount


SHAPES = {
    "image": {"type": "string", "description": "the image"},
    "cpus": {"type": ["integer", "null"]},
    "limit": {"type": "number", "default": 1.5},
    "init": {"type": "boolean", "default": True},
    "command": {"type": "array", "items": {"type": "string"}, "default": []},
    "labels": {"type": "object", "additionalProperties": {"type": "string"}, "default": {}},
    "mounts": {
        "type": "object",
        "additionalProperties": {
            "type": "object",
            "properties": {
                "source": {"type": "string", "description": "where it comes from"},
                "mode": {"enum": ["ro", "rw"], "default": "ro"},
            },
            "required": ["source"],
            "additionalProperties": False,
        },
        "default": {},
    },
    "either": {"type": ["integer", "string"], "default": "auto"},
    "anything": {},
}


@pytest.mark.parametrize("name", SHAPES)
def test_each_type_has_its_schema(name: str) -> None:
    """Types, help and defaults of a field become keywords."""
    assert block_schema(Options)["properties"][name] == SHAPES[name]


def test_a_block_takes_its_own_keys_alone() -> None:
    """Unknown keys are refused, needed ones required, and internal fields nobody's business."""
    schema = block_schema(Options)
    assert (schema["additionalProperties"], schema["required"]) == (False, ["image"])
    assert set(schema["properties"]) == set(SHAPES)


def test_a_backend_has_three_schemas() -> None:
    """Job, site and study; a class that is not there takes no options."""
    schemas = backend_schema(Backend)
    assert list(schemas) == ["job", "site", "study"]
    assert schemas["job"]["required"] == ["image"]
    assert schemas["site"]["required"] == ["source"]
    assert (schemas["study"]["properties"], schemas["study"]["additionalProperties"]) == ({}, False)


DOCUMENTS = {"job": job_schema, "site": site_schema, "backend": lambda: backend_schema(Backend)["job"]}


def _schemas(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
        for value in schema.values():
            yield from _schemas(value)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_is_plain_json_of_the_dialect(name: str) -> None:
    """It survives JSON, says its dialect, and its patterns are regular expressions."""
    schema = DOCUMENTS[name]()
    assert json.loads(json.dumps(schema, allow_nan=False)) == schema
    assert schema["$schema"] == DIALECT
    for each in _schemas(schema):
        if isinstance(each.get("pattern"), str):
            re.compile(each["pattern"])


@pytest.mark.parametrize(("schema", "cls"), [(job_schema, Job), (site_schema, SiteFile)], ids=["job", "site"])
def test_every_key_of_a_file_is_described(schema: Any, cls: type) -> None:
    """Each key that the file may have is there, with a sentence for people."""
    properties = schema()["properties"]
    assert set(properties) == {field.name for field in attrs.fields(cls) if not field.metadata.get("internal")}
    assert all(properties[key].get("description") for key in properties)


def test_what_is_required_is_what_the_files_need() -> None:
    """A job needs a name; a site a name and backends."""
    assert job_schema()["required"] == ["name"]
    assert site_schema()["required"] == ["name", "backends"]
    assert "default" not in job_schema()["properties"]["id"]
    assert set(job_schema()["properties"]) == set(JOB_KEYS)
