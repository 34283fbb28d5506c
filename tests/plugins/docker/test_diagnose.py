"""What the engine's words mean for a job."""

import pytest

from siteward_docker import diagnose

TIMES = {"StartedAt": "2026-01-02T03:04:05.123456789Z", "FinishedAt": "2026-01-02T03:04:06Z"}
NEVER = {"StartedAt": "0001-01-01T00:00:00Z", "FinishedAt": "0001-01-01T00:00:00Z"}
NOT_FOUND = 'OCI runtime create failed: runc create failed: exec: "nope": executable file not found in $PATH: unknown'
TINI = b"[FATAL tini (7)] exec nope failed: No such file or directory\n"


def ended(code, **more):
    return {"Status": "exited", "ExitCode": code, **TIMES, **more}


ENDS = [
    ("success", ended(0), b"", ("SUCCEEDED", "Completed", 0, 0, None)),
    ("exit 1", ended(1), b"", ("FAILED", "Error", 1, 1, None)),
    ("exit 103", ended(103), b"", ("FAILED", "Error", 103, 103, None)),
    ("own 127", ended(127), b"sh: nope: not found\n", ("FAILED", "Error", 1, 127, None)),
    ("own 126", ended(126), b"", ("FAILED", "Error", 1, 126, None)),
    ("no command", ended(127), TINI, ("FAILED", "LaunchFailed", 101, None, None)),
    ("not executable", ended(126), TINI, ("FAILED", "LaunchFailed", 101, None, None)),
    ("killed", ended(137), b"", ("FAILED", "Signal", 1, 137, 9)),
    ("terminated", ended(143), b"", ("FAILED", "Signal", 1, 143, 15)),
    ("out of memory", ended(137, OOMKilled=True), b"", ("FAILED", "OOMKilled", 104, 137, 9)),
    ("a child out of memory", ended(0, OOMKilled=True), b"", ("SUCCEEDED", "Completed", 0, 0, None)),
    ("and then failed", ended(1, OOMKilled=True), b"", ("FAILED", "Error", 1, 1, None)),
    ("dead", {**ended(3), "Status": "dead"}, b"", ("FAILED", "Error", 1, 3, None)),
    ("being removed", {**ended(137), "Status": "removing"}, b"", ("LOST", "Deleted", 104, None, None)),
    (
        "not started",
        {"Status": "created", "ExitCode": 127, "Error": NOT_FOUND, **NEVER},
        b"",
        ("FAILED", "LaunchFailed", 101, None, None),
    ),
]


@pytest.mark.parametrize(("state", "output", "end"), [each[1:] for each in ENDS], ids=[each[0] for each in ENDS])
def test_ends(state, output, end):
    """The same end as on every other backend."""
    result = diagnose.status_of(state, output).result
    found = result.state.value, result.reason.value, int(result.return_code), result.exit_code, result.signal
    assert found == end
    assert result.message


LIVE = [
    ({"Status": "created", "ExitCode": 0, **NEVER}, "PENDING"),
    ({"Status": "running", "ExitCode": 0}, "RUNNING"),
    ({"Status": "restarting", "ExitCode": 1}, "RUNNING"),
    ({"Status": "paused", "ExitCode": 0}, "RUNNING"),
]


@pytest.mark.parametrize(("state", "name"), LIVE)
def test_what_is_no_end(state, name):
    """A job that is created, runs or is paused has not ended."""
    status = diagnose.status_of(state)
    assert (status.state.value, status.result) == (name, None)


def test_words_and_times():
    """Messages say what a person can use; times are the engine's."""
    result = diagnose.status_of(ended(0, OOMKilled=True)).result
    assert "memory limit" in result.message
    assert round(result.ended_at - result.started_at, 3) == 0.877
    failed = diagnose.status_of({"Status": "created", "ExitCode": 127, "Error": NOT_FOUND, **NEVER}).result
    assert failed.message == 'exec: "nope": executable file not found in $PATH'
    assert failed.started_at is None


PULLS = {
    "manifest for x:1 not found: manifest unknown": True,
    "pull access denied for x, repository does not exist or may require 'docker login': denied": True,
    "unauthorized: authentication required": True,
    'Head "http://r/v2/x/manifests/1": no basic auth credentials': True,
    "toomanyrequests: You have reached your pull rate limit": False,
    "received unexpected HTTP status: 503 Service Unavailable": False,
    'Get "https://r/v2/": dial tcp 127.0.0.1:5000: connect: connection refused': False,
    'Get "https://r/v2/": net/http: TLS handshake timeout': False,
}


@pytest.mark.parametrize(("words", "for_good"), PULLS.items())
def test_which_pulls_are_tried_again(words, for_good):
    """An image that is not there or not for us stays so; a registry that is busy or away may come back."""
    assert diagnose.is_for_good(words) is for_good
