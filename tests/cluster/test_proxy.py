"""The proxy does to connections what tests of the Kubernetes backend say, and else nothing."""

import contextlib
import http.client
import json
import math
import threading
import urllib.parse

import pytest

from ..machine.common import wait_until
from .api import Api, ApiError
from .proxy import GONE_EVENT, Answer, Drop, Hold


@pytest.fixture
def proxied(api_proxy):
    """The administrator's API through the proxy."""
    api = Api(api_proxy.kubeconfig)
    yield api
    api.close()


class Watch:
    """A watch of a namespace's secrets, as raw events."""

    def __init__(self, api, namespace):
        address = urllib.parse.urlsplit(api.server)
        self.connection = http.client.HTTPSConnection(address.hostname, address.port, context=api.tls, timeout=60)
        self.connection.request("GET", f"{namespace.path}/secrets?watch=true", headers=api.headers)
        self.response = self.connection.getresponse()

    def event(self):
        """Return the type and the name of the next event; None at the end."""
        line = self.response.readline()
        event = json.loads(line) if line else None
        return event and (event["type"], event["object"].get("metadata", {}).get("name"))

    def close(self):
        self.response.close()
        self.connection.close()


@pytest.fixture
def watch(proxied, namespace):
    with contextlib.closing(Watch(proxied, namespace)) as watch:
        yield watch


def create(api, namespace, name):
    api.create(f"{namespace.path}/secrets", {"metadata": {"name": name}})


def test_requests_pass_and_are_counted(api_proxy, proxied, namespace):
    """Reads, writes and logs are what they are without it."""
    create(proxied, namespace, "one")
    assert namespace.names("secrets") == ["one"]
    namespace.run("writes", "seq", "100000", "110000")
    namespace.wait_for_phase("writes")
    log = proxied.text(f"{namespace.path}/pods/writes/log")
    assert log == namespace.log("writes")
    assert len(log) == 70007
    assert api_proxy.counts["POST", f"{namespace.path}/secrets"] == 1


def test_users_of_the_proxy_keep_their_rights(api_proxy, namespace):
    """Any kubeconfig of the cluster can be led through it."""
    rule = {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}
    with contextlib.closing(Api(api_proxy.before(namespace.user("reader", [rule])))) as user:
        assert user.get(f"{namespace.path}/pods")["items"] == []
        with pytest.raises(ApiError, match="secrets is forbidden"):
            user.get(f"{namespace.path}/secrets")


@pytest.mark.parametrize("status", [410, 429, 500])
def test_it_answers_in_the_servers_place(api_proxy, proxied, namespace, status):
    """So many requests are refused, and do not get through."""
    answer = Answer(status=status, headers={"Retry-After": "1"})
    fault = api_proxy.fault(answer, r"/secrets$", method="POST", times=2)
    for _ in range(2):
        with pytest.raises(ApiError) as refused:
            create(proxied, namespace, "one")
        assert refused.value.status == status
    assert (fault.seen, namespace.names("secrets")) == (2, [])
    create(proxied, namespace, "one")


@pytest.mark.parametrize(("action", "left"), [(Drop(before=True), []), (Drop(), ["one"]), (Drop(passed=5), ["one"])])
def test_a_lost_answer_is_no_lost_request(api_proxy, proxied, namespace, action, left):
    """A connection is cut before a request gets through, or after it, when nobody knows."""
    # The first on its connection: on an older one, tests' own client would ask again.
    api_proxy.fault(action, r"/secrets$", method="POST")
    with pytest.raises(OSError):
        create(proxied, namespace, "one")
    assert namespace.names("secrets") == left


def test_a_request_can_be_held(api_proxy, proxied, namespace):
    """It goes on when it may, and others meanwhile."""
    released = threading.Event()
    fault = api_proxy.fault(Hold(released=released), r"/secrets$", method="POST")
    thread = threading.Thread(target=create, args=(proxied, namespace, "late"))
    thread.start()
    wait_until(lambda: fault.seen == 1, lambda: "no request")
    create(proxied, namespace, "early")
    assert namespace.names("secrets") == ["early"]
    released.set()
    thread.join()
    assert namespace.names("secrets") == ["early", "late"]


def test_a_watch_passes_its_events_as_they_come(namespace, watch):
    """Nothing is held back."""
    for name in ("one", "two"):
        create(namespace.api, namespace, name)
        assert watch.event() == ("ADDED", name)


def test_a_watch_can_be_silent(api_proxy, namespace, watch):
    """Its connection stands, and nothing comes, until it may."""
    create(namespace.api, namespace, "one")
    assert watch.event() == ("ADDED", "one")
    api_proxy.silence("watch=true")
    create(namespace.api, namespace, "two")
    watch.connection.sock.settimeout(1)
    with pytest.raises(TimeoutError):
        watch.response.fp.raw._sock.recv(1)
    assert api_proxy.open_requests("watch=true") == 1


def test_a_watch_can_be_cut(api_proxy, namespace, watch):
    """Others go on."""
    assert api_proxy.cut("watch=true") == 1
    with contextlib.suppress(OSError):
        assert watch.event() is None
    wait_until(lambda: api_proxy.open_requests("watch=true") == 0, lambda: "it is still open")


def test_a_watch_can_be_too_old(api_proxy, proxied, namespace):
    """It ends with the event by which the API server says so."""
    answer = Answer(status=200, body=GONE_EVENT)
    api_proxy.fault(answer, "watch=true", times=math.inf)
    with contextlib.closing(Watch(proxied, namespace)) as watch:
        assert watch.event() == ("ERROR", None)
        assert watch.event() is None


def test_a_client_that_leaves_takes_its_request_along(api_proxy, proxied, namespace):
    """No watch stays open at the API server for nobody."""
    with contextlib.closing(Watch(proxied, namespace)):
        assert api_proxy.open_requests("watch=true") == 1
    wait_until(lambda: api_proxy.open_requests("watch=true") == 0, lambda: "it is still open")


def test_an_outage_ends(api_proxy, proxied, namespace, watch):
    """Nothing gets through meanwhile, and all does afterwards."""
    with api_proxy.outage(), pytest.raises(OSError):
        create(proxied, namespace, "one")
    assert namespace.names("secrets") == []
    create(proxied, namespace, "one")


def test_an_exec_passes_both_ways(api_proxy, cluster, namespace):
    """A connection that becomes another protocol's is passed on as it is."""
    namespace.run("echoes", "sleep", "1000")
    namespace.wait_for_phase("echoes", "Running")
    command = ["exec", "--namespace", namespace.name, "echoes", "-i", "--", "cat"]
    text = "".join(f"{number}\n" for number in range(50000))
    assert cluster.kubectl("--kubeconfig", str(api_proxy.kubeconfig), *command, stdin=text) == text
    wait_until(lambda: api_proxy.open_requests() == 0, lambda: "a connection stays open")
