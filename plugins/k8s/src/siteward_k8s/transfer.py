"""Job directories in and out of pods, and signals to jobs, by commands that run beside the job.

Images need ``sh``, ``tar``, ``cat``, ``mkdir``, ``mv`` and ``rm``. With ``sha256sum``, ``mkfifo`` and ``tee`` what was
sent is compared with what arrived; with ``dd`` it is faster.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from siteward import BackendError, JobRef, Unreachable, pack_directory, unpack_directory
from siteward_k8s.client import Cluster
from siteward_k8s.errors import Missing, Refused
from siteward_k8s.exec import STDOUT, V5, Exec
from siteward_k8s.layout import CONTROL, HELPER, JOB_DIR, STAGE, STAGED, VOLUME

_FOLDER = PurePosixPath(JOB_DIR).name
_SILENCE = 120.0
_SHORTLY = 30.0
_MOST_WORDS = 4000
# What the API server and the kubelet say of a container that was never started, or is no more.
_NOT_THERE = ("does not have a host assigned", "container not found", "is not valid for pod")

# What else the API server of the pod's node would wait for is read by the last `cat`: it does not notice that nobody
# reads. A folder of its own for each try: what an earlier one left may still be at work.
_RECEIVE = r"""
umask 077
draft=$1/.incoming.$$
pipe=$2/sum.$$
mkdir "$draft" || exit 3
if command -v sha256sum && command -v tee && command -v mkfifo && mkfifo "$pipe"; then
    sha256sum <"$pipe" >"$pipe.out" &
fi >/dev/null 2>&1
umask 0
copy() { if [ -p "$pipe" ]; then tee "$pipe"; else cat; fi; }
take() { tar -xpo -f - -C "$draft"; echo "tar $?"; cat >/dev/null; }
if [ -n "$3" ]; then head -c "$3" | copy | take; else copy | take; fi
wait
echo "draft $draft"
if [ -p "$pipe" ]; then read -r sum rest <"$pipe.out"; echo "sum $sum"; rm -f "$pipe" "$pipe.out"; fi
"""
_ACCEPT = r"""
[ -e "$3" ] && exit 0
rm -rf "$1/$2" && mv "$4/$2" "$1/$2" && rm -rf "$1"/.incoming.* && : >"$3"
"""
_SEND = r"""
cd "$1" || exit 3
pipe=$3/sum.$$
if command -v sha256sum && command -v tee && command -v mkfifo && mkfifo "$pipe"; then
    sha256sum <"$pipe" >"$pipe.out" &
fi >/dev/null 2>&1
copy() { if [ -p "$pipe" ]; then tee "$pipe"; else cat; fi; }
large() { if command -v dd >/dev/null; then dd ibs=32768 obs=65536 2>/dev/null; else cat; fi; }
{ tar -cf - "$2"; echo "tar $?" >&2; } | copy | large
wait
if [ -p "$pipe" ]; then read -r sum rest <"$pipe.out"; echo "sum $sum" >&2; rm -f "$pipe" "$pipe.out"; fi
"""
# The main process of a container of a pod with one process namespace has no parent in it.
_SIGNAL = r"""
code=4
for folder in /proc/[0-9]*; do
    parent=
    while read -r key value rest; do
        if [ "$key" = PPid: ]; then parent=$value; break; fi
    done 2>/dev/null <"$folder/status"
    [ "$parent" = 0 ] || continue
    case $(cat "$folder/environ" "$folder/cgroup" 2>/dev/null) in
        *"$2"* | *"$3"*) kill -s "$1" "${folder#/proc/}" && code=0 || code=5 ;;
    esac
done 2>/dev/null
exit $code
"""


def send(cluster: Cluster, ref: JobRef, source: Path) -> None:
    """Bring a job directory into the container that waits for it, which then ends, and the job starts.

    May be repeated. Missing while, or when no longer, that container runs; Unreachable when it may be tried again;
    Refused with words when the image lacks something, and BackendError when ``source`` cannot be read.
    """
    digest = hashlib.sha256()
    said = _receive(cluster, ref, lambda: _packed(source), digest.update)
    if said.get("tar") != "0":
        raise Refused(f"the job directory cannot be unpacked in the pod: {said['words']}")
    if said.get("sum", digest.hexdigest()) != digest.hexdigest():
        raise Unreachable("the job directory was damaged on its way into the pod")
    code, _output, words = _run(cluster, ref, STAGE, _ACCEPT, VOLUME, _FOLDER, STAGED, said["draft"]).output()
    if code != 0:
        raise Refused(f"the job directory cannot be put in its place in the pod: {_text(words)}")


def _packed(source: Path) -> Iterator[bytes]:
    """Pack a job directory. What is wrong with this machine's disk must not pass for trouble of the network."""
    try:
        yield from pack_directory(source, name=_FOLDER, owner=(0, 0))
    except OSError as error:
        raise BackendError(f"the job directory cannot be read: {error}") from error


def _receive(
    cluster: Cluster, ref: JobRef, packed: Callable[[], Iterator[bytes]], note: Callable[[bytes], None]
) -> dict[str, str]:
    """Stream a job directory in, and return what the script says of it; ``note`` is told all that is sent."""

    def sent() -> Iterator[bytes]:
        for chunk in packed():
            note(chunk)
            yield chunk

    command = _run(cluster, ref, STAGE, _RECEIVE, VOLUME, CONTROL, "", stdin=sent(), timeout=_SILENCE)
    if command.protocol != V5:
        # An older API server does not tell the command that its input has ended: it must know before.
        command.close()
        size = str(sum(map(len, packed())))
        command = _run(cluster, ref, STAGE, _RECEIVE, VOLUME, CONTROL, size, stdin=sent(), timeout=_SILENCE)
    code, output, words = command.output()
    said = _said(output)
    if "tar" not in said or "draft" not in said:
        kind = Unreachable if code == 0 or code > 128 else Refused
        raise kind(f"the pod takes no job directory ({code}): {_text(words)}")
    return {**said, "words": _text(words)}


def fetch(cluster: Cluster, ref: JobRef, target: Path, max_bytes: int) -> str:
    """Bring what a job left in its job directory back into ``target``: ``returned``, ``partial`` or ``lost``.

    ``partial`` when some of it was refused (see :func:`siteward.unpack_directory`), could not be read, or is more
    than ``max_bytes``; ``lost`` when the helper does not run any longer. ``target`` stays as it is then, and when it
    is Unreachable, and should be tried again.
    """
    try:
        command = _run(cluster, ref, HELPER, _SEND, VOLUME, _FOLDER, CONTROL, timeout=_SILENCE)
        outcome = _Outcome()
        try:
            whole = unpack_directory(_verified(command, outcome), target, max_bytes=max_bytes)
        finally:
            command.close()
    except Refused as error:
        if not (isinstance(error, Missing) or any(words in str(error) for words in _NOT_THERE)):
            raise
        if _helper_may_come(cluster, ref):
            raise Unreachable(f"the helper of pod {ref.data['name']} cannot be found just now: {error}") from error
        return "lost"
    except tarfile.TarError as error:
        raise BackendError(f"what came out of the pod is no tar archive: {error}") from error
    return "returned" if whole and outcome.complete else "partial"


def _helper_may_come(cluster: Cluster, ref: JobRef) -> bool:
    """Whether a pod's helper runs, or starts, as the API server sees it: a node that was started anew learns it again.

    And a job may have ended before the container beside it was started.
    """
    try:
        pod = cluster.get_pod(ref.data["name"], namespace=ref.data.get("namespace"))
    except Missing:
        return False
    if ref.data["uid"] not in (None, pod["metadata"]["uid"]) or "deletionTimestamp" in pod["metadata"]:
        return False
    status = pod.get("status") or {}
    states = [each.get("state") or {} for each in status.get("containerStatuses") or () if each["name"] == HELPER]
    return status.get("phase") == "Running" and any("running" in state or "waiting" in state for state in states)


class _Outcome:
    """What is known of an archive when all of it has come."""

    complete = False


def _verified(command: Exec, outcome: _Outcome) -> Iterator[bytes]:
    """Yield an archive's bytes; Unreachable at its end if they are not those that were sent."""
    digest = hashlib.sha256()
    words = b""
    for channel, data in command:
        if channel != STDOUT:
            words = (words + data)[-_MOST_WORDS:]
            continue
        digest.update(data)
        yield data
    said = _said(words)
    if "tar" not in said:
        if command.exit_code in (3, 126, 127):
            raise Refused(f"the helper cannot pack the job directory ({command.exit_code}): {_text(words)}")
        raise Unreachable(f"the helper ended in the middle of it ({command.exit_code}): {_text(words)}")
    if said.get("sum", digest.hexdigest()) != digest.hexdigest():
        raise Unreachable("the job directory was damaged on its way out of the pod")
    outcome.complete = said["tar"] == "0"


def signal_job(cluster: Cluster, ref: JobRef, signal_name: str, *, container_id: str | None = None) -> bool:
    """Send the job's main process a signal (``TERM``, ``KILL``); False when there is no way, or no such process.

    It is known by its SITEWARD_JOB_ID; jobs that write over their environment by ``container_id`` as well, as the
    pod's status has it.
    """
    mark = f"SITEWARD_JOB_ID={ref.job_id}"
    cgroup = (container_id or "").rpartition("/")[2] or mark
    try:
        code, _output, _words = _run(cluster, ref, HELPER, _SIGNAL, signal_name, mark, cgroup).output()
    except Refused:
        return False
    return code == 0


def waits_for_directory(cluster: Cluster, ref: JobRef) -> bool:
    """Whether a pod's first container runs just now: its job waits for the job directory, and surely does not run."""
    try:
        _run(cluster, ref, STAGE, "exit 0").output()
    except Refused:
        return False
    return True


def _run(
    cluster: Cluster,
    ref: JobRef,
    container: str,
    script: str,
    *arguments: str,
    stdin: Iterable[bytes] | None = None,
    timeout: float = _SHORTLY,
) -> Exec:
    argv = ["sh", "-c", script, "siteward", *arguments]
    data: Mapping[str, Any] = ref.data
    return cluster.exec(data["name"], container, argv, stdin=stdin, timeout=timeout, namespace=data.get("namespace"))


def _said(output: bytes) -> dict[str, str]:
    """Read a script's lines: a word, and what it says of it."""
    lines = (line.partition(" ") for line in output.decode("utf-8", "replace").splitlines())
    return {word: rest.strip() for word, space, rest in lines if space and word in ("tar", "draft", "sum")}


def _text(words: bytes) -> str:
    return words[-_MOST_WORDS:].decode("utf-8", "replace").strip() or "it said nothing"
