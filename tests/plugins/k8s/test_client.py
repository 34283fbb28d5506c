"""Asking an API server: what is tried again and what is not, what errors say, and whose credentials are used."""

import base64
import hashlib
import json
import logging
import re
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml

from siteward import BackendError, Unreachable
from siteward_k8s import transport
from siteward_k8s.check import check_cluster
from siteward_k8s.client import Cluster
from siteward_k8s.errors import (
    Closed,
    Conflict,
    Exists,
    Failing,
    Forbidden,
    Gone,
    Missing,
    NotSent,
    Refused,
    Throttled,
    Unauthorized,
    refusal,
)
from siteward_k8s.options import SiteOptions

from ...cluster.proxy import GONE_EVENT, Answer
from ..jobs import until
from .conftest import Where

TOKEN = "s3cr3t-token"
POD = {"metadata": {"name": "x"}}


class Server:
    """Answers each request with the next of ``answers``: (code, object, headers), or None to hang up."""

    def __init__(self):
        server = self
        self.answers, self.asked, self.tokens = [], [], []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do(self):
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                server.asked.append(self.command)
                server.tokens.append(self.headers.get("Authorization"))
                answer = server.answers.pop(0) if server.answers else (200, {})
                if answer is None:
                    self.close_connection = True
                    return
                code, found, *headers = answer
                body = found if isinstance(found, bytes) else json.dumps(found).encode()
                self.send_response(code)
                for name, value in {"Content-Length": str(len(body)), **(headers[0] if headers else {})}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_DELETE = do_PATCH = do_PUT = do  # noqa: N815

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture
def ask(server, tmp_path, monkeypatch):
    """A client of that server; it does not wait long between tries."""
    monkeypatch.setattr(transport, "_FIRST_PAUSE", 0.01)
    client = Cluster(
        Where(kubeconfig=str(kubeconfig(tmp_path / "kubeconfig", server.url))), tmp_path, logging.getLogger()
    )
    yield client
    client.close()


def kubeconfig(path, url, user=None, namespace="ns", **cluster):
    """Write a kubeconfig with the contexts ``one`` (the current one) and ``two``."""
    config = {
        "clusters": [{"name": "c", "cluster": {"server": url, **cluster}}],
        "users": [{"name": "u", "user": {"token": TOKEN} if user is None else user}],
        "contexts": [
            {"name": "one", "context": {"cluster": "c", "user": "u", "namespace": namespace}},
            {"name": "two", "context": {"cluster": "c", "user": "u"}},
        ],
    }
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "one", **config}))
    return path


def status(code, reason="", message="words", **details):
    return (code, {"kind": "Status", "code": code, "reason": reason, "message": message, "details": details})


# --- what is tried again ------------------------------------------------------------------------------------

BUSY = (429, {"message": "busy"}, {"Retry-After": "0"})
BROKEN = (503, {"message": "broken"})
GET, CREATE = (lambda client: client.get_pod("x")), (lambda client: client.create_pod(POD))


@pytest.mark.parametrize(
    ("act", "answers", "requests", "error"),
    [
        (GET, [BUSY, BUSY], 3, None),
        (CREATE, [BUSY, BUSY], 3, None),
        (GET, [BROKEN, BROKEN], 3, None),
        (CREATE, [BROKEN], 1, Failing),
        (CREATE, [BUSY] * 9, 5, Throttled),
        (GET, [BROKEN] * 9, 5, Failing),
        (GET, [None], 2, None),
        (GET, [None, None, None], 2, Unreachable),
        (CREATE, [None], 1, Unreachable),
        (GET, [status(404)], 1, Missing),
        (lambda client: client.delete_pod("x"), [BROKEN, status(404)], 2, Missing),
        (lambda client: client.patch_pod("x", {}), [BROKEN], 2, None),
        (GET, [(200, b'{"half": ')], 1, Unreachable),
        (CREATE, [(307, {}, {"Location": "/elsewhere"})], 1, Failing),
    ],
)
def test_only_what_does_no_harm_is_done_again(server, ask, act, answers, requests, error):
    """A create whose answer is lost is never repeated, and never called NotSent; one that was throttled is repeated."""
    server.answers = list(answers)
    if error is None:
        act(ask)
    else:
        with pytest.raises(error) as caught:
            act(ask)
        assert isinstance(caught.value, NotSent) == (error is Throttled)
    assert len(server.asked) == requests


def test_who_is_not_there_was_not_asked(server, ask):
    """Nothing was done where nobody listens; the words say where, and what to do."""
    server.close()
    with pytest.raises(NotSent, match=r"http://127\.0\.0\.1.*Connection refused.*Check"):
        ask.create_pod(POD)
    server._server = type("Closed", (), {"shutdown": lambda _: None, "server_close": lambda _: None})()


def test_a_throttled_request_waits_as_long_as_it_is_told(server, ask):
    """Retry-After counts; one that is longer than anybody wants to wait is told at once."""
    server.answers = [(429, {}, {"Retry-After": "3600"})]
    with pytest.raises(Throttled) as caught:
        ask.get_pod("x")
    assert caught.value.retry_after == 3600


# --- what errors say ----------------------------------------------------------------------------------------

ERRORS = [
    (404, "NotFound", 'pods "x" not found', Missing, "not found"),
    (404, "NotFound", 'namespaces "fl" not found', Missing, "Create the namespace"),
    (409, "AlreadyExists", 'pods "x" already exists', Exists, "already exists"),
    (409, "Conflict", "the object has been modified", Conflict, "modified"),
    (403, "Forbidden", 'User "u" cannot create resource "pods"', Forbidden, "Grant it in the Role"),
    (403, "Forbidden", 'pods "x" is forbidden: exceeded quota: q', Forbidden, "Ask for less"),
    (403, "Forbidden", 'violates PodSecurity "restricted"', Forbidden, "security contexts"),
    (403, "Forbidden", "namespace fl is being terminated", Forbidden, "another namespace"),
    (403, "Forbidden", 'User "system:anonymous" cannot get', Unauthorized, "Renew"),
    (401, "Unauthorized", "Unauthorized", Unauthorized, "Renew"),
    (410, "Expired", "too old resource version", Gone, "too old"),
    (422, "Invalid", 'Pod "x" is invalid', Refused, "is invalid"),
    (400, "BadRequest", "json: cannot unmarshal", Refused, "unmarshal"),
    (500, "InternalError", "failed calling webhook x: timeout", Refused, "webhook"),
    (500, "InternalError", "etcdserver: request timed out", Failing, "etcdserver"),
    (504, "Timeout", "", Failing, "504"),
]


@pytest.mark.parametrize(("code", "reason", "message", "kind", "words"), ERRORS)
def test_refusals_have_kinds_and_words(code, reason, message, kind, words):
    """Each code is an error of its own, in the API server's words, and ends with what to do."""
    error = refusal(code, {}, json.dumps({"reason": reason, "message": message}).encode(), "create the pod")
    assert type(error) is kind
    assert words in str(error) and "create the pod" in str(error)


def test_refusals_have_fields():
    """Programs find what is wrong with an object in the error's fields."""
    causes = [{"field": "spec.containers[0].image", "message": "Required value"}]
    _, body = status(422, "Invalid", "bad", causes=causes)
    error = refusal(422, {}, json.dumps(body).encode(), "create the pod")
    assert isinstance(error, Refused)
    assert (error.code, error.reason) == (422, "Invalid")
    assert error.field_errors == (("spec.containers[0].image", "Required value"),)


def test_a_proxys_page_is_no_status():
    """What is not the API's own answer is told as it is, and not at any length."""
    error = refusal(502, {"Retry-After": "7"}, b"<html>" + b"x" * 100_000, "list pods")
    assert isinstance(error, Failing) and error.retry_after == 7 and len(str(error)) < 3000


@pytest.mark.parametrize("answer", [(401, {"message": f"bad {TOKEN}"}), None, (200, b"{")])
def test_no_error_has_a_token_in_it(server, ask, answer):
    """Not in its words, nor in those of what caused it, unless the server itself says it."""
    server.answers = [answer] * 3
    with pytest.raises(BackendError) as caught:
        ask.get_pod("x")
    error = caught.value
    while error is not None:
        assert TOKEN not in f"{error!s} {error!r}"
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("token", [f"{TOKEN}\nX-Evil: 1", f"{TOKEN}\u2026"])
def test_a_token_that_is_none_is_not_repeated(server, tmp_path, token):
    """Its mistake is told without it."""
    path = kubeconfig(tmp_path / "kubeconfig", server.url, {"token": token})
    with pytest.raises(NotSent, match="token") as caught:
        Cluster(Where(kubeconfig=str(path)), tmp_path, logging.getLogger()).get_pod("x")
    assert TOKEN not in str(caught.value) and caught.value.__cause__ is None


# --- credentials --------------------------------------------------------------------------------------------


def test_a_token_that_was_changed_is_read_anew(server, tmp_path, monkeypatch):
    """A 401 leads to one look at the configuration and one more try."""
    monkeypatch.setattr(transport, "_NEW", 0.0)
    file = tmp_path / "token"
    file.write_text("old\n")
    path = kubeconfig(tmp_path / "kubeconfig", server.url, {"tokenFile": str(file)})
    client = Cluster(Where(kubeconfig=str(path)), tmp_path, logging.getLogger())
    client.get_pod("x")
    file.write_text("new\n")
    server.answers = [status(401)]
    client.get_pod("x")
    assert server.tokens == ["Bearer old", "Bearer old", "Bearer new"]
    server.answers = [status(401)] * 9
    with pytest.raises(Unauthorized):
        client.get_pod("x")
    assert len(server.tokens) == 5
    client.close()


def test_credentials_that_expire_at_the_last_try_are_told(server, ask, monkeypatch):
    """The answer is an error in words, whatever came before."""
    monkeypatch.setattr(transport, "_NEW", 0.0)
    server.answers = [BUSY] * 4 + [status(401)]
    with pytest.raises(Unauthorized):
        ask.get_pod("x")


def test_new_credentials_that_are_refused_are_not_read_again_and_again(server, ask):
    """A wrong token costs one request each time, and no plugin is run for each."""
    server.answers = [status(401)] * 9
    for _ in range(3):
        with pytest.raises(Unauthorized):
            ask.get_pod("x")
    assert len(server.asked) == 3


def test_a_credential_plugin_is_asked(server, tmp_path):
    """As kubectl asks it, and again when its token has expired."""
    script = tmp_path / "plugin"
    script.write_text(
        f"""#!{sys.executable}
import json, pathlib
calls = pathlib.Path({str(tmp_path / "calls")!r})
number = int(calls.read_text()) + 1 if calls.exists() else 1
calls.write_text(str(number))
token = {{"token": f"t{{number}}", "expirationTimestamp": "2020-01-01T00:00:00Z"}}
print(json.dumps({{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": token}}))
"""
    )
    script.chmod(0o755)
    plugin = {
        "exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(script), "interactiveMode": "Never"}
    }
    client = Cluster(
        Where(kubeconfig=str(kubeconfig(tmp_path / "kubeconfig", server.url, plugin))), tmp_path, logging.getLogger()
    )
    client.get_pod("x")
    assert server.tokens[0] in ("Bearer t1", "Bearer t2")
    client.close()


# --- where the cluster is -----------------------------------------------------------------------------------


def test_contexts_have_namespaces(server, tmp_path):
    """The site's own counts, then the context's, then ``default``."""
    path = str(kubeconfig(tmp_path / "kubeconfig", server.url))
    table = [((None, None), "ns"), (("two", None), "default"), (("one", "own"), "own")]
    for (context, namespace), expected in table:
        where = Where(kubeconfig=path, context=context, namespace=namespace)
        assert Cluster(where, tmp_path, logging.getLogger()).namespace == expected


def test_a_context_needs_no_current_one(server, tmp_path):
    """What the site file names is enough."""
    path = kubeconfig(tmp_path / "kubeconfig", server.url)
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "current-context"}))
    where = Where(kubeconfig=str(path), context="one", namespace=None)
    assert Cluster(where, tmp_path, logging.getLogger()).namespace == "ns"


def test_a_relative_kubeconfig_lies_beside_the_site_file(server, tmp_path):
    """And one in the home directory may be written so."""
    kubeconfig(tmp_path / "kubeconfig", server.url)
    assert Cluster(Where(kubeconfig="kubeconfig"), tmp_path, logging.getLogger()).address == server.url


def test_what_is_not_named_is_kubectls_own(server, tmp_path, monkeypatch):
    """KUBECONFIG; inside of a pod, without it, the pod's service account and not anybody's file."""
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "kubeconfig", server.url)))
    assert Cluster(Where(kubeconfig=None), tmp_path, logging.getLogger()).address == server.url
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    with pytest.raises(NotSent, match="service account"):
        _ = Cluster(Where(kubeconfig=None), tmp_path, logging.getLogger()).address
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(NotSent, match="neither the site file's `kubeconfig` nor KUBECONFIG names one"):
        _ = Cluster(Where(kubeconfig=None), tmp_path, logging.getLogger()).address


@pytest.mark.parametrize(
    ("text", "context", "words"),
    [
        (None, None, "there is no kubeconfig"),
        ("", None, "Invalid kube-config"),
        ("a: [", None, "not YAML, see line"),
        ("{}", None, "Invalid kube-config"),
        ("whole", "production", "has no context 'production'; it has: one, two. Set `context` in the site file"),
        ("whole", "twoo", "has no context 'twoo'; it has: one, two; did you mean 'two'\\? Set `context`"),
        ("current-context: ons", None, "has no context of the name of its current-context, 'ons'; it has: one, two"),
        ("current-context:", None, "has no current context; it has: one, two. Set `context`"),
        ("contexts: []", "one", "has no context 'one'; it has none. Set"),
    ],
)
def test_a_wrong_kubeconfig_is_told(server, tmp_path, text, context, words):
    """By file and mistake, with what to do; nothing was asked."""
    path = tmp_path / "kubeconfig"
    key = (text or "").partition(":")[0]
    if text == "whole":
        kubeconfig(path, server.url)
    elif key in ("current-context", "contexts"):
        kubeconfig(path, server.url)
        path.write_text(json.dumps(json.loads(path.read_text()) | yaml.safe_load(text)))
    elif text is not None:
        path.write_text(text)
    with pytest.raises(NotSent, match=words) as caught:
        Cluster(Where(kubeconfig=str(path), context=context), tmp_path, logging.getLogger()).get_pod("x")
    assert str(path) in str(caught.value) and "kubeconfig" in str(caught.value)


def test_the_clients_own_defaults_are_left_alone(server, ask):
    """Other users of the official client in this process see no trace of this one."""
    from kubernetes.client import Configuration

    before = Configuration.get_default_copy().host
    ask.get_pod("x")
    assert Configuration.get_default_copy().host == before != server.url


def test_the_client_is_imported_when_it_is_used(tmp_path):
    """Not before; and many first users at once do not wait for each other for ever."""
    script = f"""
import logging, sys, threading
from pathlib import Path
from attrs import frozen
from siteward_k8s.client import Cluster
assert not {{"kubernetes", "urllib3", "websocket"}} & sys.modules.keys()
@frozen
class Where:
    kubeconfig = "none"
    context = namespace = None
def use():
    try:
        Cluster(Where(), Path("{tmp_path}"), logging.getLogger()).get_pod("x")
    except Exception as error:
        sys.stdout.write(type(error).__name__ + chr(10))
threads = [threading.Thread(target=use) for _ in range(8)]
[each.start() for each in threads]
[each.join() for each in threads]
"""
    import subprocess

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100)
    assert (done.stdout.split(), done.stderr) == (["NotSent"] * 8, "")


def test_connecting_ahead_hides_no_error(tmp_path):
    """What went wrong in the background is told to whoever asks first."""
    client = Cluster(Where(kubeconfig="none"), tmp_path, logging.getLogger())
    client.prepare()
    with pytest.raises(NotSent, match="none"):
        client.get_pod("x")
    client.close()
    with pytest.raises(NotSent, match="closed"):
        client.get_pod("x")


# --- a real one ---------------------------------------------------------------------------------------------


def test_pods_and_secrets_live_and_go(client, namespace):
    """Created, read, listed, changed and deleted; by uid only the one that was meant."""
    made = client.create_pod(
        {
            "metadata": {"name": "x", "labels": {"a": "b"}},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "none.invalid/x"}]},
        }
    )
    uid = made["metadata"]["uid"]
    with pytest.raises(Exists):
        client.create_pod({"metadata": {"name": "x"}, "spec": made["spec"]})
    pods, version = client.list_pods("a=b")
    assert [each["metadata"]["uid"] for each in pods] == [uid] and version
    client.patch_pod("x", {"metadata": {"annotations": {"k": "v"}}})
    client.patch_pod("x", [{"op": "add", "path": "/metadata/annotations/l", "value": "w"}])
    assert client.get_pod("x")["metadata"]["annotations"] == {"k": "v", "l": "w"}
    with pytest.raises(Missing):
        client.delete_pod("x", uid="00000000-0000-0000-0000-000000000000")
    client.delete_pod("x", uid=uid, grace=0)
    until(lambda: not client.list_pods("a=b")[0], "it goes")
    client.create_secret({"metadata": {"name": "s", "labels": {"a": "b"}}, "stringData": {"k": "v"}})
    assert [each["metadata"]["name"] for each in client.list_secrets("a=b")] == ["s"]
    client.patch_secret("s", {"metadata": {"labels": {"c": "d"}}})
    found = client.get_secret("s")
    assert client.replace_secret("s", found)["metadata"]["labels"] == {"a": "b", "c": "d"}
    with pytest.raises(Conflict):
        client.replace_secret("s", {**found, "metadata": {**found["metadata"], "resourceVersion": "1"}})
    client.delete_secret("s")
    with pytest.raises(Missing):
        client.delete_secret("s")
    assert client.review("create", "pods", "exec") and client.version()["gitVersion"].startswith("v1.")
    assert [each["metadata"]["name"] for each in client.list_nodes()]


def test_lists_come_in_parts(client):
    """Of any size, as one list."""
    for number in range(5):
        client.create_secret({"metadata": {"name": f"s{number}", "labels": {"many": "yes"}}})
    found, _ = client.list_all(client.path("secrets"), chunk=2, labelSelector="many=yes")
    assert [each["metadata"]["name"] for each in found] == [f"s{number}" for number in range(5)]


def test_a_watch_tells_and_can_be_closed(client):
    """Events from a version on; whoever closes it ends the reading of another thread at once."""
    _, version = client.list_all(client.path("secrets"))
    watching = client.watch(client.path("secrets"), {"resourceVersion": version}, timeout=300)
    told = []
    thread = threading.Thread(
        target=lambda: told.extend((each["type"], each["object"]["metadata"]["name"]) for each in watching)
    )
    thread.start()
    client.create_secret({"metadata": {"name": "s"}})
    client.delete_secret("s")
    until(lambda: len(told) == 2, "both are told")
    watching.close()
    thread.join(30)
    assert not thread.is_alive() and told == [("ADDED", "s"), ("DELETED", "s")]


@pytest.mark.parametrize("answer", [Answer(status=410), Answer(status=200, body=GONE_EVENT)])
def test_a_watch_that_is_too_old_is_gone(proxied, api_proxy, answer):
    """So that whoever watches lists anew; whether it is told at once or later."""
    api_proxy.fault(answer, "watch=true")
    with pytest.raises(Gone):
        list(proxied.watch(proxied.path("pods"), {"resourceVersion": "1"}, timeout=60))


def test_a_silent_watch_is_unreachable(client):
    """One that says nothing for too long has been cut off somewhere."""
    _, version = client.list_all(client.path("secrets"))
    with pytest.raises(Unreachable):
        list(client.watch(client.path("secrets"), {"resourceVersion": version}, timeout=0.5))


def test_permissions_are_as_they_are(cluster, namespace, tmp_path):
    """What a user may not do is refused with where to grant it, and known before."""
    user = namespace.user("few", [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}])
    client = Cluster(Where(kubeconfig=str(user), namespace=None), tmp_path, logging.getLogger())
    assert client.namespace == namespace.name
    assert client.user() == f"system:serviceaccount:{namespace.name}:few"
    assert client.review("get", "pods") and not client.review("create", "pods")
    with pytest.raises(Forbidden, match="Grant it in the Role"):
        client.create_pod({"metadata": {"name": "x"}, "spec": {"containers": [{"name": "a", "image": "b"}]}})
    client.close()


# --- being closed -------------------------------------------------------------------------------------------


class Silent:
    """A server that opens what it is asked for, and then brings nothing."""

    def __init__(self, head):
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.opened = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(head,), daemon=True)
        self._thread.start()

    def _serve(self, head):
        taken, _ = self._listening.accept()
        with taken:
            asked = b""
            while b"\r\n\r\n" not in asked:
                asked += taken.recv(65536)
            key = re.search(rb"(?i)sec-websocket-key: *(\S+)", asked)
            digest = hashlib.sha1((key[1] if key else b"") + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
            taken.sendall(head.replace(b"%accept%", base64.b64encode(digest)))
            self.opened.set()
            while taken.recv(65536):
                pass

    def close(self):
        self._thread.join(60)
        self._listening.close()


LOG = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SOCKET = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: %accept%\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n"
)


@pytest.mark.parametrize(
    ("head", "act"),
    [
        (LOG, lambda client: list(client.read_log("x", "job", follow=True))),
        (SOCKET, lambda client: client.exec("x", "job", ["cat"], timeout=1000).output()),
    ],
    ids=["output", "command"],
)
def test_what_is_under_way_breaks_off(tmp_path, head, act):
    """A closed site waits for no node, and nothing of it goes on in the background."""
    server = Silent(head)
    path = kubeconfig(tmp_path / "kubeconfig", server.url)
    client = Cluster(Where(kubeconfig=str(path)), tmp_path, logging.getLogger())
    errors = []

    def ask():
        try:
            act(client)
        except Unreachable as error:
            errors.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    assert server.opened.wait(60)
    client.close()
    asking.join(60)
    server.close()
    assert len(errors) == 1
    with pytest.raises(Closed):
        client.get_pod("x")


def test_a_field_that_no_pod_has_is_refused(client):
    """A typing error in a template is told with its place; the pod would run without what was meant."""
    spec = {"containers": [{"name": "a", "image": "b"}], "runtimeClasName": "gvisor"}
    with pytest.raises(Refused, match=r'unknown field "spec.runtimeClasName".*pod_template'):
        client.create_pod({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "typo"}, "spec": spec})


def test_a_missing_namespace_is_found_before_any_job(cluster, tmp_path):
    """Though all rights are there, and lists are merely empty; what is asked for that makes nothing."""
    where = Where(kubeconfig=str(cluster.kubeconfig), namespace="not-there")
    client = Cluster(where, tmp_path, logging.getLogger())
    assert [(each.level, each.subject) for each in check_cluster(client, SiteOptions())] == [
        ("ok", "cluster"),
        ("fail", "namespace"),
    ]
    client.close()


def test_looking_at_a_cluster_makes_no_pod(client):
    """And its version is told as people write it."""
    findings = check_cluster(client, SiteOptions())
    assert "Kubernetes v1." in findings[0].message and "{" not in findings[0].message
    assert client.list_pods("")[0] == []
