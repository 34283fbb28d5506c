"""The thread that delivers what waits in a spool, and tries again, ever more rarely, while it can't."""

from __future__ import annotations

import threading
from collections.abc import Callable
from logging import Logger

from tenacity import RetryCallState, Retrying, retry_if_exception_type
from tenacity.nap import sleep_using_event
from tenacity.stop import stop_when_event_set
from tenacity.wait import wait_random_exponential

from siteward_report_sinks.client import Client, NeverDelivered, Undelivered
from siteward_report_sinks.spool import Spool

_JOIN = 1.0


class Delivery:
    """Delivers from one spool. ``connect`` makes a client anew for each round: addresses and tokens may change."""

    def __init__(self, spool: Spool, connect: Callable[[], Client], *, longest_pause: float, log: Logger) -> None:
        self._spool = spool
        self._connect = connect
        self._longest_pause = longest_pause
        self._log = log
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._settled = threading.Event()
        self._closing = threading.Event()

    def wake(self) -> None:
        """Let it deliver what waits; returns at once."""
        with self._lock:
            if self._closing.is_set():
                return
            self._settled.clear()
            self._news.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="siteward-report-webhook", daemon=True)
                self._thread.start()

    def close(self, patience: float) -> None:
        """Wait ``patience`` seconds for deliveries that have not failed yet; what is left stays on the disk."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            self._settled.wait(patience)
        self._closing.set()
        self._news.set()
        if thread is not None:
            thread.join(_JOIN)

    def _run(self) -> None:
        while True:
            self._news.wait()
            if self._closing.is_set():
                return
            self._news.clear()
            try:
                self._deliver_until_done()
            except Exception:
                self._log.exception("reports cannot be delivered; they stay in the site's state directory")
            if not self._news.is_set():
                self._settled.set()

    def _deliver_until_done(self) -> None:
        retrying = Retrying(
            retry=retry_if_exception_type((Undelivered, OSError, ValueError)),
            wait=wait_random_exponential(max=self._longest_pause),
            stop=stop_when_event_set(self._closing),
            sleep=sleep_using_event(self._closing),
            before_sleep=self._failed,
            retry_error_callback=lambda _state: None,
        )
        retrying(self._deliver_all)

    def _failed(self, state: RetryCallState) -> None:
        self._settled.set()
        error = state.outcome.exception() if state.outcome is not None else None
        tell = self._log.warning if state.attempt_number == 1 else self._log.debug
        tell("failure reports are kept and tried again, they cannot be delivered: %s", error)

    def _deliver_all(self) -> None:
        """Deliver each, oldest first; one that the receiver chokes on does not keep the others back."""
        with self._spool.delivering() as ours:
            keys = self._spool.waiting()
            if not keys:
                return
            if not ours:
                raise Undelivered("another process is delivering")
            failed: Undelivered | None = None
            client = self._connect()
            try:
                for key in keys:
                    try:
                        self._deliver(client, key)
                    except Undelivered as error:
                        failed = error
                        if not error.reached or self._closing.is_set():
                            break
            finally:
                client.close()
            if failed is not None:
                raise failed

    def _deliver(self, client: Client, key: str) -> None:
        record = self._spool.read(key)
        if record is None:
            return
        try:
            client.post(record)
        except NeverDelivered as error:
            self._log.error("the report of job %s is put aside: %s", record.get("job_id"), error)
            self._spool.refused(key)
        else:
            self._spool.delivered(key)
            self._log.debug("the report of job %s is delivered", record.get("job_id"))
