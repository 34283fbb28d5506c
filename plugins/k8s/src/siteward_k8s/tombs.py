"""The pods that are done with, of which the watch may have last news."""

from __future__ import annotations

_MOST = 10_000


class Tombs:
    """Remembers the uids that were added last."""

    def __init__(self) -> None:
        self._uids: dict[str, None] = {}

    def add(self, uid: str | None) -> None:
        """Remember a uid; None is none."""
        if uid is not None:
            self._uids[uid] = None
            if len(self._uids) > _MOST:
                del self._uids[next(iter(self._uids))]

    def __contains__(self, uid: str) -> bool:
        """Whether it was added, and not so long ago that it is forgotten."""
        return uid in self._uids
