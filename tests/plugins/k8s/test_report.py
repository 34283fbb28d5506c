"""What people read of a pod: why it waits, in a line, and what was seen of it."""

# ruff: noqa: E501  (kubelets write long lines)

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siteward_k8s import layout
from siteward_k8s.diagnose import describe, evidence
from siteward_k8s.facts import read_pod
from siteward_k8s.words import bare, cause, no_node, one_line

from .pods import (
    IMAGE,
    NAME,
    UID,
    condition,
    container,
    deleted,
    event,
    events,
    facts,
    gated,
    pod,
    running,
    terminated,
    unscheduled,
    waiting,
)

DESCRIBED = {
    "running": (facts(running()), [], ""),
    "ended": (facts(terminated(1)), [], ""),
    "over": (facts(phase="Failed", reason="Evicted"), [], ""),
    "new": (read_pod(pod(phase="Pending", node=None)), [], "no scheduler has looked at it yet"),
    "no node": (read_pod(unscheduled()), [], "no node fits: of 3, 3 lack free cpu"),
    "gated": (
        read_pod(gated("example.com/a", "example.com/b")),
        [],
        "it is held back by the scheduling gate example.com/a, example.com/b, until whoever put that there takes it away",
    ),
    "starting": (facts(waiting(), phase="Pending"), [], "it is being started on node gpu-1"),
    "staging": (
        facts(waiting("PodInitializing"), inits=[container(layout.STAGE, running())]),
        [],
        "it receives its job directory",
    ),
    "pulling": (
        facts(waiting(), phase="Pending"),
        [event("Pulling", f'Pulling image "{IMAGE}"', type="Normal")],
        f'pulling image "{IMAGE}"',
    ),
    "pulled": (
        facts(waiting(), phase="Pending"),
        [
            event("Pulling", "Pulling image", type="Normal", when=5),
            event("Pulled", "Successfully pulled image", type="Normal", when=9),
        ],
        "it is being started on node gpu-1",
    ),
    "pulled in the same second": (
        facts(waiting(), phase="Pending"),
        [event(each, "a step of the image", type="Normal", when=5) for each in ("Created", "Pulled", "Pulling")],
        "it is being started on node gpu-1",
    ),
    "refused by its node": (
        facts(waiting("CreateContainerConfigError", 'secret "db" not found')),
        [],
        'the container cannot be set up: secret "db" not found',
    ),
}


@pytest.mark.parametrize(("seen", "told", "words"), DESCRIBED.values(), ids=DESCRIBED)
def test_why_it_waits(seen, told, words):
    """One line that somebody who knows no Kubernetes can use."""
    assert describe(seen, events(*told)) == words


CAUSES = {
    'rpc error: code = NotFound desc = failed to pull and unpack image "docker.io/library/x:1": failed to resolve reference "docker.io/library/x:1": docker.io/library/x:1: not found': "docker.io/library/x:1: not found",
    "(combined from similar events): Error: ErrImagePull: pull QPS exceeded": "pull QPS exceeded",
    'failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: exec: "x": executable file not found in $PATH: unknown': 'exec: "x": executable file not found in $PATH',
    "plain words.": "plain words",
    "two\nlines\tand \x1b[31mcolours": "two lines and ?[31mcolours",
    "": "",
}


@pytest.mark.parametrize(("text", "words"), CAUSES.items())
def test_causes(text, words):
    """What went wrong, without who passed it on."""
    assert cause(text) == words


SECRETS = [
    'Get "https://robot:hunter2@registry.local/v2/": EOF',
    "https://registry.local/token?service=x&token=hunter2&scope=y",
    "https://bucket.s3.amazonaws.com/layer?X-Amz-Signature=hunter2&X-Amz-Date=1",
    "https://account.blob.core.windows.net/x?sv=1&sig=hunter2",
    "request failed: Authorization: Bearer hunter2",
    "request failed: authorization: Basic hunter2",
    "header bearer hunter2",
    "mount options: username=me,password=hunter2,vers=3.0",
    "PASSWORD=hunter2",
]


@pytest.mark.parametrize("text", SECRETS)
def test_secrets_are_not_told(text):
    """Registries and mounts may quote what they were given."""
    seen = facts(
        waiting("CreateContainerError", text),
        phase="Pending",
        message=text,
        conditions=[condition("Ready", "False", "x", text)],
    )
    told = events(event("FailedMount", text), event("Failed", text, container="job"))
    for words in (one_line(text), cause(text), no_node(text), describe(seen, told), evidence(seen, told)):
        assert "hunter2" not in words and "***" in words
    assert one_line("no basic auth credentials") == "no basic auth credentials"


def test_names_that_a_job_chose_are_no_words_of_the_platforms():
    """An image called not-found-503 decides nothing."""
    assert bare('the "503" of `503` {503: x} at https://r/503?x=503: gone') == 'the "" of "" "" at "" gone'


def test_evidence_has_it_all_in_order():
    """The pod, its conditions, its containers and its own events, oldest first."""
    seen = facts(
        waiting("ImagePullBackOff", f'Back-off pulling image "{IMAGE}"'),
        phase="Pending",
        inits=[container(layout.STAGE, terminated(0))],
        conditions=[condition("Ready", "False", "ContainersNotReady", "containers with unready status: [job]")],
        metadata=deleted(60),
    )
    told = events(
        event("Failed", f'Failed to pull image "{IMAGE}": not found', when=30, count=3, container="job"),
        event("Scheduled", "Successfully assigned flare/p to gpu-1", type="Normal", when=1),
        event("FailedScheduling", "of another pod", uid="another"),
    )
    assert evidence(seen, told).splitlines() == [
        f"pod {NAME} ({UID}) Pending on node gpu-1, created 2026-03-01T12:00:00Z, given a node 2026-03-01T12:00:01Z, deleted 2026-03-01T12:01:00Z",
        "condition Ready=False ContainersNotReady: containers with unready status: [job]",
        "init container siteward-stage: terminated with exit code 0 Completed",
        f'main container job: waiting ImagePullBackOff: Back-off pulling image "{IMAGE}"',
        "event 2026-03-01T12:00:01Z Normal Scheduled: Successfully assigned flare/p to gpu-1",
        f'event 2026-03-01T12:00:30Z Warning Failed (3 times): Failed to pull image "{IMAGE}": not found',
    ]


def test_evidence_keeps_the_newest_events():
    """Of many there is room for some."""
    told = events(*(event("FailedMount", f"try {each}: " + "x" * 300, when=each) for each in range(1, 100)))
    words = evidence(facts(waiting(), phase="Pending"), told)
    assert "try 99:" in words and "try 1:" not in words and len(words.encode()) < 4096
    assert [each for each in range(1, 100) if f"try {each}:" in words] == list(range(100 - words.count("try "), 100))


@given(
    text=st.text(max_size=3000) | st.just("\N{SNOWMAN}" * 2000),
    containers=st.integers(0, 40),
    conditions=st.integers(0, 40),
)
def test_evidence_is_bounded(text, containers, conditions):
    """Less than 4 KB of printable lines, however much the platform or the job wrote."""
    seen = facts(
        terminated(1, message=text),
        others=[container(f"c{each}", waiting("X", text)) for each in range(containers)],
        conditions=[condition(f"T{each}", "False", text[:50], text) for each in range(conditions)],
    )
    told = events(*(event("Failed", text, when=each) for each in range(20)))
    words = evidence(seen, told)
    assert len(words.encode()) < 4096 and all(line.isprintable() for line in words.split("\n"))
    assert describe(seen, told).isprintable()
