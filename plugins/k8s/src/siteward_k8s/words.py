"""Words of the scheduler, the kubelet and container runtimes, made short, harmless and readable. Pure."""

from __future__ import annotations

import re

_LINK = r'(?:"[^"]*"|\S+)'
# What each program that passed an error on has put before it.
_PASSED_ON = re.compile(
    r"^(?:\(combined from similar events\): |rpc error: code = \w+ desc = |Error: |ErrImagePull: |ImagePullBackOff: "
    rf"|Back-off pulling image {_LINK}: |Failed to pull image {_LINK}: |failed to pull and unpack image {_LINK}: "
    rf"|failed to resolve reference {_LINK}: |failed to resolve image: |initializing source {_LINK}: "
    rf"|Error response from daemon: |(?:unable|failed) to pull image or OCI artifact: |pull image err: "
    r"|failed to create containerd task: |failed to create shim task: |failed to create containerd container: "
    r"|failed to start containerd task \S+: |failed to generate container \S+ spec: |OCI runtime create failed: "
    r"|runc create failed: |unable to start container process: |error during container init: |container create failed: "
    r"|time=\S+ level=error msg=)+"
)
_HIDDEN = re.compile(
    r"(?i)(://)[^/@\s\"]+(@)"
    r"|((?:authorization: (?:\w+ )?|bearer )|(?:token|signature|sig|password|passwd|secret_?key|api_?key|credential)=)"
    r"[^\s\"&,]+"
)
# Ids of sandboxes and containers differ at each attempt, and say nothing.
_ID = re.compile(r"(?<!sha256:)\b[0-9a-f]{64}\b")
_NO_NODE = re.compile(r"^0/(\d+) nodes? (?:is|are) available: (.*?)(?:\. .*|\.)?$")
_ASIDE = re.compile(r"\"[^\"]*\"|`[^`]*`|\{[^}]*\}|\w+://\S+")
_NOT_READY = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
_WHY_NOT = (
    (re.compile(r"^Insufficient (\S+)$"), r"lack free \1"),
    (re.compile(r"^Too many pods$"), "can take no more pods"),
    (
        re.compile(rf"^node\(s\) had untolerated taint \{{(?:{'|'.join(map(re.escape, _NOT_READY))})[^}}]*\}}$"),
        "not ready",
    ),
    (re.compile(r"^node\(s\) had untolerated taints? \{(.*?)(?:: ?)?\}$"), r"have the taint \1"),
    (re.compile(r"^node\(s\) didn't match Pod's node affinity/selector$"), "do not match its node selector"),
    (re.compile(r"^node\(s\) were unschedulable$"), "are cordoned"),
    (re.compile(r"^node\(s\) had volume node affinity conflict$"), "cannot reach its volume"),
    (re.compile(r"^node\(s\) (.*)$"), r"\1"),
)


def one_line(text: str, limit: int = 300) -> str:
    """Return a text of the platform's, or of a job's, as one line of at most ``limit`` characters without secrets."""
    text = _HIDDEN.sub(_hide, " ".join(text[: limit * 4].split()))
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _hide(found: re.Match[str]) -> str:
    return "://***@" if found[1] else f"{found[3]}***"


def cause(text: str) -> str:
    """Return what went wrong without the chain of programs through which it was passed on."""
    text = _ID.sub("…", _PASSED_ON.sub("", text.strip()).removesuffix(": unknown"))
    return one_line(text).rstrip(". ")


def bare(text: str) -> str:
    """Return a text without what it quotes: names that a job has chosen must not be taken for the platform's words."""
    return _ASIDE.sub('""', text)


def no_node(text: str) -> str:
    """Return the scheduler's account of why no node will do, in words."""
    found = _NO_NODE.match(" ".join(text.split()))
    if found is None:
        return cause(text)
    parts = [_why_not(part) for part in found[2].split(", ")]
    return one_line(f"no node fits: of {found[1]}, {', '.join(parts)}")


def _why_not(part: str) -> str:
    count, _, words = part.partition(" ")
    if not count.isdecimal():
        return part
    for pattern, better in _WHY_NOT:
        if pattern.match(words):
            words = pattern.sub(better, words)
            break
    return f"{count} {words}"
