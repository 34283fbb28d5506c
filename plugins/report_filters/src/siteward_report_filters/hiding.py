"""What is hidden in a text, and how it is found. Pure.

Texts come from jobs, which nobody trusts: no expression here takes longer than a time that grows with the text alone.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from urllib.parse import quote

SECRET, PATH, E_MAIL, PATTERN = "[secret]", "[path]", "[e-mail]", "[redacted]"
SHORTEST_SECRET = 4

_NAME = r"""[^\s'"`<>|;,()\[\]{}]*"""
_QUOTED_PATH = re.compile(r"""(['"`])(?:/|~[\w.-]*/|[A-Za-z]:[\\/]|\\\\)[^'"`\n]*\1""")
_PATH = re.compile(
    # After what cannot be part of a relative path; `file://` and options like -I may stand right before one.
    rf"(?:(?<![\w/~.\\:-])/+|(?<=[\s'\"]-[A-Za-z])/+|(?<=file://)/|(?<=:)/)(?=[^\s/]){_NAME}"
    rf"|(?<![\w/])~[\w.-]*/{_NAME}"
    rf"|(?<!\w)(?:[A-Za-z]:\\|\\\\(?=\w)){_NAME}"
)
_E_MAIL = re.compile(r"(?<![\w.%+-])[\w.%+-]+@[\w-]+(?:\.[\w-]+)+")
_LOGIN = re.compile(r"(?<=://)[^\s/@'\"]+@")


def hide_paths(text: str) -> str:
    """Replace absolute paths, those that begin at a home folder, and Windows' ones; a quoted path may hold spaces."""
    text = _QUOTED_PATH.sub(lambda found: f"{found[1]}{PATH}{found[1]}", text)
    return _PATH.sub(PATH, text)


def hide_e_mails(text: str) -> str:
    """Replace e-mail addresses, and the login that an address of the web may hold."""
    return _E_MAIL.sub(E_MAIL, _LOGIN.sub(f"{SECRET}@", text))


def hide_patterns(text: str, patterns: Iterable[re.Pattern[str]]) -> str:
    """Replace whatever an expression of the site's matches."""
    for pattern in patterns:
        text = pattern.sub(PATTERN, text)
    return text


def forms_of(secret: str) -> list[str]:
    """Return the texts that a secret shows as, longest first: as it is, by line, escaped, percent-encoded, base64."""
    lines = [secret.strip(), *(line.strip() for line in secret.splitlines())]
    forms = {secret, *lines}
    for text in (secret, secret.strip()):
        forms |= {repr(text)[1:-1], json.dumps(text)[1:-1], quote(text, safe=""), quote(text)}
        encoded = base64.b64encode(text.encode("utf-8", "surrogateescape")).decode()
        forms |= {encoded, encoded.rstrip("="), base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")}
    return sorted((form for form in forms if len(form) >= SHORTEST_SECRET), key=lambda form: (-len(form), form))


def hide_secrets(text: str, secrets: Iterable[str], *, cut: bool = False) -> str:
    """Replace secrets in all their forms; of a text ``cut`` at its beginning also what is left of one there."""
    forms = sorted({form for secret in secrets for form in forms_of(secret)}, key=lambda form: (-len(form), form))
    if not forms:
        return text
    text = re.compile("|".join(map(re.escape, forms))).sub(SECRET, text)
    rest = max((_rest_at_start(text, form) for form in forms), default=0) if cut else 0
    return SECRET + text[rest:] if rest else text


def _rest_at_start(text: str, form: str) -> int:
    """Return how long the end of a form is that a text begins with."""
    lengths = range(len(form) - 1, SHORTEST_SECRET - 1, -1)
    return next((length for length in lengths if text.startswith(form[-length:])), 0)
