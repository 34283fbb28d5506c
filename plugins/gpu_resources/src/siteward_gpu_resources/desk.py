"""What every manager here does alike: reserve, cancel, allocate and free by token, and tell who has what."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from siteward import Allocation, Context, Refusal, Reservation, ResourceError
from siteward_gpu_resources.holders import Holder
from siteward_gpu_resources.leases import Lease, Leases

_EMPTY = "none-"


def check_period(seconds: float) -> str | None:
    """Refuse an ``expiration_period`` that is no time at all."""
    return None if seconds > 0 else f"expected a number of seconds above 0, got {seconds}"


class Desk:
    """Hands out grants for one site. ``folder`` is where its leases are; ``shared`` with all users of the host."""

    def __init__(self, context: Context, period: float, folder: Path, *, shared: bool = False) -> None:
        self._context = context
        self._period = period
        issuer = "\0".join((context.backend, context.site, str(context.directory)))
        self.leases = Leases(folder, shared=shared, issuer=issuer)

    @classmethod
    def of_site(cls, context: Context, period: float) -> Desk:
        """Return a desk for units that are the site's own."""
        return cls(context, period, context.directory / "leases")

    def reserve(
        self, job_id: str, choose: Callable[[list[Lease]], Mapping[str, Any] | Refusal]
    ) -> Reservation | Refusal:
        """Reserve what ``choose`` picks for a job; the reservation's units are the grants."""
        answer = self.leases.reserve(Holder.of(self._context, job_id), self._period, choose)
        if isinstance(answer, Refusal):
            return answer
        token, grants = answer
        return Reservation(token=token, expires_at=time.time() + self._period, units=grants)

    def nothing(self) -> Reservation:
        """Return a reservation for a job that asks for nothing: no lease, no end."""
        return Reservation(token=_EMPTY + self.leases.new_token())

    def cancel(self, token: str) -> None:
        """Give a reservation back."""
        if not self._is_empty(token):
            self.leases.cancel(token)

    def hold(self, token: str, job_id: str) -> Lease | None:
        """Turn a reservation into the job's lease; None for the token of a job that asked for nothing."""
        return None if self._is_empty(token) else self.leases.hold(token, Holder.of(self._context, job_id))

    def free(self, token: str) -> None:
        """Give back what a job held."""
        if not self._is_empty(token):
            self.leases.free(token)

    def _is_empty(self, token: str) -> bool:
        if not isinstance(token, str):
            raise ResourceError(f"expected a token, got {token!r}; nothing was changed")
        if token.startswith(_EMPTY):
            self.leases.check_token(token.removeprefix(_EMPTY))
            return True
        return False

    def holders(self) -> Iterator[tuple[str, Any, str, dict[str, Any]]]:
        """Yield each grant as its key, its amount, the job's id, and the job's site and since when it has it."""
        for lease in self.leases.look():
            since = datetime.fromtimestamp(lease.since, tz=UTC).astimezone().isoformat(timespec="seconds")
            who = {"site": lease.holder.site, "since": since, "state": "held" if lease.held else "reserved"}
            for key, amount in lease.grants.items():
                yield key, amount, lease.holder.job_id, who


def empty_allocation(token: str, **more: Any) -> Allocation:
    """Return the allocation of a job that holds nothing."""
    return Allocation(token=token, to_free=False, **more)
