"""A job's output, read and followed: all of it, once, whatever happens to connections."""

import hashlib
import threading

import pytest

from siteward import JobRef, JobState, JobStatus
from siteward_k8s.errors import Missing
from siteward_k8s.logs import read_logs

from ..jobs import until

COUNT = 'i=0; while [ $i -lt {count} ]; do echo "line $i"; i=$((i+1)); {pause}; done'


class Watching:
    """What is known of a job, without a watch: by looking at its pod."""

    def __init__(self, client):
        self.client, self.changed = client, threading.Condition()

    def look(self, ref):
        try:
            phase = self.client.get_pod(ref.data["name"])["status"].get("phase", "Pending")
        except Missing:
            return JobStatus(state=JobState.LOST)
        state = {"Pending": JobState.PENDING, "Running": JobState.RUNNING}.get(phase, JobState.SUCCEEDED)
        return JobStatus(state=state)

    def seen(self, _ref):
        return JobState.PENDING


@pytest.fixture(scope="module")
def namespace(cluster):
    """One namespace for all of these tests: each has a pod of its own."""
    with cluster.namespace() as namespace:
        yield namespace


def ref_of(namespace, name):
    return JobRef(
        job_id=name, site="site-1", backend="k8s", data={"name": name, "namespace": namespace.name, "container": "main"}
    )


class Follower(threading.Thread):
    """Reads output in a thread, into ``got``."""

    def __init__(self, client, ref, **how):
        super().__init__(daemon=True)
        self.got = b""
        self._chunks = read_logs(client, Watching(client), ref, **{"follow": True, "tail": None, **how})
        self.start()

    def run(self):
        for chunk in self._chunks:
            self.got += chunk

    def all(self):
        self.join(120)
        assert not self.is_alive()
        return self.got


def read(client, ref, **how):
    return b"".join(read_logs(client, Watching(client), ref, **{"follow": False, "tail": None, **how}))


OUTPUTS = {
    "nothing": ("true", b""),
    "no end of line": ("printf abc", b"abc"),
    "empty lines": (r"printf '\n\na\n\n'", b"\n\na\n\n"),
    "not UTF-8": (r"printf '\377\376\000 x\ry\n\303\n'", b"\xff\xfe\x00 x\ry\n\xc3\n"),
    "long lines": (
        "for size in 16383 16384 16385 100000; do head -c $size /dev/zero | tr '\\0' x; echo; done",
        b"".join(b"x" * size + b"\n" for size in (16383, 16384, 16385, 100000)),
    ),
    "words like a time": ("echo 2026-01-01T00:00:00.000000000Z x", b"2026-01-01T00:00:00.000000000Z x\n"),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_output_comes_as_it_was_written(client, namespace, kind):
    """Byte for byte, read at the end or followed from before the beginning."""
    script, expected = OUTPUTS[kind]
    name = kind.replace(" ", "-").lower()
    ref = ref_of(namespace, name)
    namespace.run(name, "sh", "-c", f"sleep 1; {script}")
    assert Follower(client, ref).all() == expected
    namespace.wait_for_phase(name)
    assert read(client, ref) == expected


def test_a_broken_connection_loses_nothing(proxied, api_proxy, namespace):
    """Nor does any line come twice, however often it breaks, also in the middle of long lines."""
    script = 'head -c 40000 /dev/zero | tr "\\0" y; echo; ' + COUNT.format(
        count=3000, pause=": $((i % 300)) ; [ $((i % 300)) = 0 ] && sleep 0.5"
    )
    namespace.run("broken", "sh", "-c", f"({script}) 2>&1; ({script}) >&2")
    follower = Follower(proxied, ref_of(namespace, "broken"))
    cuts = 0
    while follower.is_alive():
        size = len(follower.got)
        until(lambda: len(follower.got) > size or not follower.is_alive(), "there is more")
        cuts += api_proxy.cut("/log")
    one = b"y" * 40000 + b"\n" + b"".join(b"line %d\n" % number for number in range(3000))
    assert hashlib.sha256(follower.all()).hexdigest() == hashlib.sha256(one + one).hexdigest()
    assert cuts > 3


def test_an_outage_only_delays(proxied, api_proxy, namespace):
    """What was written meanwhile comes when the API server is back, also when the job has ended by then."""
    namespace.run("outage", "sh", "-c", COUNT.format(count=100, pause="sleep 0.05"))
    follower = Follower(proxied, ref_of(namespace, "outage"))
    until(lambda: follower.got.count(b"\n") > 5, "it has begun")
    with api_proxy.outage():
        namespace.wait_for_phase("outage")
    assert follower.all() == b"".join(b"line %d\n" % number for number in range(100))


@pytest.mark.parametrize(("tail", "expected"), [(0, []), (1, [9]), (3, [7, 8, 9]), (100, range(10))])
def test_only_the_last_lines_are_asked_for(client, namespace, tail, expected):
    """As many as there are at the time; who follows gets what comes after them, and no more."""
    name = f"tail-{tail}"
    hold = "until [ -e /tmp/go ]; do sleep 0.1; done; echo more"
    namespace.run(name, "sh", "-c", f"{COUNT.format(count=10, pause=':')}; {hold}")
    ref = ref_of(namespace, name)
    until(lambda: namespace.pod(name)["status"].get("phase") == "Running" and read(client, ref).count(b"\n") == 10)
    lines = b"".join(b"line %d\n" % number for number in expected)
    assert read(client, ref, tail=tail) == lines
    follower = Follower(client, ref, tail=tail)
    until(lambda: follower.got == lines, "the tail comes")
    client.exec(name, "main", ["touch", "/tmp/go"]).output()
    assert follower.all().removeprefix(lines) == b"more\n"


def test_a_log_that_is_rotated_is_followed(client, namespace):
    """A kubelet begins a new file every 10 MiB or so; who follows gets both whole."""
    script = "echo ready; until [ -e /tmp/go ]; do sleep 0.1; done; yes 0123456789abcdefghijklmnopqrstuvwxyz"
    namespace.run("rotated", "sh", "-c", f"{script} | head -n 500000; sleep 15; echo behind")
    follower = Follower(client, ref_of(namespace, "rotated"))
    # Of what was written before, the kubelet gives nobody more than its newest file.
    until(lambda: follower.got, "it is followed")
    client.exec("rotated", "main", ["touch", "/tmp/go"], namespace=namespace.name).output()
    got = follower.all()
    assert got.count(b"\n") == 500_002
    assert set(got.split(b"\n")) == {b"0123456789abcdefghijklmnopqrstuvwxyz", b"ready", b"behind", b""}


def test_what_has_no_output_has_none(client, namespace):
    """A pod that is no more, and one whose container never ran."""
    assert read(client, ref_of(namespace, "nobody")) == b""
    assert Follower(client, ref_of(namespace, "nobody")).all() == b""
    namespace.run("waits", "true", image="registry.invalid/none:1")
    assert read(client, ref_of(namespace, "waits")) == b""
