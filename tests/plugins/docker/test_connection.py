"""How an engine is reached, and what its answers, and their lack, become."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from pathlib import Path

import pytest
import trustme

from siteward import BackendError, Unreachable
from siteward_docker.client import Engine
from siteward_docker.errors import Conflict, Missing, NotSent

from .helpers import DEADLINE, until
from .scripted import Scripted, answer

# docker-py leaves a socket that it cannot connect to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture
def scripted(tmp_path):
    """An engine on a Unix socket that says what a test wants."""
    scripted = Scripted(tmp_path)
    yield scripted
    scripted.close()


@pytest.fixture
def open_engine():
    """Make engines that are closed in the end."""
    opened: list[Engine] = []

    def open_engine(host: str | None) -> Engine:
        opened.append(Engine(host, {}))
        return opened[-1]

    yield open_engine
    for each in opened:
        each.close()


REFUSALS = {
    "not there": (answer(404, {"message": "No such container: x\n"}), Missing, "No such container: x"),
    "another state": (answer(409, {"message": "is not running"}), Conflict, "is not running"),
    "not allowed": (answer(400, {"message": "no such option"}), BackendError, "no such option"),
    "broken": (answer(500, {"message": "no space left"}), BackendError, "no space left"),
    "no JSON": (answer(503, b"<h1>busy</h1>\n"), BackendError, "<h1>busy</h1>"),
    "another JSON": (answer(502, ["x"]), BackendError, '["x"]'),
    "no words": (answer(403), BackendError, "the Docker engine answers with HTTP status 403"),
    "elsewhere": (answer(307), BackendError, "the Docker engine answers with HTTP status 307"),
}


@pytest.mark.parametrize(("says", "kind", "words"), REFUSALS.values(), ids=REFUSALS)
def test_what_the_engine_refuses(scripted: Scripted, open_engine, says: bytes, kind: type[Exception], words: str):
    """Its own words, as the error that says what to make of them, also where a stream was asked for."""
    engine = open_engine(scripted.host)
    scripted.says = says
    for call in (lambda: engine.inspect("x"), lambda: engine.logs("x", follow=False, tail=None)):
        with pytest.raises(BackendError) as caught:
            call()
        assert (type(caught.value), str(caught.value)) == (kind, words)


BROKEN = {
    "nothing": b"",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "no body": answer(200, short=10),
    "half a body": answer(200, b'{"Id": "a', short=10),
    "half a chunk": b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20\r\n{"Id": "a',
    "half a JSON": answer(200, b'{"Id": "a'),
    "no HTTP": b"SSH-2.0-x\r\n\r\n",
}


@pytest.mark.parametrize("says", BROKEN.values(), ids=BROKEN)
def test_an_answer_that_breaks_off(scripted: Scripted, open_engine, says: bytes):
    """It is unknown what was done: that is neither a refusal, nor does it count as never asked."""
    engine = open_engine(scripted.host)
    scripted.says, scripted.cut = says, True
    with pytest.raises(Unreachable) as caught:
        engine.create("x", {})
    assert type(caught.value) is Unreachable
    assert scripted.host in str(caught.value)


def test_an_engine_that_is_not_there(open_engine, tmp_path):
    """It knows nothing of what was to be asked, and the words say what to do."""
    with socket.socket(socket.AF_UNIX) as deaf, socket.socket() as unheard:
        deaf.bind(str(tmp_path / "deaf.sock"))
        unheard.bind(("127.0.0.1", 0))
        port = unheard.getsockname()[1]
        for host in (f"unix://{tmp_path}/none.sock", f"unix://{tmp_path}/deaf.sock", f"tcp://127.0.0.1:{port}"):
            with pytest.raises(NotSent, match="set docker_host"):
                open_engine(host).create("x", {})


def test_an_engine_that_went_away(scripted: Scripted, open_engine):
    """What is asked after it was there has not been sent either, and when it is back it answers."""
    engine = open_engine(scripted.host)
    scripted.cut = True
    engine.inspect("x")
    until(lambda: scripted.hung_up, "the connection is cut")
    path = Path(scripted.host.removeprefix("unix://"))
    aside = path.rename(f"{path}.aside")
    with pytest.raises(NotSent):
        engine.inspect("x")
    aside.rename(path)
    assert engine.inspect("x") == {}


def test_what_is_no_error(scripted: Scripted, open_engine):
    """A container that runs already has been started; an empty answer is one."""
    engine = open_engine(scripted.host)
    for says in (answer(304), answer(204)):
        scripted.says = says
        engine.start("x")


def test_connections_are_used_again(scripted: Scripted, open_engine):
    """However many containers are asked for."""
    engine = open_engine(scripted.host)
    for number in range(20):
        engine.inspect(f"x{number}")
    assert scripted.connections <= 2


@pytest.mark.parametrize("more", [b"", b"Connection: close\r\n"], ids=["", "the last of its connection"])
def test_a_stream_that_is_closed_meanwhile(scripted: Scripted, open_engine, more: bytes):
    """Whoever reads, in another thread, is not left waiting."""
    scripted.says = b"HTTP/1.1 200 OK\r\n%sTransfer-Encoding: chunked\r\n\r\n4\r\n{}\n\n\r\n" % more
    stream = open_engine(scripted.host).events("x")
    first = threading.Event()

    def read():
        try:
            for _ in stream:
                first.set()
        except Unreachable:
            pass

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    assert first.wait(DEADLINE)
    stream.close()
    reader.join(DEADLINE)
    assert not reader.is_alive()


def test_a_stream_of_events_that_breaks_off(scripted: Scripted, open_engine):
    """What came whole is told; then it is an outage, and no end."""
    scripted.says = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nc\r\n{"a":1}\n{"a"\r\n5\r\n:2'
    scripted.cut = True
    events = iter(open_engine(scripted.host).events("x"))
    assert next(events) == {"a": 1}
    with pytest.raises(Unreachable):
        next(events)


def test_output_in_whatever_pieces(scripted: Scripted, open_engine):
    """Each piece comes with its time, however the engine's answer is cut."""
    frames = b"".join(b"\1\0\0\0" + len(text).to_bytes(4, "big") + text for text in (b"t1 a\n", b"t2 \xff b", b"t3 "))
    body = b"".join(b"1\r\n%c\r\n" % byte for byte in frames) + b"0\r\n\r\n"
    scripted.says = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body
    engine = open_engine(scripted.host)
    found = [("t1", b"a\n"), ("t2", b"\xff b"), ("t3", b"")]
    assert list(engine.logs("x", follow=False, tail=None)) == found
    scripted.says = answer(200, frames)
    assert list(engine.logs("x", follow=False, tail=None)) == found


# --- ways to an engine --------------------------------------------------------------------------------------


@pytest.fixture
def docker_config(tmp_path, monkeypatch: pytest.MonkeyPatch):
    """The configuration file of the docker command."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return tmp_path / "config.json"


def test_answers_come_as_they_are(scripted: Scripted, open_engine):
    """The engine is not asked to compress, which it would do with archives."""
    scripted.says = answer(200, b"tar")
    assert b"".join(open_engine(scripted.host).get_archive("x", "/siteward/job")) == b"tar"
    assert "Accept-Encoding: identity\r\n" in scripted.requests[-1]
    assert "gzip" not in scripted.requests[-1]


def test_headers_of_the_docker_command(scripted: Scripted, open_engine, docker_config):
    """What its configuration wants every request to have, ours have too."""
    docker_config.write_text(json.dumps({"HttpHeaders": {"X-Meta": "a b"}}))
    open_engine(scripted.host).inspect("x")
    assert "X-Meta: a b\r\n" in scripted.requests[-1]


def test_tls_by_the_environment(open_engine, tmp_path, monkeypatch: pytest.MonkeyPatch):
    """Certificates of both sides are checked, as DOCKER_HOST, DOCKER_TLS_VERIFY and DOCKER_CERT_PATH say."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    scripted = Scripted(tls=context)
    own = authority.issue_cert("client")
    own.private_key_pem.write_to_path(tmp_path / "key.pem")
    own.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    monkeypatch.setenv("DOCKER_HOST", scripted.host)
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # requests takes these for more than a client's own
        monkeypatch.delenv(variable, raising=False)
    try:
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        engine = open_engine(None)
        assert [engine.inspect("x"), engine.inspect("y")] == [{}, {}]
        assert scripted.connections <= 2
        trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
        with pytest.raises(Unreachable, match=r"(?i)certificate"):
            open_engine(None).inspect("x")
    finally:
        scripted.close()


def test_a_proxy_on_the_way(open_engine, monkeypatch: pytest.MonkeyPatch):
    """An engine on TCP is asked through the proxy that the environment names."""
    scripted = Scripted()
    try:
        monkeypatch.setenv("HTTP_PROXY", scripted.host.replace("tcp:", "http:"))
        monkeypatch.setenv("NO_PROXY", "")
        open_engine("tcp://engine.invalid:2375").inspect("x")
        assert scripted.requests[-1].startswith("GET http://engine.invalid:2375/v1.41/containers/x/json HTTP/1.1\r\n")
    finally:
        scripted.close()
