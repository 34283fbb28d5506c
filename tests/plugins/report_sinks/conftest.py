"""What the tests of the sinks share: a receiver, and sites whose jobs fail."""

import threading

import pytest

from siteward import Job, Plugins, Site, SiteFile
from siteward_report_sinks.file import ReportFile
from siteward_report_sinks.webhook import ReportWebhook

from .receiver import receiving


@pytest.fixture
def receiver(tmp_path):
    """A receiver that is up."""
    with receiving(tmp_path) as receiver:
        yield receiver


class Sites:
    """Sites with both sinks, in one folder."""

    def __init__(self, folder):
        self.folder = folder
        self._opened = []

    def open(self, name="clinic", *, more=(), **blocks):
        plugins = Plugins()
        plugins.add("siteward.plugins", "report_file", ReportFile)
        plugins.add("siteward.plugins", "report_webhook", ReportWebhook)
        for each, plugin in dict(more).items():
            plugins.add("siteward.plugins", each, plugin)
        data = {"name": name, "backends": {"process": {}}, "default_backend": "process", "plugins": blocks}
        site = Site(
            SiteFile.from_mapping({**data, "state_dir": f"state-{name}"}, base_dir=self.folder), plugins=plugins
        )
        self._opened.append(site)
        return site

    def close(self):
        for site in self._opened:
            site.close()


@pytest.fixture
def sites(tmp_path):
    """Open sites; all are closed at the end, and leave no thread behind."""
    sites = Sites(tmp_path)
    yield sites
    sites.close()
    assert [each.name for each in threading.enumerate() if each.name == "siteward-report-webhook"] == []


def fail(site, code=101, **more):
    """Run a job that exits with a code; return its result."""
    data = {"name": "j", "command": ["sh", "-c", f"echo from {site.name}; exit {code}"]}
    return site.launch(Job.from_mapping({**data, **more})).wait(60)
