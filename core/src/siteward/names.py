"""Names that file systems, containers and clusters accept, made from any text, no two texts sharing one."""

from __future__ import annotations

import hashlib
import re

_SAFE = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", re.ASCII)
_UNSAFE = re.compile(r"[^a-z0-9]+", re.ASCII)
_DIGITS = 8
_SHORTEST = 1 + len("--") + _DIGITS


def safe_name(text: str, max_length: int = 63) -> str:
    """Return a DNS label (RFC 1123: a-z, 0-9 and -, alphanumeric at both ends) for ``text`` and no other.

    A text that already is one, is no longer than ``max_length`` and has no ``--`` stays as it is. Any other
    becomes ``<what could be kept>--<8 hex digits of its SHA-256>``, so that texts which differ only in case,
    punctuation or what was cut off stay apart, from each other and from those that stay as they are.
    ValueError when ``max_length`` leaves no room for that (less than 11).
    """
    if max_length < _SHORTEST:
        raise ValueError(f"max_length must be at least {_SHORTEST}, got {max_length}")
    if len(text) <= max_length and "--" not in text and _SAFE.fullmatch(text):
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
    head = _UNSAFE.sub("-", text.lower()).strip("-")[: max_length - _SHORTEST + 1].rstrip("-")
    return f"{head or 'x'}--{digest}"
