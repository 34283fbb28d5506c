"""Global plugins that are classes: one of each for every open site, with what its file says."""

from typing import ClassVar

import pytest
from attrs import evolve, field, frozen

from siteward import FileError, hookimpl

from .fake import job


@frozen(kw_only=True)
class Nothing:
    pass


@frozen(kw_only=True)
class Word:
    word: str = field(default="[x]", metadata={"help": "what is written"})


@frozen(kw_only=True)
class Where:
    path: str = field(metadata={"help": "where to"})


def plugin(options=Word, fault=None):
    """Return a class of plugins, with a list of those that were made."""

    class Plugin:
        api = 1
        SiteOptions = options
        made: ClassVar = []

        def __init__(self, context, options):
            if fault is not None:
                raise fault
            self.context, self.options, self.heard = context, options, []
            self.made.append(self)

        @hookimpl
        def siteward_filter_failure_report(self, report):
            return evolve(report, message=getattr(self.options, "word", ""))

        @hookimpl
        def siteward_job_ended(self, ref, result):
            self.heard.append((ref.job_id, result.report.message))

        def open(self):
            self.heard.append("open")

        def close(self):
            self.heard.append("close")

    return Plugin


def given(kind):
    """Return the fields of a place with this plugin, whose name is p."""
    return {"plugins": [("siteward.plugins", "p", kind)]}


def test_each_site_has_its_own_with_its_options(places):
    """Made when the site is opened; told of its jobs alone, and of its opening and closing."""
    kind = plugin()
    fields = given(kind)
    sites = []
    for number, word in enumerate("ab"):
        place = places("watch", name=f"s-{number}", **fields)
        sites.append((place, place.site(plugins={"p": {"word": word}})))
    for place, site in sites:
        handle = site.launch(job(id="j"))
        place.end("j", exit_code=101)
        assert handle.wait(20).report.message in "ab"
        site.close()
    assert [each.heard for each in kind.made] == [["open", ("j", word), "close"] for word in "ab"]
    assert [each.context.site for each in kind.made] == ["s-0", "s-1"]
    assert kind.made[0].context.directory.is_dir()
    assert kind.made[0].context.directory != kind.made[1].context.directory


def test_it_is_not_told_of_an_opening_just_for_looking(places):
    """With ``adopt=False`` the site runs no jobs."""
    kind = plugin()
    fields = given(kind)
    places("watch", **fields).site(adopt=False).close()
    assert kind.made[0].heard == ["close"]


@pytest.mark.parametrize(
    ("options", "block", "acts"), [(Word, False, True), (Where, False, False), (Where, True, True)]
)
def test_what_needs_options_acts_only_with_them(places, options, block, acts):
    """A filter acts when it is installed; a sink without a place to write to does not."""
    kind = plugin(options)
    fields = given(kind)
    places("watch", **fields).site(plugins={"p": {"path": "x"}} if block else {})
    assert bool(kind.made) is acts


def test_an_empty_block_is_a_block(places):
    """``p:`` with nothing behind it."""
    kind = plugin(Nothing)
    fields = given(kind)
    places("watch", **fields).site(plugins={"p": None})
    assert len(kind.made) == 1


class Plain:
    api = 1

    @hookimpl
    def siteward_job_ended(self, ref, result): ...


WRONG = {
    "an option of another type": (plugin(), {"p": {"word": 3}}, "plugins.p.word", "expected text"),
    "an unknown option": (plugin(), {"p": {"wurd": "a"}}, "plugins.p.wurd", "unknown key"),
    "a missing option": (plugin(Where), {"p": {}}, "plugins.p.path", "is missing"),
    "no such plugin": (plugin(), {"pp": {}}, "plugins.pp", "there is no plugin 'pp'"),
    "one without options": (Plain(), {"p": {}}, "plugins.p", "takes no options"),
    "one that cannot be set up": (
        plugin(fault=OSError("no disk")),
        {},
        "plugins.p",
        "cannot be set up: OSError: no disk",
    ),
    "a broken one": (object(), {"p": {}}, "plugins.p", "is broken"),
}


@pytest.mark.parametrize(("kind", "blocks", "path", "words"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_keeps_the_site_from_opening(places, kind, blocks, path, words):
    """With its path: a site without the filter that it names would tell what it wants hidden."""
    fields = given(kind)
    with pytest.raises(FileError) as caught:
        places("watch", **fields).site(plugins=blocks)
    [problem] = caught.value.problems
    assert problem.path == path
    assert words in problem.message


def test_what_open_and_close_raise_goes_to_the_log(places, caplog):
    """The site opens, and closes, all the same."""

    class Loud(plugin(Nothing)):
        def open(self):
            raise ValueError("in open")

        def close(self):
            raise ValueError("in close")

    fields = given(Loud)
    places("watch", **fields).site().close()
    assert "open of plugin p raised" in caplog.text
    assert "close of plugin p raised" in caplog.text


def test_a_class_is_made_with_nothing_else_than_options(places):
    """One without ``SiteOptions`` is broken, as it always was, and stops no site that does not name it."""

    class Bare(Plain):
        pass

    fields = given(Bare)
    site = places("watch", **fields).site()
    [record] = [record for record in site.plugins.records() if record.name == "p"]
    assert "names a class; let it name an instance" in record.reason
