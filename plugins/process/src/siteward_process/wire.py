"""What a backend and its keeper say to each other: frames of four bytes of length, then JSON."""

from __future__ import annotations

import json
import socket
import struct
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
encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_decode = json.JSONDecoder().decode
_PEER = struct.Struct("3i")


class FrameError(ConnectionError):
    """The other side sent something that is no frame; the connection is of no more use."""


def pack(message: Message) -> bytes:
    """Return a message as one frame; ValueError when it is larger than ``MAX_FRAME``."""
    return frame(encode(message))


def frame(text: str) -> bytes:
    """Return an encoded message as one frame."""
    body = text.encode("ascii")
    if len(body) > MAX_FRAME:
        raise ValueError(f"a message of {len(body)} bytes is more than the keeper takes ({MAX_FRAME})")
    return _HEADER.pack(len(body)) + body


class Frames:
    """Bytes in, messages out."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[Message]:
        """Take what was received and return every message that is now whole."""
        if self._buffer:
            data = self._buffer + data
        messages = []
        at, length = 0, len(data)
        while length - at >= _HEADER.size:
            (size,) = _HEADER.unpack_from(data, at)
            if size > MAX_FRAME:
                raise FrameError(f"a frame of {size} bytes")
            begin = at + _HEADER.size
            if length - begin < size:
                break
            at = begin + size
            messages.append(_read(data[begin:at]))
        self._buffer = data[at:]
        return messages


def _read(body: bytes) -> Message:
    try:
        message = _decode(body.decode("ascii"))
    except ValueError as error:
        raise FrameError("a frame that is not JSON") from error
    if not isinstance(message, dict):
        raise FrameError("a frame that is not a mapping")
    return message


def peer_uid(sock: socket.socket) -> int:
    """Return the user id of the process at the other end of a Unix socket (unix(7), SO_PEERCRED)."""
    _pid, uid, _gid = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return int(uid)
