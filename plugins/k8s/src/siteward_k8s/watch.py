"""One stream of a site's pods, and one of what Kubernetes says about pods that do not start."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from logging import Logger
from typing import Any, Protocol

from siteward_k8s.reflector import Changes, Ears, Patience, Reflector

CHUNK = 500
# The server sends a bookmark each minute: a watch that brings nothing for longer is dead.
SILENCE = 75.0
_SERVER_TIMEOUT = (300, 600)
# Of what is said of each pod that starts as it should, only what it does about its image is of use.
_EVENTS = "involvedObject.kind=Pod," + ",".join(
    f"reason!={reason}" for reason in ("Scheduled", "Created", "Started", "Killing")
)


class Api(Protocol):
    """What a watch needs of a cluster."""

    @property
    def namespace(self) -> str:
        """The namespace of the site's pods."""

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Read what is at a path."""

    def watch(self, path: str, params: Mapping[str, Any], timeout: float) -> Changes:
        """Watch a collection; it breaks when nothing comes for ``timeout`` seconds."""


class _Listing:
    """A collection's objects, a page at a time."""

    def __init__(self, api: Api, path: str, selectors: Mapping[str, str]) -> None:
        self._api, self._path, self._selectors = api, path, selectors
        self.version = ""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        more: dict[str, str] = {}
        while True:
            page = self._api.get(self._path, {**self._selectors, "limit": CHUNK, **more})
            self.version = page["metadata"]["resourceVersion"]
            yield from page.get("items") or ()
            if not (token := page["metadata"].get("continue")):
                return
            more = {"continue": token}


class _Collection:
    """A collection of the site's namespace, as a reflector's source."""

    def __init__(self, api: Api, plural: str, selectors: Mapping[str, str], silence: float) -> None:
        self._api, self._plural, self._selectors = api, plural, selectors
        self._silence = silence

    @property
    def _path(self) -> str:
        return f"/api/v1/namespaces/{self._api.namespace}/{self._plural}"

    def list(self) -> _Listing:
        return _Listing(self._api, self._path, self._selectors)

    def open(self, version: str) -> Changes:
        params = {
            **self._selectors,
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": random.randint(*_SERVER_TIMEOUT),  # noqa: S311
        }
        return self._api.watch(self._path, params, self._silence)


class Watch:
    """Follows the pods of a selector from :meth:`start` on, and events of pods from :meth:`start_events` on.

    Callbacks of pods come in one thread, those of events in another. ``on_list`` gets all pods at first and whenever
    changes may have been missed, ``on_pod`` each change (``ADDED``, ``MODIFIED``, ``DELETED`` and the pod).
    ``on_outage`` says that the pods cannot be seen just now, ``on_return`` that they can be again; after it come the
    changes that were missed. ``failed`` says that watching is forbidden; it is tried again now and then. Events that
    cannot be had are done without.
    """

    def __init__(
        self,
        cluster: Api,
        selector: str,
        *,
        on_pod: Callable[[str, dict[str, Any]], object],
        on_list: Callable[[Iterable[dict[str, Any]]], object],
        on_event: Callable[[dict[str, Any]], object],
        on_events_list: Callable[[Iterable[dict[str, Any]]], object],
        on_outage: Callable[[Exception], object],
        on_return: Callable[[], object],
        failed: Callable[[Exception], object],
        log: Logger,
        silence: float = SILENCE,
        patience: Patience | None = None,
    ) -> None:
        pods = _Collection(cluster, "pods", {"labelSelector": selector}, silence)
        events = _Collection(cluster, "events", {"fieldSelector": _EVENTS}, silence)
        pod_ears = Ears(
            on_list=on_list, on_change=on_pod, on_outage=on_outage, on_return=on_return, on_forbidden=failed
        )
        event_ears = Ears(
            on_list=on_events_list,
            on_change=lambda kind, event: None if kind == "DELETED" else on_event(event),
            on_forbidden=lambda error: log.warning("why pods do not start cannot be seen: %s", error),
        )
        self._pods = Reflector("siteward-k8s-pods", pods, pod_ears, log, patience)
        self._events = Reflector("siteward-k8s-events", events, event_ears, log, patience)

    def start(self) -> None:
        """Follow the pods."""
        self._pods.start()

    def start_events(self) -> None:
        """Follow events too, from now on; harmless when they are followed."""
        self._events.start()

    def close(self) -> None:
        """Stop; when this returns, nothing is called any more."""
        for each in (self._pods, self._events):
            each.hang_up()
        for each in (self._pods, self._events):
            each.close()
