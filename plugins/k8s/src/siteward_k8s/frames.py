"""WebSocket frames (RFC 6455) as the API server's exec has them: binary messages, each on a numbered channel."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

BINARY, CLOSE, PING, PONG = 0x2, 0x8, 0x9, 0xA
_FIN = 0x80
_MASKED = 0x80


def frame(opcode: int, *parts: bytes, sealed: bool = False) -> bytes:
    """Return one message as a client sends it: whole, and masked.

    Masks keep what is sent from being taken for HTTP by a proxy in between (RFC 6455, 10.3). Where TLS has it
    ``sealed`` nobody sees it, and the mask is one that changes nothing: others take Python as long as all the rest.
    """
    payload = b"".join(parts)
    length = len(payload)
    if length < 126:
        header = struct.pack(">BB", _FIN | opcode, _MASKED | length)
    elif length < 2**16:
        header = struct.pack(">BBH", _FIN | opcode, _MASKED | 126, length)
    else:
        header = struct.pack(">BBQ", _FIN | opcode, _MASKED | 127, length)
    if sealed:
        return b"".join((header, bytes(4), payload))
    mask = os.urandom(4)
    pattern = int.from_bytes(mask * (length // 4 + 1), "big") >> (8 * (4 - length % 4))
    return b"".join((header, mask, (int.from_bytes(payload, "big") ^ pattern).to_bytes(length, "big")))


class Decoder:
    """Turns what a server sent, in whatever pieces, into messages."""

    def __init__(self) -> None:
        self._rest = b""
        self._parts: list[bytes] = []
        self._opcode = BINARY

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield (opcode, payload) of each message that is complete."""
        data = self._rest + data if self._rest else data
        at = 0
        while (found := _header(data, at)) is not None:
            first, begin, end = found
            if len(data) < end:
                break
            at = end
            payload, opcode = data[begin:end], first & 0xF
            if opcode >= CLOSE:  # may come in between the parts of another
                yield opcode, payload
                continue
            self._opcode = opcode or self._opcode
            if first & _FIN and not self._parts:
                yield self._opcode, payload
                continue
            self._parts.append(payload)
            if first & _FIN:
                whole, self._parts = b"".join(self._parts), []
                yield self._opcode, whole
        self._rest = data[at:]


def _header(data: bytes, at: int) -> tuple[int, int, int] | None:
    """Return the first byte of the frame at ``at``, and where its payload begins and ends; None if cut short."""
    if len(data) < at + 2:
        return None
    first, length = data[at], data[at + 1] & 0x7F
    begin = at + 2
    for short, size, form in ((126, 2, ">H"), (127, 8, ">Q")):
        if length == short:
            if len(data) < begin + size:
                return None
            (length,) = struct.unpack_from(form, data, begin)
            begin += size
            break
    return first, begin, begin + length
