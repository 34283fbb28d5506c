"""Leases as files: one for each token, complete from the moment it has its name, gone when it is unlinked.

``TOKEN.r`` is a reservation, with a time at which it expires; named ``TOKEN.h`` it is held by a job. Contents never
change, and every change of the folder is made under one lock, so whoever is killed leaves it as it was before or
after his step.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from siteward import Refusal, ResourceError
from siteward_gpu_resources.holders import Holder, boot_id, now
from siteward_gpu_resources.lockfile import locked, make_folder, write_file

_NAME = re.compile(r"([0-9a-f]{40})\.([rh])")
_TOKEN = re.compile(r"([0-9a-f]{32})([0-9a-f]{8})")
_LARGEST = 1 << 20
_NO_LEASE = (errno.ENOENT, errno.EACCES, errno.ELOOP, errno.ENXIO)


@frozen(kw_only=True)
class Lease:
    """What one token holds: ``grants`` by unit; ``expires`` (see :func:`now`) while it is only reserved."""

    token: str
    holder: Holder
    grants: Mapping[str, Any]
    since: float
    expires: float | None = None
    ours: bool = True

    @property
    def held(self) -> bool:
        """Whether a job has it, not only a reservation."""
        return self.expires is None

    @property
    def expired(self) -> bool:
        """Whether it was a reservation whose time is over."""
        return self.expires is not None and (self.holder.boot != boot_id() or self.expires <= now())


class Leases:
    """The leases in one folder. ``shared``: all users of the host see them; ``issuer`` marks this site's tokens."""

    def __init__(self, folder: Path, *, shared: bool, issuer: str) -> None:
        self._path = str(folder)
        self._shared = shared
        self._mode = 0o644 if shared else 0o600
        self._key = blake2b(issuer.encode(), digest_size=32).digest()
        self._read: dict[str, Lease | None] = {}
        self._gone: set[str] = set()
        try:
            make_folder(folder, shared=shared)
        except OSError as error:
            words = f"{folder}, where leases are kept, cannot be made: {error.strerror or error}"
            raise ResourceError(f"{words}. Set the site file's lease_dir to a folder that can be written") from error

    # --- tokens ---

    def new_token(self) -> str:
        """Return a token that nobody had before."""
        body = secrets.token_hex(16)
        return body + self._mark(body)

    def _mark(self, body: str) -> str:
        return blake2b(body.encode(), key=self._key, digest_size=4).hexdigest()

    def check_token(self, token: str) -> None:
        """Refuse what this site never gave out, with ResourceError."""
        match = _TOKEN.fullmatch(token) if isinstance(token, str) else None
        if match is None or self._mark(match[1]) != match[2]:
            raise ResourceError(f"{token!r} is no token of this site's resource manager; nothing was changed")

    # --- steps ---

    def reserve(
        self, holder: Holder, period: float, choose: Callable[[list[Lease]], Mapping[str, Any] | Refusal]
    ) -> tuple[str, Mapping[str, Any]] | Refusal:
        """Reserve for ``period`` seconds what ``choose`` picks, seeing all other leases.

        When it refuses because of them, those are looked at once more: whatever is gone is dropped first.
        """
        with self._locked():
            others = self._leases()
            answer = choose(others)
            if not isinstance(answer, Refusal):
                return self._write_reservation(holder, period, answer)
        if answer.permanent or not self.drop_gone(others):
            return answer
        with self._locked():
            answer = choose(self._leases())
            return answer if isinstance(answer, Refusal) else self._write_reservation(holder, period, answer)

    def _write_reservation(
        self, holder: Holder, period: float, grants: Mapping[str, Any]
    ) -> tuple[str, Mapping[str, Any]]:
        token = self.new_token()
        self._write(Lease(token=token, holder=holder, grants=grants, since=time.time(), expires=now() + period))
        return token, grants

    def cancel(self, token: str) -> None:
        """Drop a reservation; one that is gone already is no error, one that a job holds is."""
        self.check_token(token)
        with self._locked():
            if self._has(token, "h"):
                raise ResourceError("the token is held by a job, and can only be freed; nothing was changed")
            self._unlink(token, "r")

    def hold(self, token: str, holder: Holder) -> Lease:
        """Turn a reservation into a lease of the same job; done before, it is the same again."""
        self.check_token(token)
        with self._locked():
            lease = self._get(token)
            if lease is None or lease.expired:
                raise ResourceError("the reservation has expired or was given back; check the job's resources again")
            if lease.holder.job_id != holder.job_id:
                words = f"the token is that of job {lease.holder.job_id!r}, not of {holder.job_id!r}"
                raise ResourceError(f"{words}; nothing was changed")
            return lease if lease.held else self._hold(lease, holder)

    def _hold(self, lease: Lease, holder: Holder) -> Lease:
        held = evolve(lease, holder=holder, expires=None)
        if lease.holder == holder:
            os.rename(f"{self._path}/{lease.token}.r", f"{self._path}/{lease.token}.h")
            self._read[f"{lease.token}.h"] = held
        else:  # another process reserved it
            self._write(held)
            self._unlink(lease.token, "r")
        return held

    def free(self, token: str) -> None:
        """Drop a lease, or a reservation; one that is gone already is no error."""
        self.check_token(token)
        with self._locked():
            self._unlink(token, "r")
            self._unlink(token, "h")

    def look(self) -> list[Lease]:
        """Return the leases of jobs that live, and reservations that count, oldest first."""
        with self._locked():
            found = self._leases()
        if self.drop_gone(found):
            with self._locked():
                found = self._leases()
        return sorted(found, key=lambda lease: lease.since)

    def drop_gone(self, leases: Iterable[Lease]) -> bool:
        """Drop those whose job is gone; whether there were any. Slow, so never called under the lock."""
        gone = [
            lease
            for lease in leases
            if lease.held and lease.holder.is_gone(lease.token, ours=lease.ours, dies_with_host=self._shared)
        ]
        if gone:
            with self._locked():
                for lease in gone:
                    self._unlink(lease.token, "h")
        return bool(gone)

    # --- files; all but the first only under the lock ---

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            with locked(f"{self._path}/lock", mode=self._mode):
                yield
        except OSError as error:
            words = f"the leases in {self._path} cannot be used: {error.strerror or error}"
            raise ResourceError(f"{words}. Check the folder's permissions and the disk's free space") from error

    def _write(self, lease: Lease) -> None:
        data = {
            "holder": lease.holder.data,
            "grants": dict(lease.grants),
            "since": lease.since,
            "expires": lease.expires,
        }
        name = f"{lease.token}.{'h' if lease.held else 'r'}"
        write_file(f"{self._path}/{name}", json.dumps(data).encode(), self._mode)
        self._read[name] = lease

    def _has(self, token: str, kind: str) -> bool:
        return os.path.lexists(f"{self._path}/{token}.{kind}")

    def _unlink(self, token: str, kind: str) -> None:
        try:
            os.unlink(f"{self._path}/{token}.{kind}")
        except FileNotFoundError:
            pass
        except PermissionError:  # another user's, in a sticky folder: what is gone need not be counted all the same
            self._gone.add(f"{token}.{kind}")

    def _get(self, token: str) -> Lease | None:
        kind = next((kind for kind in "hr" if self._has(token, kind)), None)
        return self._known(f"{token}.{kind}") if kind else None

    def _known(self, name: str) -> Lease | None:
        """Return the lease of a file that is there; each is read once."""
        if name not in self._read:
            self._read[name] = self._load(name)
        return self._read[name]

    def _leases(self) -> list[Lease]:
        """Return all that count; what is left over of expired reservations and killed writers goes."""
        found: dict[str, Lease] = {}
        with os.scandir(self._path) as entries:
            names = [entry.name for entry in entries]
        for name in names:
            if name.endswith(".tmp"):
                with suppress(OSError):
                    os.unlink(f"{self._path}/{name}")
            if _NAME.fullmatch(name) is None or name in self._gone:
                continue
            lease = self._known(name)
            if lease is None or (not lease.held and lease.token in found):
                continue
            if lease.expired:
                self._unlink(lease.token, "r")
            else:
                found[lease.token] = lease
        if len(self._read) > 2 * len(names) + 16:
            self._read = {name: lease for name, lease in self._read.items() if name in names}
        return list(found.values())

    def _load(self, name: str) -> Lease | None:
        """Read one file, None if it is gone or no lease: other users can put anything into a shared folder."""
        try:
            fd = os.open(f"{self._path}/{name}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in _NO_LEASE:
                return None
            raise
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST:
                return None
            data = json.loads(os.read(fd, _LARGEST))
            lease = Lease(
                token=name.partition(".")[0],
                holder=Holder.read(data["holder"]),
                grants=dict(data["grants"]),
                since=float(data["since"]),
                expires=None if name.endswith(".h") else float(data["expires"]),
                ours=status.st_uid == os.geteuid(),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        finally:
            os.close(fd)
        return lease
