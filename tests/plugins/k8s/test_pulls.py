"""Images that cannot be pulled: for good after two attempts, or until start_timeout."""

# ruff: noqa: E501  (registries and runtimes write long lines)

import pytest

from siteward import Reason
from siteward_k8s import layout
from siteward_k8s.clocks import Waited
from siteward_k8s.pending import Fail, Limits, Wait, judge

from .pods import IMAGE, container, event, events, facts, waiting

LIMITS = Limits(pending_timeout=300, start_timeout=600, gated_timeout=None)

FOR_GOOD = {
    "docker.io, containerd: no such repository": (
        "library/nope:1",
        'rpc error: code = Unknown desc = failed to pull and unpack image "docker.io/library/nope:1": failed to resolve '
        'reference "docker.io/library/nope:1": pull access denied, repository does not exist or may require authorization: '
        "server message: insufficient_scope: authorization failed",
    ),
    "docker.io, containerd: no such tag": (
        "busybox:nope",
        'rpc error: code = NotFound desc = failed to pull and unpack image "docker.io/library/busybox:nope": failed to '
        'resolve reference "docker.io/library/busybox:nope": docker.io/library/busybox:nope: not found',
    ),
    "docker.io, CRI-O: no such tag": (
        "docker.io/library/busybox:nope",
        "initializing source docker://busybox:nope: reading manifest nope in docker.io/library/busybox: manifest unknown",
    ),
    "docker.io, CRI-O: denied": (
        "docker.io/acme/private:1",
        "initializing source docker://acme/private:1: reading manifest 1 in docker.io/acme/private: requested access to the "
        "resource is denied",
    ),
    "ghcr: private, anonymous": (
        "ghcr.io/acme/private:1",
        'failed to pull and unpack image "ghcr.io/acme/private:1": failed to resolve reference "ghcr.io/acme/private:1": '
        "failed to authorize: failed to fetch anonymous token: unexpected status from GET request to "
        "https://ghcr.io/token?scope=repository%3Aacme%2Fprivate%3Apull&service=ghcr.io: 401 Unauthorized",
    ),
    "ghcr: token without the right": (
        "ghcr.io/acme/private:1",
        'failed to resolve reference "ghcr.io/acme/private:1": unexpected status from HEAD request to '
        "https://ghcr.io/v2/acme/private/manifests/1: 403 Forbidden",
    ),
    "quay: private": (
        "quay.io/acme/private:1",
        "rpc error: code = Unknown desc = unable to retrieve auth token: invalid username/password: unauthorized: Could not "
        "find robot with specified username",
    ),
    "quay, CRI-O": (
        "quay.io/acme/private:1",
        "initializing source docker://quay.io/acme/private:1: reading manifest 1 in quay.io/acme/private: unauthorized: "
        "access to the requested resource is not authorized",
    ),
    "ECR: no credentials": (
        "123456789012.dkr.ecr.eu-west-1.amazonaws.com/fl:500",
        'failed to resolve reference "123456789012.dkr.ecr.eu-west-1.amazonaws.com/fl:500": pull access denied, repository '
        "does not exist or may require authorization: authorization failed: no basic auth credentials",
    ),
    "ECR: no such repository": (
        "123456789012.dkr.ecr.eu-west-1.amazonaws.com/fl:1",
        "reading manifest 1 in 123456789012.dkr.ecr.eu-west-1.amazonaws.com/fl: name unknown: The repository with name 'fl' "
        "does not exist in the registry with id '123456789012'",
    ),
    "Artifact Registry: denied": (
        "europe-docker.pkg.dev/acme/fl/fl:1",
        'failed to authorize: failed to fetch oauth token: denied: Permission "artifactregistry.repositories.download'
        'Artifacts" denied on resource "projects/acme/locations/europe/repositories/fl" (or it may not exist)',
    ),
    "wrong architecture": (
        "ghcr.io/acme/amd64-only:1",
        'rpc error: code = NotFound desc = failed to pull and unpack image "ghcr.io/acme/amd64-only:1": no match for platform '
        "in manifest: not found",
    ),
    "wrong architecture, CRI-O": (
        "ghcr.io/acme/amd64-only:1",
        'choosing image instance: no image found in manifest list for architecture "arm64", variant "v8", OS "linux"',
    ),
    "CRI-O: a short name": (
        "nope",
        'short-name "nope:latest" did not resolve to an alias and no unqualified-search registries are defined in '
        '"/etc/containers/registries.conf"',
    ),
    "Docker": ("nope:1", "Error response from daemon: manifest for nope:1 not found: manifest unknown"),
    "a name of words that pass": (
        "reg.example/timeout-503:eof",
        'failed to resolve reference "reg.example/timeout-503:eof": reg.example/timeout-503:eof: not found',
    ),
}
MAY_PASS = {
    "docker.io: rate limit": (
        "busybox",
        'failed to resolve reference "docker.io/library/busybox:latest": unexpected status from HEAD request to https://'
        "registry-1.docker.io/v2/library/busybox/manifests/latest: 429 Too Many Requests\ntoomanyrequests: You have reached "
        "your unauthenticated pull rate limit. https://www.docker.com/increase-rate-limit",
    ),
    "ECR: throttled": (IMAGE, "toomanyrequests: Rate exceeded, access denied for now"),
    "kubelet: QPS": (IMAGE, "pull QPS exceeded"),
    "no DNS": (
        "reg.local:5000/fl:1",
        'failed to do request: Head "https://reg.local:5000/v2/fl/manifests/1": dial tcp: lookup reg.local on 10.96.0.10:53: '
        "no such host",
    ),
    "CRI-O: no DNS": (
        "reg.local:5000/fl:1",
        'pinging container registry reg.local:5000: Get "https://reg.local:5000/v2/": dial tcp: lookup reg.local: server '
        "misbehaving",
    ),
    "refused": (
        IMAGE,
        'Head "https://10.0.0.7:5000/v2/fl/manifests/1": dial tcp 10.0.0.7:5000: connect: connection refused',
    ),
    "timeout": (IMAGE, "dial tcp 140.82.121.33:443: i/o timeout"),
    "deadline": (IMAGE, "rpc error: code = DeadlineExceeded desc = context deadline exceeded"),
    "handshake": (IMAGE, "net/http: TLS handshake timeout"),
    "cut off": (IMAGE, "failed to copy: httpReadSeeker: failed open: unexpected EOF"),
    "5xx": (IMAGE, "unexpected status from HEAD request to https://ghcr.io/v2/x/manifests/1: 503 Service Unavailable"),
    "5xx, CRI-O": (
        IMAGE,
        "reading manifest 2.1 in ghcr.io/hospital/fedavg: received unexpected HTTP status: 502 Bad Gateway",
    ),
    "own CA": (IMAGE, "tls: failed to verify certificate: x509: certificate signed by unknown authority"),
    "full disk": (IMAGE, "failed to extract layer sha256:1f: write /var/lib/containerd/x: no space left on device"),
    "who knows": (IMAGE, "the registry said something new"),
}


def attempts(image, text, tries, reason="ErrImagePull", new_kubelet=True):
    """A pod whose image was tried so often, and its events. An old kubelet says why in the event alone."""
    message = f'Back-off pulling image "{image}"' if reason == "ImagePullBackOff" else text
    if reason == "ImagePullBackOff" and new_kubelet:
        message += f": ErrImagePull: {text}"
    pod = facts(phase="Pending", containerStatuses=[container("job", waiting(reason, message), image=image)])
    told = [
        event("Scheduled", "Successfully assigned flare/x to gpu-1", type="Normal", when=1),
        event("Pulling", f'Pulling image "{image}"', type="Normal", when=12, count=tries, container="job"),
        event("Failed", f'Failed to pull image "{image}": {text}', when=13, count=tries, container="job"),
        event("Failed", "Error: ErrImagePull", when=13, count=tries, container="job"),
        event("BackOff", f'Back-off pulling image "{image}"', type="Normal", when=14, count=3 * tries, container="job"),
    ]
    return pod, events(*told)


@pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff"])
@pytest.mark.parametrize(("image", "text"), FOR_GOOD.values(), ids=FOR_GOOD)
def test_an_image_that_is_not_there_fails_at_the_second_attempt(image, text, reason):
    """What a registry says once may be a slip; twice it means it."""
    for new_kubelet in (True, False):
        first = judge(*attempts(image, text, 1, reason, new_kubelet), Waited(scheduled=15), LIMITS)
        assert isinstance(first, Wait) and image in first.message
        second = judge(*attempts(image, text, 2, reason, new_kubelet), Waited(scheduled=30), LIMITS)
        assert isinstance(second, Fail) and second.reason is Reason.IMAGE_ERROR
        assert image in second.message and "image_pull_secrets" in second.message
        assert "rpc error" not in second.message and "\n" not in second.message


@pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff"])
@pytest.mark.parametrize(("image", "text"), MAY_PASS.values(), ids=MAY_PASS)
def test_a_registry_out_of_reach_is_waited_for_until_start_timeout(image, text, reason):
    """However often it was tried; then it is an ImageError all the same."""
    for new_kubelet in (True, False):
        pod, told = attempts(image, text, 9, reason, new_kubelet)
        answer = judge(pod, told, Waited(scheduled=599), LIMITS)
        assert isinstance(answer, Wait) and answer.look_again_in == 1 and image in answer.message
        answer = judge(pod, told, Waited(scheduled=600), LIMITS)
        assert isinstance(answer, Fail) and answer.reason is Reason.IMAGE_ERROR and "600 s" in answer.message
        assert isinstance(
            judge(pod, told, Waited(scheduled=1e6), Limits(**{**vars_of(LIMITS), "start_timeout": None})), Wait
        )


def vars_of(limits):
    return {name: getattr(limits, name) for name in ("pending_timeout", "start_timeout", "gated_timeout")}


def test_attempts_are_counted_from_either_event():
    """Events are dropped and merged: the begun attempts count, or the failed ones; not both, nor another pod's."""
    image, text = FOR_GOOD["docker.io, containerd: no such tag"]
    pod, told = attempts(image, text, 2)
    begun = [each for each in told if each.reason != "Failed"]
    assert isinstance(judge(pod, begun, Waited(), LIMITS), Fail)
    failed = [each for each in told if each.reason != "Pulling"]
    assert isinstance(judge(pod, failed, Waited(), LIMITS), Fail)
    pod, told = attempts(image, text, 1)
    assert isinstance(judge(pod, told + told, Waited(), LIMITS), Wait)
    others = events(event("Pulling", f'Pulling image "{image}"', count=9, container="job", uid="another"))
    assert isinstance(judge(pod, told + others, Waited(), LIMITS), Wait)


def test_an_attempt_told_of_again_counts_once():
    """The same event comes again with a higher count, in whatever order."""
    image, text = FOR_GOOD["docker.io, containerd: no such tag"]
    pod, _ = attempts(image, text, 1)
    first = event("Failed", f'Failed to pull image "{image}": {text}', container="job", key="e1")
    again = {**first, "count": 2}
    assert isinstance(judge(pod, events(first, first), Waited(), LIMITS), Wait)
    assert isinstance(judge(pod, events(first, again), Waited(), LIMITS), Fail)
    assert isinstance(judge(pod, events(again, first), Waited(), LIMITS), Fail)


def test_without_events_a_minute_is_two_attempts():
    """A site may not let us read events; the container's own words have to do."""
    pod, _ = attempts(*FOR_GOOD["docker.io, containerd: no such tag"], 2, "ImagePullBackOff")
    answer = judge(pod, [], Waited(scheduled=20), LIMITS)
    assert isinstance(answer, Wait) and answer.look_again_in == 40
    assert isinstance(judge(pod, [], Waited(scheduled=60), LIMITS), Fail)


def test_a_missing_pull_secret_is_named():
    """The kubelet goes on as nobody without it, and says so in an event of its own."""
    pod, told = attempts(*FOR_GOOD["ghcr: private, anonymous"], 2)
    words = "Unable to retrieve some image pull secrets (regcred); attempting to pull the image may not succeed."
    told += events(event("FailedToRetrieveImagePullSecret", words, when=12))
    assert "(regcred)" in judge(pod, told, Waited(), LIMITS).message


@pytest.mark.parametrize("where", ["inits", "others"])
def test_every_container_needs_its_image(where):
    """An init container or a sidecar of the template whose image is not there keeps the job from starting as well."""
    name = "fetch" if where == "inits" else "proxy"
    image, text = FOR_GOOD["quay, CRI-O"]
    broken = container(name, waiting("ErrImagePull", text), image=image)
    main = waiting("PodInitializing" if where == "inits" else "ContainerCreating")
    pod = facts(main, phase="Pending", **{where: [broken]})
    told = events(event("Failed", f'Failed to pull image "{image}": {text}', count=2, container=name))
    answer = judge(pod, told, Waited(scheduled=40), LIMITS)
    assert isinstance(answer, Fail) and answer.reason is Reason.IMAGE_ERROR
    assert repr(name) in answer.message and image in answer.message


NEVER = {
    "InvalidImageName": 'Failed to apply default image tag "Not/Valid": couldn\'t parse image name "Not/Valid": invalid '
    "reference format: repository name must be lowercase",
    "ErrImageNeverPull": f'Container image "{IMAGE}" is not present with pull policy of Never',
    "SignatureValidationFailed": "image pull failed for ghcr.io because the signature validation failed: denied",
}


@pytest.mark.parametrize(("reason", "text"), NEVER.items(), ids=NEVER)
def test_what_no_attempt_can_mend_fails_at_once(reason, text):
    """Neither a wrong name nor a policy gets better by waiting."""
    answer = judge(facts(waiting(reason, text), phase="Pending"), [], Waited(), LIMITS)
    assert isinstance(answer, Fail) and answer.reason is Reason.IMAGE_ERROR and IMAGE in answer.message


def test_pulling_for_too_long_is_an_image_error():
    """An image that is still being pulled at start_timeout is why the job has not started."""
    pod = facts(waiting(), phase="Pending", inits=[container(layout.STAGE, waiting("PodInitializing"))])
    told = events(event("Pulling", f'Pulling image "{IMAGE}"', type="Normal", container="job"))
    assert judge(pod, told, Waited(scheduled=20), LIMITS).message == f'pulling image "{IMAGE}"'
    answer = judge(pod, told, Waited(scheduled=600), LIMITS)
    assert isinstance(answer, Fail) and answer.reason is Reason.IMAGE_ERROR
