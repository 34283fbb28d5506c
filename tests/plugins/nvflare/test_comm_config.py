"""What `check` says of a kit's comm_config.json."""

import json

import pytest

from siteward_nvflare.comm_config import check_comm_config
from siteward_nvflare.kit import find_kit

GOOD = {
    "allow_adhoc_conns": False,
    "backbone_conn_gen": 2,
    "internal": {"scheme": "tcp", "resources": {"host": "10.0.0.7", "port": 8102, "connection_security": "mtls"}},
}


def with_internal(**changes):
    """Return the good file's text with other keys in ``internal``; None takes one out."""
    internal = {key: value for key, value in {**GOOD["internal"], **changes}.items() if value is not None}
    return json.dumps({**GOOD, "internal": internal})


# What the file holds; the host that jobs look for; the level and words of each finding.
FILES = {
    "none": (None, "localhost", []),
    "a good one": (json.dumps(GOOD), "10.0.0.7", []),
    "nothing in it": ("{}", "localhost", []),
    "broken": ('{\n  "internal": {,\n}', None, [("fail", "line 2, column 16: ")]),
    "in no encoding": (b"\xff\xfe\xff", None, [("fail", "cannot be read")]),
    "a list": ("[]", None, [("fail", "expected a mapping")]),
    "no mapping inside": ('{"internal": 3}', None, [("fail", "internal: expected a mapping")]),
    "no scheme": (with_internal(scheme=None), None, [("fail", "internal.scheme: is missing")]),
    "no resources": (
        with_internal(resources=None, resource={}),
        None,
        [("fail", "internal.resources: is missing; 'resource' is there")],
    ),
    "wrong resources": (with_internal(resources=[]), None, [("fail", "internal.resources: expected a mapping")]),
    "unknown setting": (json.dumps({**GOOD, "blah": 1}), "10.0.0.7", [("warn", "blah: FLARE knows no such key")]),
    "misspelled section": (
        json.dumps({"intenal": {}}),
        "localhost",
        [("warn", "intenal: FLARE knows no such key; did")],
    ),
    "unknown key of a connection": (
        with_internal(shceme="x"),
        "10.0.0.7",
        [("warn", "internal.shceme: FLARE knows no such key; did you mean 'scheme'?")],
    ),
    "misspelled parameter": (
        with_internal(resources={"hots": "10.0.0.7", "port": 1}),
        "localhost",
        [("warn", "internal.resources.hots: FLARE knows no such key; did you mean 'host'?")],
    ),
    "a driver's own parameter": (with_internal(resources={"host": "h", "xyzzy": 1}), "h", []),
}


@pytest.mark.parametrize("name", ["comm_config.json", "comm_config.json.default"])
@pytest.mark.parametrize("case", FILES)
def test_a_mistake_is_told_with_its_file_and_place(tmp_path, case, name):
    """What keeps FLARE from starting fails, what it would ignore is a warning."""
    content, host, words = FILES[case]
    (tmp_path / "startup").mkdir()
    (tmp_path / "local").mkdir()
    (tmp_path / "startup" / "fed_client.json").write_text("{}")
    path = tmp_path / "local" / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found, findings = check_comm_config(find_kit(tmp_path))
    assert found == host
    assert [each.level for each in findings] == [level for level, _ in words]
    assert all(f"{path}: {said}" in each.message for each, (_, said) in zip(findings, words, strict=True))
