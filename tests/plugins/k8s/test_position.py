"""Output goes on where it stopped: whatever a second holds, wherever the stream was cut."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siteward_k8s.position import Position


class Node:
    """A container's log as a kubelet keeps it, and what it answers: from a full second on, lines with their times.

    An entry is (time in ms, text, whether it ends its line); a line's later parts have no time in front.
    """

    def __init__(self, entries):
        self.entries = entries

    def __repr__(self):
        return f"Node({self.entries})"

    def read(self, since=None):
        out, new_line = [], True
        floor = 0 if since is None else int(since[17:19]) * 1000
        for time, text, ends in self.entries:
            if time >= floor:
                stamp = f"2026-01-01T00:00:{time // 1000:02d}.{time % 1000:03d}000000Z ".encode()
                out.append((stamp if new_line else b"") + text + (b"\n" if ends else b""))
            new_line = ends
        return b"".join(out)

    def text(self):
        return b"".join(text + (b"\n" if ends else b"") for _time, text, ends in self.entries)


def pieces(data, size):
    return [data[at : at + size] for at in range(0, len(data), size)]


def follow(node, cuts, size=7):
    """Read a node's log in pieces, anew after each of the cuts (in bytes of the answer), then to its end."""
    position, got = Position(), []
    for cut in [*cuts, None]:
        position.begin()
        got += [position.feed(piece) for piece in pieces(node.read(position.reads_from)[:cut], size)]
    return b"".join(got)


TEXTS = st.one_of(st.just(b""), st.sampled_from([b"a", b"same", b"2026-01-01T00:00:01.000000000Z x", b"\xff\xfe \x00"]))
# Times that mostly go up, with some that go back a little, as those of two streams do.
STEPS = st.sampled_from([0, 0, 1, 5, 400, 1000, -1])


@st.composite
def nodes(draw):
    time, entries = 5000, []
    for _ in range(draw(st.integers(0, 25))):
        step = draw(STEPS)
        # Parts of a line are of one stream, and in order.
        time += step if not entries or entries[-1][2] else max(0, step)
        entries.append((time, draw(TEXTS), draw(st.integers(0, 4)) > 0))
    return Node(entries)


@given(node=nodes(), cuts=st.lists(st.integers(0, 600), max_size=4), size=st.integers(1, 100))
def test_nothing_is_lost_and_nothing_comes_twice(node, cuts, size):
    """Lines of one second, out of order, empty, in parts, that look like a time: each comes once."""
    assert follow(node, cuts, size) == node.text()


def test_a_line_that_was_cut_goes_on_where_it_was():
    """Also one of many parts that takes seconds to write."""
    node = Node([(1000, b"x" * 50, False), (2500, b"y" * 50, False), (4000, b"z", True), (4001, b"next", True)])
    for cut in range(len(node.read())):
        assert follow(node, [cut]) == node.text()


def test_the_rest_of_an_old_line_is_no_line():
    """A second may begin with parts of a line from the second before, which have come already."""
    node = Node([(1000, b"a" * 50, False), (2500, b"b" * 9, True), (2600, b"c", True), (2700, b"d", True)])
    whole = node.read()
    assert follow(node, [whole.index(b" d") - 3, len(whole) - 1]) == node.text()


def test_output_goes_on_after_a_rotation():
    """When the log has a new file, what is new in it comes, and nothing that was there before."""
    before = [(1000 + each, b"line %d" % each, True) for each in range(10)]
    position = Position()
    got = position.feed(Node(before).read())
    position.begin()
    after = [*before[7:], (1100, b"new", True), (1200, b"newer", True)]
    got += position.feed(Node(after).read(position.reads_from))
    assert got == Node([*before, *after[3:]]).text()


def test_what_came_before_the_tail_does_not_come():
    """Reading that began with the last lines goes on behind them, though older ones are of the same second."""
    entries = [(1000 + each, b"line %d" % each, True) for each in range(10)]
    position = Position()
    got = position.feed(Node(entries[8:]).read())
    position.begin()
    got += position.feed(Node([*entries, (1500, b"new", True)]).read(position.reads_from))
    assert got == b"line 8\nline 9\nnew\n"


def test_words_of_the_kubelet_are_no_output():
    """What is said in place of output has no time."""
    assert Position().feed(b'unable to retrieve container logs for containerd://0123"\n') == b""


@pytest.mark.parametrize("zone", ["+00:00", "+05:30", "-08:00"])
def test_nodes_may_have_any_time_zone(zone):
    """Output is asked for in the zone in which it came."""
    position = Position()
    line = f"2026-01-01T00:00:01.000000001{zone} x\n".encode()
    assert position.feed(line) == b"x\n"
    assert position.reads_from == f"2026-01-01T00:00:00{zone}"
    position.begin()
    assert position.feed(line + line.replace(b"x", b"y")) == b"y\n"


def test_a_second_of_many_lines_takes_no_room():
    """A position is as small after a million lines as after one."""
    position = Position()
    line = b"2026-01-01T00:00:01.%09dZ " + b"x" * random.randint(1, 50) + b"\n"
    for start in range(0, 20_000, 1000):
        position.feed(b"".join(line % number for number in range(start, start + 1000)))
    assert sum(len(value) for value in vars(position).values() if isinstance(value, bytes | tuple)) < 100
