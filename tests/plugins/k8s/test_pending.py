"""How long a pod may wait for what, and why it is given up."""

# ruff: noqa: E501  (schedulers and kubelets write long lines)

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from siteward import Reason
from siteward_k8s import layout
from siteward_k8s.clocks import Waited
from siteward_k8s.diagnose import status_of
from siteward_k8s.facts import read_pod
from siteward_k8s.pending import Fail, Limits, Wait, judge

from .pods import (
    UNSCHEDULABLE,
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
from .test_starting import FATAL, PASSING, SETBACKS

LIMITS = Limits(pending_timeout=300, start_timeout=600, gated_timeout=None)
NEW = read_pod(pod(phase="Pending", node=None))
STARTING = facts(waiting(), phase="Pending")
NO_NODES = " preemption: 0/4 nodes are available: 4 Preemption is not helpful for scheduling."

# What the scheduler says, and as what it ends at pending_timeout.
VERDICTS = {
    "cpu": ("0/4 nodes are available: 4 Insufficient cpu.", "CapacityTimeout", "lack free cpu"),
    "memory": ("0/1 nodes are available: 1 Insufficient memory.", "CapacityTimeout", "lack free memory"),
    "GPUs": (
        "0/4 nodes are available: 4 Insufficient nvidia.com/gpu." + NO_NODES,
        "CapacityTimeout",
        "4 lack free nvidia.com/gpu",
    ),
    "MIG": (
        "0/4 nodes are available: 4 Insufficient nvidia.com/mig-1g.5gb.",
        "CapacityTimeout",
        "nvidia.com/mig-1g.5gb",
    ),
    "AMD": ("0/2 nodes are available: 2 Insufficient amd.com/gpu.", "CapacityTimeout", "amd.com/gpu"),
    "ephemeral storage": (
        "0/4 nodes are available: 4 Insufficient ephemeral-storage.",
        "CapacityTimeout",
        "ephemeral-storage",
    ),
    "pods": ("0/4 nodes are available: 4 Too many pods.", "CapacityTimeout", "can take no more pods"),
    "devices by claim": (
        "0/4 nodes are available: 4 cannot allocate all claims.",
        "CapacityTimeout",
        "cannot allocate",
    ),
    "storage": (
        "0/4 nodes are available: 4 node(s) did not have enough free storage.",
        "CapacityTimeout",
        "free storage",
    ),
    "anything insufficient": (
        "0/4 nodes are available: 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, 3 Insufficient nvidia.com/gpu."
        + NO_NODES,
        "CapacityTimeout",
        "of 4, 1 have the taint node-role.kubernetes.io/control-plane, 3 lack free nvidia.com/gpu",
    ),
    "Karpenter": (
        'Failed to schedule pod, incompatible with nodepool "default", daemonset overhead={"cpu":"150m","pods":"4"}, no instance type has enough resources, requirements=...',
        "CapacityTimeout",
        "no instance type",
    ),
    "taint": (
        "0/4 nodes are available: 4 node(s) had untolerated taint {dedicated: gpu}." + NO_NODES,
        "Unschedulable",
        "taint dedicated: gpu",
    ),
    "taint named insufficient": (
        "0/1 nodes are available: 1 node(s) had untolerated taint {insufficient: cpu}.",
        "Unschedulable",
        "taint",
    ),
    "nodes not ready": (
        "0/1 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }.",
        "Unschedulable",
        "1 not ready",
    ),
    "affinity": (
        "0/4 nodes are available: 4 node(s) didn't match Pod's node affinity/selector." + NO_NODES,
        "Unschedulable",
        "node selector",
    ),
    "cordoned": ("0/1 nodes are available: 1 node(s) were unschedulable.", "Unschedulable", "cordoned"),
    "volume elsewhere": (
        "0/4 nodes are available: 4 node(s) had volume node affinity conflict.",
        "Unschedulable",
        "cannot reach its volume",
    ),
    "unbound claim": (
        "0/4 nodes are available: pod has unbound immediate PersistentVolumeClaims." + NO_NODES,
        "Unschedulable",
        "unbound",
    ),
    "waits for its first consumer": (
        "0/4 nodes are available: 4 node(s) didn't find available persistent volumes to bind.",
        "Unschedulable",
        "volumes",
    ),
    "no nodes": ("no nodes available to schedule pods", "Unschedulable", "no nodes available"),
}


@pytest.mark.parametrize("by", ["condition", "event"])
@pytest.mark.parametrize(("text", "reason", "words"), VERDICTS.values(), ids=VERDICTS)
def test_no_node_is_waited_for_until_pending_timeout(text, reason, words, by):
    """Regression (8.1, 8): taints, volumes and most lacks were fatal at once; an autoscaler or another's end may mend each."""
    seen, told = (
        (read_pod(unscheduled(text)), []) if by == "condition" else (NEW, events(event("FailedScheduling", text)))
    )
    answer = judge(seen, told, Waited(unscheduled=299.5, scheduled=1e6, gated=1e6), LIMITS)
    assert isinstance(answer, Wait) and answer.look_again_in == 0.5
    assert words in answer.message and "\n" not in answer.message
    answer = judge(seen, told, Waited(unscheduled=300), LIMITS)
    assert isinstance(answer, Fail)
    assert answer.reason.value == reason and words in answer.message and "300 s (pending_timeout)" in answer.message


def test_no_dataset_claim_fails_at_once():
    """Nobody but its owner can mend a claim that is not there."""
    for text in (
        'persistentvolumeclaim "mri-2024" not found',
        '0/3 nodes are available: persistentvolumeclaim "mri-2024" not found.',
    ):
        answer = judge(read_pod(unscheduled(text)), [], Waited(), LIMITS)
        assert isinstance(answer, Fail) and answer.reason is Reason.CONFIG_ERROR and "'mri-2024'" in answer.message
    told = events(event("FailedScheduling", text, when=5))
    assert isinstance(judge(read_pod(unscheduled()), told, Waited(), LIMITS), Wait), "it was created since"


def test_the_latest_verdict_is_told_and_any_lack_counts():
    """First no node was free, then the new one was not ready: still too little capacity in time."""
    seen = read_pod(
        unscheduled("0/1 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }.")
    )
    answer = judge(seen, events(event("FailedScheduling", UNSCHEDULABLE)), Waited(unscheduled=300), LIMITS)
    assert answer.reason is Reason.CAPACITY_TIMEOUT and "not ready" in answer.message


SCALERS = [
    (
        event("TriggeredScaleUp", "pod triggered scale-up: [{eks-gpu 1->2 (max: 8)}]", type="Normal"),
        "a new node has been asked for",
    ),
    (
        event("Nominated", "Pod should schedule on: nodeclaim/default-7x2bq", type="Normal"),
        "a new node has been asked for",
    ),
    (
        event("NotTriggerScaleUp", "pod didn't trigger scale-up: 1 max node group size reached", type="Normal"),
        "1 max node group size reached",
    ),
    (
        event("FailedScaleUp", "Node scale up in zones europe-west4-a failed: GCE out of resources."),
        "could not add a node",
    ),
]


@pytest.mark.parametrize(("told", "words"), SCALERS, ids=[each[0]["reason"] for each in SCALERS])
def test_what_the_autoscaler_does_is_told(told, words):
    """A researcher reads whether waiting is of use."""
    assert words in judge(read_pod(unscheduled()), events(told), Waited(), LIMITS).message


def test_an_autoscaler_at_its_end_is_a_lack_of_capacity():
    """The scheduler knows of taints alone, the autoscaler that it may add no node."""
    seen = read_pod(unscheduled("0/2 nodes are available: 2 node(s) had untolerated taint {dedicated: web}."))
    told = events(
        event("NotTriggerScaleUp", "pod didn't trigger scale-up: 1 max node group size reached", type="Normal")
    )
    assert judge(seen, told, Waited(unscheduled=300), LIMITS).reason is Reason.CAPACITY_TIMEOUT


def test_pending_timeout_0_fails_at_the_first_verdict():
    """And waits for that verdict, though not for ever."""
    now = evolve(LIMITS, pending_timeout=0)
    assert judge(NEW, [], Waited(unscheduled=5), now).look_again_in == 5
    assert judge(read_pod(unscheduled()), [], Waited(), now).reason is Reason.CAPACITY_TIMEOUT
    assert judge(NEW, [], Waited(unscheduled=30), now).reason is Reason.UNSCHEDULABLE


def test_pending_timeout_none_waits_for_ever():
    """Without a clock to look at again."""
    never = evolve(LIMITS, pending_timeout=None)
    answer = judge(read_pod(unscheduled()), [], Waited(unscheduled=1e9), never)
    assert isinstance(answer, Wait) and answer.look_again_in is None and answer.message
    assert judge(NEW, [], Waited(unscheduled=1e9), never) == Wait(message="no scheduler has looked at it yet")


def test_no_verdict_at_all_is_an_end_as_well():
    """Regression (8.1, 9): a pod that no scheduler looks at waited for ever."""
    assert judge(NEW, [], Waited(), LIMITS) == Wait(look_again_in=10)
    assert judge(NEW, [], Waited(unscheduled=10), LIMITS).message == "no scheduler has looked at it yet"
    answer = judge(NEW, [], Waited(unscheduled=300), LIMITS)
    assert answer.reason is Reason.UNSCHEDULABLE and "no scheduler" in answer.message


def test_gates_have_a_clock_of_their_own():
    """Regression (8.1, 9): a gated pod is waited for by its own timeout, which is none unless the site says so."""
    kueue, other = read_pod(gated("kueue.x-k8s.io/admission")), read_pod(gated("example.com/approval"))
    answer = judge(kueue, [], Waited(unscheduled=1e6, gated=1e6), LIMITS)
    assert isinstance(answer, Wait) and answer.look_again_in is None and "Kueue" in answer.message
    limited = evolve(LIMITS, gated_timeout=60)
    assert judge(other, [], Waited(gated=50), limited).look_again_in == 10
    assert judge(other, [], Waited(gated=60), limited).reason is Reason.UNSCHEDULABLE
    assert judge(kueue, [], Waited(gated=60), limited).reason is Reason.CAPACITY_TIMEOUT
    assert isinstance(judge(other, [], Waited(), evolve(LIMITS, gated_timeout=0)), Fail)


def test_words_about_gates_are_no_verdict():
    """What was said while it was gated is not held against it later."""
    told = events(event("FailedScheduling", "Scheduling is blocked due to non-empty scheduling gates"))
    released = read_pod(gated("example.com/approval"))
    released = evolve(released, gates=())
    assert judge(released, told, Waited(), evolve(LIMITS, pending_timeout=0)) == Wait(look_again_in=10)
    assert judge(NEW, told, Waited(), evolve(LIMITS, pending_timeout=0)) == Wait(look_again_in=10)


# --- events of others ---------------------------------------------------------------------------------------


def test_an_event_of_an_earlier_pod_of_its_name_is_nothing():
    """Regression (8.1, 10): an hour-old FailedScheduling of another pod of the same name ended the new one."""
    now = evolve(LIMITS, pending_timeout=0)
    for told in (
        event("FailedScheduling", UNSCHEDULABLE, uid="the earlier pod's", when=-3600),
        event("FailedScheduling", UNSCHEDULABLE, uid="the earlier pod's", when=5),
        event("FailedScheduling", UNSCHEDULABLE, uid="", when=5),
        event("FailedScheduling", UNSCHEDULABLE, when=-3600, firstTimestamp=None),
    ):
        assert judge(NEW, events(told), Waited(), now) == Wait(look_again_in=10)
    assert isinstance(judge(NEW, events(event("FailedScheduling", UNSCHEDULABLE, when=-20)), Waited(), now), Fail), (
        "clocks differ"
    )


# --- what is never given up ---------------------------------------------------------------------------------

BROKEN_SIDECAR = container("proxy", waiting("InvalidImageName", "no"))
LEFT_ALONE = {
    "running": facts(running()),
    "running beside a sidecar that cannot": facts(running(), others=[BROKEN_SIDECAR]),
    "running though its phase is Pending": facts(running(), phase="Pending", others=[BROKEN_SIDECAR]),
    "phase Unknown": facts(running(), phase="Unknown"),
    "phase Unknown, not started": facts(waiting("InvalidImageName"), phase="Unknown"),
    "ended": facts(terminated(1), others=[BROKEN_SIDECAR]),
    "over": facts(phase="Failed", reason="Evicted"),
    "being deleted": facts(waiting("InvalidImageName"), phase="Pending", metadata=deleted(5)),
}


@pytest.mark.parametrize("seen", LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_nothing_but_a_pod_that_waits_is_given_up(seen):
    """Whatever events and clocks say."""
    told = events(event("FailedScheduling", UNSCHEDULABLE), event("FailedMount", "no", container="job"))
    zero = Limits(pending_timeout=0, start_timeout=0, gated_timeout=0)
    assert judge(seen, told, Waited(unscheduled=1e9, scheduled=1e9, gated=1e9), zero) == Wait()


def test_limits_are_the_pods_own():
    """A driver that takes a pod over judges it by what it was created with; nonsense is as good as nothing."""
    told = pod(phase="Pending", node=None)
    told["metadata"]["annotations"] |= {
        layout.PENDING_TIMEOUT: "12.5",
        layout.START_TIMEOUT: "null",
        layout.GATED_TIMEOUT: "60",
    }
    assert Limits.of_pod(read_pod(told)) == Limits(pending_timeout=12.5, start_timeout=None, gated_timeout=60)
    for nonsense in ("", "soon", "true", "[1]", '"5"'):
        told["metadata"]["annotations"] |= {layout.PENDING_TIMEOUT: nonsense}
        assert Limits.of_pod(read_pod(told)).pending_timeout is None
    del told["metadata"]["annotations"]
    assert Limits.of_pod(read_pod(told)) == Limits(pending_timeout=None, start_timeout=None, gated_timeout=None)


# --- properties ---------------------------------------------------------------------------------------------

TOLD = [event("FailedScheduling", text, when=when) for when, (text, _, _) in enumerate(VERDICTS.values(), 2)] + [
    event(why, text, when=when) for when in (10, 40) for why, text, _ in SETBACKS.values()
]
TOLD += [event("Pulling", "Pulling", type="Normal", when=40, count=2, container="job"), *(each for each, _ in SCALERS)]
TOLD += [{**each, "count": 5} for each in TOLD[:4]]
SOME = st.lists(st.sampled_from(TOLD), max_size=12)
SEEN = st.sampled_from(
    [NEW, STARTING, *LEFT_ALONE.values(), read_pod(unscheduled()), read_pod(gated("g"))]
    + [facts(waiting(why, text), phase="Pending") for why, text, _ in (*FATAL.values(), *PASSING.values())]
    + [facts(waiting("ErrImagePull", "not found"), phase="Pending")]
)
SECONDS = st.floats(0, 1000)
WAITED = st.builds(Waited, unscheduled=SECONDS, scheduled=SECONDS, gated=SECONDS)
ANY_LIMITS = st.builds(
    Limits, pending_timeout=st.none() | SECONDS, start_timeout=st.none() | SECONDS, gated_timeout=st.none() | SECONDS
)


@given(seen=SEEN, told=SOME, waited=WAITED, limits=ANY_LIMITS, data=st.data())
def test_the_order_of_events_decides_nothing(seen, told, waited, limits, data):
    """Events come late, twice and in any order: the decision is the same."""
    shuffled = data.draw(st.permutations(told + told[:3]))
    assert judge(seen, events(*told), waited, limits) == judge(seen, events(*shuffled), waited, limits)


@given(seen=SEEN, told=SOME, waited=WAITED, limits=ANY_LIMITS)
def test_only_what_is_pending_fails_and_waiting_longer_saves_nothing(seen, told, waited, limits):
    """A failure stays one; after ``look_again_in`` seconds there is something new to say or to decide."""
    answer = judge(seen, events(*told), waited, limits)
    if isinstance(answer, Fail):
        assert status_of(seen).state.value == "PENDING" and answer.message
    later = 0.0 if isinstance(answer, Fail) else answer.look_again_in
    if later is not None:
        waited = Waited(
            unscheduled=waited.unscheduled + later, scheduled=waited.scheduled + later, gated=waited.gated + later
        )
        after = judge(seen, events(*told), evolve(waited, **{k: v + 1e-6 for k, v in vars_of(waited).items()}), limits)
        assert isinstance(after, Fail) or (isinstance(answer, Wait) and after != answer)


def vars_of(waited):
    return {name: getattr(waited, name) for name in ("unscheduled", "scheduled", "gated")}
