"""What a backend and its keeper say to each other: frames of four bytes of length, then JSON."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from typing import Any

PROTOCOL = 1
MAX_FRAME = 16 * 2**20
SOCKET = "keeper.sock"
LOCK = "keeper.lock"
LOG = "keeper.log"
JOURNAL = "ends.log"

Message = dict[str, Any]
_HEADER = struct.Struct("!I")
# ASCII escapes carry the lone surrogates by which Python holds bytes that are no UTF-8.
_encode = json.JSONEncoder(separators=(",", ":")).encode
_decode = json.JSONDecoder().decode
_PEER = struct.Struct("3i")


class FrameError(ConnectionError):
    """The other side sent something that is no frame; the connection is of no more use."""


def pack(message: Message) -> bytes:
    """Return a message as one frame; ValueError when it is larger than ``MAX_FRAME``."""
    body = _encode(message).encode("ascii")
    if len(body) > MAX_FRAME:
        raise ValueError(f"a message of {len(body)} bytes is more than the keeper takes ({MAX_FRAME})")
    return _HEADER.pack(len(body)) + body


class Frames:
    """Bytes in, messages out."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """Take what was received and yield every message that is now whole."""
        self._buffer += data
        while len(self._buffer) >= _HEADER.size:
            (size,) = _HEADER.unpack_from(self._buffer)
            if size > MAX_FRAME:
                raise FrameError(f"a frame of {size} bytes")
            end = _HEADER.size + size
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_HEADER.size : end])
            del self._buffer[:end]
            try:
                message = _decode(body.decode("ascii"))
            except ValueError as error:
                raise FrameError("a frame that is not JSON") from error
            if not isinstance(message, dict):
                raise FrameError("a frame that is not a mapping")
            yield message


def peer_uid(sock: socket.socket) -> int:
    """Return the user id of the process at the other end of a Unix socket (unix(7), SO_PEERCRED)."""
    _pid, uid, _gid = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return int(uid)
