"""Reading on after a break: by times that are not always in order."""

from __future__ import annotations

from siteward import Unreachable
from siteward_docker.logs import _Reader

T = "2026-01-02T03:04:05.{:09}Z"


class Engine:
    """Keeps pieces of output, and breaks off after some of them."""

    def __init__(self, pieces, *breaks):
        self.pieces, self.breaks, self.asked = pieces, list(breaks), []

    def logs(self, name, *, follow, tail, since):
        self.asked.append((tail, since))
        begin = T.format(int(since.rpartition(".")[2])) if since else ""
        return Stream([each for each in self.pieces if each[0] >= begin], self.breaks.pop(0) if self.breaks else None)


class Stream:
    def __init__(self, pieces, limit):
        self.pieces, self.limit = pieces, limit

    def __iter__(self):
        yield from self.pieces[: self.limit]
        if self.limit is not None:
            raise Unreachable("gone")

    def close(self):
        pass


def read(engine, tail=None):
    reader, found = _Reader(engine, "c"), []
    while True:
        try:
            found += reader.read(follow=True, tail=tail)
        except Unreachable:
            continue
        return b"".join(found)


def pieces(*times):
    return [(T.format(time), b"%d" % number) for number, time in enumerate(times)]


def test_pieces_out_of_order_are_all_there():
    """Two threads of the engine write down one output."""
    assert read(Engine(pieces(2, 1, 4, 3))) == b"0123"


def test_reading_goes_on_where_it_broke_off():
    """Also in the middle of pieces of one time, and more than once."""
    engine = Engine(pieces(1, 2, 2, 2, 3, 3), 2, 2)
    reader, found = _Reader(engine, "c"), []
    for _ in range(3):
        try:
            for piece in reader.read(follow=True, tail=7):
                found.append(piece)
        except Unreachable:
            pass
    assert b"".join(found) == b"012345"
    seconds = "1767323045"
    assert engine.asked == [(7, ""), (None, f"{seconds}.000000002"), (None, f"{seconds}.000000002")]
