"""Sink ``report_webhook``: failure reports go to a web address, over HTTPS, sooner or later."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from attrs import field, frozen

from siteward import Context, JobRef, Problem, Result, check_positive, hookimpl, safe_name
from siteward_report_sinks.record import key_of, record_of
from siteward_report_sinks.source import Source
from siteward_report_sinks.spool import Spool

if TYPE_CHECKING:
    from siteward_report_sinks.client import Client
    from siteward_report_sinks.delivery import Delivery

_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)
_OURS = ("authorization", "content-length", "content-type", "host", "idempotency-key", "transfer-encoding")


def _check_url(url: str | Source) -> str | None:
    """Refuse what is no HTTPS address; the address itself may be a secret, and is not in the words."""
    if isinstance(url, Source):
        return None
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        return f"is not an address: {error}"
    if parts.scheme != "https" or not parts.hostname or not url.isascii() or re.search(r"\s", url):
        return "expected an address that begins with https://"
    return "give a login as a token, not in the address" if "@" in parts.netloc else None


def _check_headers(headers: Mapping[str, str]) -> list[Problem] | None:
    problems = []
    for name, value in headers.items():
        if not _HEADER.fullmatch(name):
            problems.append(Problem(name, "is not a header's name"))
        elif name.lower() in _OURS:
            problems.append(Problem(name, "is set by the plugin itself"))
        elif not value.isascii() or not value.isprintable():
            problems.append(Problem(name, "expected printable ASCII text"))
    return problems or None


def _check_seconds(value: float) -> str | None:
    return check_positive(value) or (None if value <= 86400 else f"expected at most a day, 86400, got {value}")


class ReportWebhook:
    """Keeps each report on the disk until its receiver has it; an address that is away holds up no job."""

    api = 1

    @frozen(kw_only=True)
    class SiteOptions:
        """Whom to tell, and how."""

        url: str | Source = field(
            metadata={"help": "the address, https://…; or {env: …}, {file: …} where it is secret", "check": _check_url}
        )
        token: Source | None = field(
            default=None, metadata={"help": "where the bearer token is: {env: …} or {file: …}"}
        )
        headers: Mapping[str, str] = field(
            factory=dict, metadata={"help": "further headers; for what is no secret", "check": _check_headers}
        )
        ca_file: str | None = field(
            default=None, metadata={"help": "certificates to trust instead of the system's (PEM)"}
        )
        timeout: float = field(
            default=10.0, metadata={"help": "seconds that one step of a delivery may take", "check": _check_seconds}
        )
        longest_pause: float = field(
            default=300.0, metadata={"help": "most seconds between two tries", "check": _check_seconds}
        )
        patience: float = field(
            default=5.0,
            metadata={"help": "most seconds that closing the site waits for a first try", "check": _check_seconds},
        )
        unreportable: bool = field(
            default=False, metadata={"help": "tell also reports that concern nobody else, such as of exit code 1"}
        )

    def __init__(self, context: Context, options: ReportWebhook.SiteOptions) -> None:
        self._context = context
        self._options = options
        self._spool = Spool(context.directory)
        self._delivery: Delivery | None = None

    def open(self) -> None:
        """Deliver what other processes have left."""
        self._spool.forget()
        if self._spool.waiting():
            self._deliver()

    @hookimpl
    def siteward_job_ended(self, ref: JobRef, result: Result) -> None:
        """Keep the report, and let it be delivered in the background."""
        record = record_of(ref, result)
        if record is None or not (record["reportable"] or self._options.unreportable):
            return
        if self._spool.put(key_of(record), record):
            self._deliver()
        else:
            self._context.log.info("job %s: its report is told already; this one is dropped", ref.job_id)

    def close(self) -> None:
        """Let first tries come to their end; what could not be delivered stays for the next who opens the site."""
        if self._delivery is not None:
            self._delivery.close(self._options.patience)

    def _deliver(self) -> None:
        if self._delivery is None:
            from siteward_report_sinks.delivery import Delivery

            pause = self._options.longest_pause
            self._delivery = Delivery(self._spool, self._connect, longest_pause=pause, log=self._context.log)
        self._delivery.wake()

    def _connect(self) -> Client:
        """Read address and token, as they are now; ValueError says in words what is wrong with them."""
        import httpx

        from siteward_report_sinks.client import Client, Receiver

        options, base_dir = self._options, self._context.base_dir
        url = options.url.read(base_dir) if isinstance(options.url, Source) else options.url
        if words := _check_url(url):
            raise ValueError(f"plugins.report_webhook.url: {words}")
        headers = {**options.headers, "Siteward-Site": safe_name(self._context.site)}
        if options.token is not None:
            headers["Authorization"] = f"Bearer {_check_token(options.token.read(base_dir))}"
        ca_file = None if options.ca_file is None else base_dir / os.path.expanduser(options.ca_file)
        return Client(Receiver(url=httpx.URL(url), headers=headers, ca_file=ca_file, timeout=options.timeout))


def _check_token(token: str) -> str:
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("plugins.report_webhook.token: expected one line of printable ASCII text without spaces")
    return token
