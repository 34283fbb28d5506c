"""Commands in containers: bytes in and out as they are, and how each ends."""

import hashlib
import itertools
import random
import threading

import pytest

from siteward import Unreachable
from siteward_k8s import exec as execs
from siteward_k8s.errors import Missing, Refused
from siteward_k8s.frames import BINARY, CLOSE, PING, Decoder, frame

MIB = 2**20


@pytest.fixture(scope="module")
def namespace(cluster):
    """One namespace for all of these tests: they leave nothing in its pod."""
    with cluster.namespace() as namespace:
        yield namespace


@pytest.fixture(scope="module")
def pod(namespace):
    """A pod that does nothing for long."""
    namespace.run("idle", "sleep", "3600")
    namespace.run("ended", "true")
    namespace.wait_for_phase("idle", "Running")
    namespace.wait_for_phase("ended")
    return "idle"


def noise(size):
    """Yield so many bytes in uneven pieces: every value, also in long runs."""
    rng = random.Random(size)
    block = rng.randbytes(MIB)
    while size > 0:
        piece = (block if rng.random() < 0.8 else bytes(MIB))[: rng.randint(0, MIB)][:size]
        size -= len(piece)
        yield piece


def sha(pieces):
    """Return how many bytes there are, and their checksum."""
    digest, size = hashlib.sha256(), 0
    for piece in pieces:
        digest.update(piece)
        size += len(piece)
    return size, digest.hexdigest()


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 131072, 131073, 20 * MIB])
def test_bytes_come_back_as_they_went(client, pod, size):
    """Through a command that returns what it gets, of any size and value."""
    run = client.exec(pod, "main", ["cat"], stdin=noise(size))
    got = sha(data for channel, data in run if channel == execs.STDOUT)
    assert got == sha(noise(size))
    assert run.exit_code == 0


@pytest.mark.timeout(300)
def test_a_hundred_megabytes_stay_whole(client, pod):
    """In, as the pod's own sha256sum sees them, and out."""
    code, output, _ = client.exec(pod, "main", ["sha256sum"], stdin=noise(100 * MIB)).output()
    assert (code, output.split()[0].decode()) == (0, sha(noise(100 * MIB))[1])
    run = client.exec(pod, "main", ["sh", "-c", "yes siteward | head -c 104857600"])
    line = b"siteward\n"
    assert sha(data for _, data in run) == sha([line * (100 * MIB // len(line)), line[: 100 * MIB % len(line)]])


@pytest.mark.parametrize("code", [0, 1, 7, 126, 127, 137, 255])
def test_exit_codes_are_the_commands(client, pod, code):
    """Each as it is; standard output and error come apart."""
    script = f"echo out; echo err >&2; exit {code}"
    assert client.exec(pod, "main", ["sh", "-c", script]).output() == (code, b"out\n", b"err\n")


def test_arguments_are_no_shells(client, pod):
    """Blanks, quotes and letters of any script arrive."""
    words = ["a b", "'\"$HOME`", "ä✓", "", "&c=d+e%20"]
    code, output, _ = client.exec(pod, "main", ["printf", "[%s]", *words]).output()
    assert (code, output.decode()) == (0, "".join(f"[{word}]" for word in words))


@pytest.mark.parametrize("protocol", [execs.V5, execs.V4])
@pytest.mark.parametrize(
    ("where", "error", "words"),
    [
        (("idle", "main", "nope"), Refused, "no such command"),
        (("idle", "main", "/nope"), Refused, "no such command"),
        (("idle", "other", "true"), Refused, "other"),
        (("nobody", "main", "true"), Missing, "nobody"),
        (("ended", "main", "true"), Missing, "does not run"),
    ],
)
def test_what_cannot_run_is_told(client, pod, protocol, where, error, words):
    """By what is wrong: no such command, container or pod, or none that runs; also by older API servers."""
    name, container, command = where
    with pytest.raises(error, match=words):
        execs.run(
            client._transport, f"{client.path('pods', name)}/exec", container, [command], None, 60, (protocol,)
        ).output()


def test_older_api_servers_are_spoken_to(client, pod):
    """Without a word for the input's end a command takes as much as it knows there is."""
    path = f"{client.path('pods', pod)}/exec"
    run = execs.run(client._transport, path, "main", ["head", "-c", "3"], [b"abc"], 60, (execs.V4,))
    assert (run.protocol, run.output()) == (execs.V4, (0, b"abc", b""))


def test_a_command_may_leave_its_input_unread(client, pod):
    """Its exit code is known though it ended before all was sent."""
    script = 'read -r line; echo "$line"; exit 3'
    assert client.exec(pod, "main", ["sh", "-c", script], stdin=[b"first\n", b"rest"]).output() == (3, b"first\n", b"")


def test_a_container_that_dies_ends_its_commands(client, namespace):
    """A command in a container that is killed does not hang, nor count as done."""
    namespace.run("short", "sh", "-c", "trap 'exit 0' TERM; until [ -e /tmp/end ]; do sleep 0.1; done")
    namespace.wait_for_phase("short", "Running")
    run = client.exec("short", "main", ["sh", "-c", "touch /tmp/end; while :; do echo x; sleep 0.1; done"])
    with pytest.raises((Unreachable, AssertionError)):
        code, _, _ = run.output()
        assert code == 0


def test_a_connection_that_is_cut_is_unreachable(proxied, api_proxy, pod):
    """The command's end is not known then; it is no exit code."""
    run = proxied.exec(pod, "main", ["sh", "-c", "echo begun; sleep 3600"])
    outputs = iter(run)
    assert next(outputs) == (execs.STDOUT, b"begun\n")
    assert api_proxy.cut("/exec") == 1
    with pytest.raises(Unreachable):
        list(outputs)
    assert run.exit_code is None


def test_silence_is_unreachable(client, pod):
    """Where nothing moves for as long as was said, somebody has gone without a word."""
    with pytest.raises(Unreachable, match="nothing has moved for 1 s"):
        client.exec(pod, "main", ["sleep", "3600"], timeout=1).output()


def test_many_commands_run_at_once(client, pod):
    """Each has its own connection, and its own output."""
    got = {}

    def run(number):
        got[number] = client.exec(
            pod, "main", ["sh", "-c", f"cat; echo {number}"], stdin=[b"%d " % number] * 100
        ).output()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {number: (0, b"%d " % number * 100 + b"%d\n" % number, b"") for number in range(8)}


# --- frames -------------------------------------------------------------------------------------------------


def as_server(opcode, payload, *, fin=True, size=None):
    """Return a frame as servers send them: not masked."""
    length = len(payload)
    first = bytes([(0x80 if fin else 0) | opcode])
    if length < 126 and size is None:
        return first + bytes([length]) + payload
    if length < 2**16 and size != 8:
        return first + bytes([126]) + length.to_bytes(2, "big") + payload
    return first + bytes([127]) + length.to_bytes(8, "big") + payload


def test_frames_are_read_in_whatever_pieces_they_come():
    """Of each size, in parts, with others in between."""
    sent = [(BINARY, bytes(size)) for size in (0, 1, 125, 126, 65535, 65536)]
    data = b"".join(itertools.starmap(as_server, sent))
    data += as_server(BINARY, b"one ", fin=False) + as_server(PING, b"p") + as_server(0, b"two ", fin=False)
    data += as_server(0, b"three") + as_server(BINARY, b"long way", size=8) + as_server(CLOSE, b"")
    expected = [*sent, (PING, b"p"), (BINARY, b"one two three"), (BINARY, b"long way"), (CLOSE, b"")]
    for size in (1, 2, 3, 7, 100, 10**6):
        decoder = Decoder()
        assert [each for at in range(0, len(data), size) for each in decoder.feed(data[at : at + size])] == expected


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 125, 126, 127, 65535, 65536, 65537])
def test_frames_are_masked_as_a_client_must(size):
    """What a server unmasks is what was to be sent."""
    payload = bytes(each % 251 for each in range(size))
    sent = frame(BINARY, payload[: size // 2], payload[size // 2 :])
    header = 2 + (0 if size < 126 else 2 if size < 2**16 else 8)
    assert sent[0] == 0x82 and sent[1] & 0x80
    mask, body = sent[header : header + 4], sent[header + 4 :]
    assert bytes(each ^ mask[at % 4] for at, each in enumerate(body)) == payload
