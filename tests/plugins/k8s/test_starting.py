"""Pods that have a node and do not start: what fails at once, and what is waited for until start_timeout."""

# ruff: noqa: E501  (kubelets and runtimes write long lines)

import pytest
from attrs import evolve

from siteward import Reason
from siteward_k8s import layout
from siteward_k8s.clocks import Waited
from siteward_k8s.diagnose import status_of
from siteward_k8s.pending import Fail, Limits, Wait, judge

from .pods import UNSCHEDULABLE, container, event, events, facts, running, terminated, waiting

LIMITS = Limits(pending_timeout=300, start_timeout=600, gated_timeout=None)
STARTING = facts(waiting(), phase="Pending")

CONFIG = "CreateContainerConfigError"
FATAL = {
    "no Secret": (CONFIG, 'secret "study-db" not found', "ConfigError"),
    "no key of a Secret": (CONFIG, "couldn't find key password in Secret flare/study-db", "ConfigError"),
    "no Secret, asked directly": (CONFIG, 'secrets "study-db" not found', "ConfigError"),
    "no key named like a delay": (CONFIG, "couldn't find key timeout in Secret flare/etcd", "ConfigError"),
    "no ConfigMap": (CONFIG, 'configmap "settings" not found', "ConfigError"),
    "no key of a ConfigMap": (CONFIG, "couldn't find key url in ConfigMap flare/settings", "ConfigError"),
    "image runs as root": (
        CONFIG,
        'container has runAsNonRoot and image will run as root (pod: "p_flare(0b)", container: job)',
        "ConfigError",
    ),
    "image's user has a name": (
        CONFIG,
        "container has runAsNonRoot and image has non-numeric user (app), cannot verify user is non-root",
        "ConfigError",
    ),
    "CRI-O: no command": (
        "CreateContainerError",
        "container create failed: executable file `timeout` not found in $PATH: No such file or directory",
        "LaunchFailed",
    ),
    "no command": ("CreateContainerError", "no command specified", "LaunchFailed"),
    "run": (
        "RunContainerError",
        'failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: exec: "nope": executable file not found in $PATH: unknown',
        "LaunchFailed",
    ),
}


@pytest.mark.parametrize("where", ["main", "init", "sidecar"])
@pytest.mark.parametrize(("why", "text", "reason"), FATAL.values(), ids=FATAL)
def test_what_cannot_mend_fails_at_once(why, text, reason, where):
    """In whichever container it is; the words name one that is not the job's."""
    broken = container("aside", waiting(why, text))
    if where == "main":
        seen = facts(waiting(why, text), phase="Pending")
    elif where == "init":
        seen = facts(waiting("PodInitializing"), phase="Pending", inits=[broken])
    else:
        seen = facts(waiting(), phase="Pending", others=[broken])
    answer = judge(seen, [], Waited(), LIMITS)
    assert isinstance(answer, Fail) and answer.reason.value == reason
    assert ("'aside'" in answer.message) is (where != "main")
    assert "rpc error" not in answer.message and "runc" not in answer.message


PASSING = {
    "secret cache": (CONFIG, "failed to sync secret cache: timed out waiting for the condition", "ConfigError"),
    "services": (CONFIG, "services have not yet been read at least once, cannot construct envvars", "ConfigError"),
    "subPath": (
        CONFIG,
        'failed to create subPath directory for volumeMount "siteward-job" of container "job"',
        "ConfigError",
    ),
    "something new": (CONFIG, "nobody has seen this before", "ConfigError"),
    "slow runtime": ("CreateContainerError", "context deadline exceeded", "LaunchFailed"),
    "name taken": (
        "CreateContainerError",
        'failed to reserve container name "job_p_flare_0b_0": name "job_p_flare_0b_0" is reserved for "2b"',
        "LaunchFailed",
    ),
    "full disk": ("RunContainerError", "failed to mount rootfs: no space left on device", "LaunchFailed"),
    "unknown reason": ("KubeletFeltLikeIt", "", "LaunchFailed"),
}


@pytest.mark.parametrize(("why", "text", "reason"), PASSING.values(), ids=PASSING)
def test_what_may_pass_is_waited_for_until_start_timeout(why, text, reason):
    """A kubelet tries these again by itself."""
    seen = facts(waiting(why, text), phase="Pending")
    answer = judge(seen, [], Waited(unscheduled=1e6, scheduled=590), LIMITS)
    assert isinstance(answer, Wait) and answer.look_again_in == 10 and answer.message
    assert judge(seen, [], Waited(scheduled=600), LIMITS).reason.value == reason
    assert isinstance(judge(seen, [], Waited(scheduled=1e9), evolve(LIMITS, start_timeout=None)), Wait)


SETBACKS = {
    "secret cache": (
        "FailedMount",
        'MountVolume.SetUp failed for volume "kube-api-access-x7" : failed to sync secret cache: timed out waiting for the condition',
        "LaunchFailed",
    ),
    "no Secret": (
        "FailedMount",
        'MountVolume.SetUp failed for volume "certs" : secret "study-certs" not found',
        "ConfigError",
    ),
    "no key": (
        "FailedMount",
        'MountVolume.SetUp failed for volume "certs" : references non-existent secret key: ca.pem',
        "ConfigError",
    ),
    "no folder": (
        "FailedMount",
        'MountVolume.SetUp failed for volume "data" : hostPath type check failed: /data/mri is not a directory',
        "ConfigError",
    ),
    "NFS": (
        "FailedMount",
        "Unable to attach or mount volumes: unmounted volumes=[data], unattached volumes=[], failed to process volumes=[]: timed out waiting for the condition",
        "LaunchFailed",
    ),
    "attached elsewhere": (
        "FailedAttachVolume",
        'Multi-Attach error for volume "pvc-7f" Volume is already exclusively attached to one node and can\'t be attached to another',
        "LaunchFailed",
    ),
    "network": (
        "NetworkNotReady",
        "network is not ready: container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: cni plugin not initialized",
        "LaunchFailed",
    ),
    "sandbox": (
        "FailedCreatePodSandBox",
        'Failed to create pod sandbox: rpc error: code = Unknown desc = failed to setup network for sandbox "2b": plugin type="calico" failed (add): error getting ClusterInformation: connection is unauthorized',
        "LaunchFailed",
    ),
}


@pytest.mark.parametrize(("why", "text", "reason"), SETBACKS.values(), ids=SETBACKS)
def test_a_setback_is_waited_for_until_start_timeout(why, text, reason):
    """Regression (8.1, 8): FailedMount, NetworkNotReady and the like ended pods that would have started."""
    told = events(
        event("Scheduled", "Successfully assigned flare/p to gpu-1", type="Normal", when=10), event(why, text, when=10)
    )
    for order in (told, told[::-1]):
        answer = judge(STARTING, order, Waited(scheduled=1), LIMITS)
        assert isinstance(answer, Wait) and answer.look_again_in == 599 and answer.message
        assert judge(STARTING, order, Waited(scheduled=600), LIMITS).reason.value == reason


def test_a_setback_that_a_later_step_followed_is_overcome():
    """What is told is what holds now; warnings about something else do not count at all."""
    mount, sandbox = (
        event("FailedMount", "timed out waiting", when=20),
        event("FailedCreatePodSandBox", "no network", when=25),
    )
    pulling = event("Pulling", 'Pulling image "x"', type="Normal", when=40, container="job")
    noise = [
        event("DNSConfigForming", "Nameserver limits were exceeded", when=50),
        event("FailedScheduling", UNSCHEDULABLE, when=2),
    ]
    answer = judge(STARTING, events(mount, sandbox, pulling, *noise), Waited(scheduled=60), LIMITS)
    assert answer == Wait(message='pulling image "x"', look_again_in=540)
    assert judge(STARTING, events(*noise), Waited(scheduled=5), LIMITS) == Wait(look_again_in=5)


def test_a_plain_start_says_nothing_for_a_while():
    """A message costs whoever stores it a write; a start that drags on is explained."""
    assert judge(STARTING, [], Waited(), LIMITS) == Wait(look_again_in=10)
    assert judge(STARTING, [], Waited(scheduled=12), LIMITS) == Wait(
        message="it is being started on node gpu-1", look_again_in=588
    )
    answer = judge(STARTING, [], Waited(scheduled=600), LIMITS)
    assert answer.reason is Reason.LAUNCH_FAILED and "600 s (start_timeout)" in answer.message


def test_an_init_container_that_runs_is_told_of_and_limited():
    """One of the template's counts as starting."""
    seen = facts(waiting("PodInitializing"), phase="Pending", inits=[container("fetch", running())])
    assert "'fetch'" in judge(seen, [], Waited(scheduled=100), LIMITS).message
    assert judge(seen, [], Waited(scheduled=600), LIMITS).reason is Reason.LAUNCH_FAILED


def test_an_image_without_a_shell_is_told_what_it_lacks():
    """Whoever chose it never asked for a shell; the way out is the site's helper image."""
    words = 'exec: "sh": executable file not found in $PATH'
    stage = container(layout.STAGE, terminated(128, "StartError", message=words))
    seen = facts(waiting("PodInitializing"), phase="Failed", inits=[stage])
    result = status_of(seen).result
    assert result.reason is Reason.LAUNCH_FAILED and words in result.message and "helper_image" in result.message


def test_bringing_the_job_directory_is_no_waiting_of_the_pods():
    """It takes as long as it takes; whoever brings it ends it."""
    seen = facts(waiting("PodInitializing"), phase="Pending", inits=[container(layout.STAGE, running())])
    assert judge(seen, [], Waited(scheduled=1e6), LIMITS) == Wait()


def test_one_container_that_cannot_start_is_enough():
    """However well another may do in the end."""
    hopeless = container("proxy", waiting("InvalidImageName", "no"))
    seen = facts(waiting("CreateContainerError", "context deadline exceeded"), phase="Pending", others=[hopeless])
    answer = judge(seen, [], Waited(), LIMITS)
    assert isinstance(answer, Fail) and answer.reason is Reason.IMAGE_ERROR
