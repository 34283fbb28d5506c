"""Whether a run may start: who is asked, how long it waits, and what it says when it starts nowhere."""

import pytest

from siteward import LaunchError, OptionsRefused, Refusal, Verdict, run
from siteward.scheduling import Outlook, outlook

from .fake import job
from .managers import units, with_units

TAKEN = Refusal(reason="units", message="taken")
NEVER = Refusal(reason="units", message="never", permanent=True)
# ready, refused, needed, lead
OUTLOOKS = {
    "all ready": ("ab", {}, 2, None, Outlook.START),
    "enough ready": ("ab", {"c": NEVER}, 2, None, Outlook.START),
    "enough ready, one taken": ("a", {"b": TAKEN}, 1, None, Outlook.START),
    "one taken": ("a", {"b": TAKEN}, 2, None, Outlook.WAIT),
    "all taken": ("", {"a": TAKEN, "b": TAKEN}, 2, None, Outlook.WAIT),
    "enough with the one that is taken": ("a", {"b": TAKEN, "c": NEVER}, 2, None, Outlook.WAIT),
    "one never": ("a", {"b": NEVER}, 2, None, Outlook.HOPELESS),
    "one never, one taken": ("a", {"b": TAKEN, "c": NEVER}, 3, None, Outlook.HOPELESS),
    "one in error": ("a", {}, 2, None, Outlook.HOPELESS),
    "the lead is taken": ("a", {"b": TAKEN}, 1, "b", Outlook.WAIT),
    "the lead never": ("ac", {"b": NEVER}, 1, "b", Outlook.HOPELESS),
    "the lead is in error": ("ac", {}, 1, "b", Outlook.HOPELESS),
    "the lead is ready": ("a", {"b": NEVER}, 1, "a", Outlook.START),
}


@pytest.mark.parametrize(("ready", "refused", "needed", "lead", "expected"), OUTLOOKS.values(), ids=OUTLOOKS)
def test_outlook(ready, refused, needed, lead, expected):
    """Start with enough sites and the lead; wait only if that can bring them."""
    assert outlook(set(ready), refused, needed=needed, lead=lead) is expected


def no_sleep(_seconds):
    pytest.fail("it waits for what cannot come")


def limited(places, name, free):
    manager = units(free)
    return places("watch", "remove", name=name, **with_units(manager)), manager


def test_refused_resources_start_nothing_anywhere(places):
    """REFUSED, 104, each site's reason in words; what others had reserved is given back."""
    rich, manager = limited(places, "rich", 1)
    poor, _ = limited(places, "poor", 0)
    started = run(job(id="a"), [rich.site(), poor.site()])
    assert started.wait(0) is Verdict.REFUSED
    assert started.code == 104
    assert started.refused == {"poor": "1 units asked, 0 free"}
    assert "1 units asked" in started.message
    assert rich.platform.jobs() == poor.platform.jobs() == []
    assert manager.log[-1] == ("cancel", "t-a")
    assert manager.free == 1


def test_min_sites_of_them_are_enough(places):
    """The others are named with their reasons, and do not run."""
    rich, _ = limited(places, "rich", 1)
    poor, _ = limited(places, "poor", 0)
    started = run(job(id="a", min_sites=1), [rich.site(), poor.site()])
    assert (list(started.handles), set(started.refused)) == (["rich"], {"poor"})
    rich.end("a")
    assert started.wait(10) is Verdict.SUCCEEDED


def test_without_its_lead_a_run_does_not_start(places):
    """Enough sites, but not the lead: REFUSED."""
    rich, _ = limited(places, "rich", 1)
    poor, _ = limited(places, "poor", 0)
    started = run(job(id="a", sites=["rich", "poor"], min_sites=1, lead="poor"), [rich.site(), poor.site()])
    assert started.wait(0) is Verdict.REFUSED
    assert rich.platform.jobs() == []


def test_waiting_for_resources(places):
    """Refused sites are asked again until they can, or the time is over; who waits hears the reasons."""
    poor, manager = limited(places, "poor", 0)
    heard = []

    def on_wait(reasons):
        heard.append(reasons)
        if len(heard) == 2:
            manager.free = 1

    started = run(job(id="a"), [poor.site()], wait_resources=60, on_wait=on_wait, sleep=lambda _seconds: None)
    assert heard == [{"poor": "1 units asked, 0 free"}] * 2
    poor.end("a")
    assert started.wait(10) is Verdict.SUCCEEDED
    assert manager.log[-1] == ("free", "t-a")


def test_another_error_of_a_site_is_raised_before_anything_starts(places):
    """A site that cannot start the job for a reason that waiting does not mend: its own error."""
    good, manager = limited(places, "good", 1)
    bad = places("watch", name="bad")
    with pytest.raises(LaunchError, match="has no study 'x'"):
        run(job(study="x"), [bad.site()])
    with pytest.raises(LaunchError):
        run(job(launcher_spec={"bad": {"other": {}}, "good": {"fake": {}}}), [good.site(), bad.site()])
    assert good.platform.jobs() == []
    assert manager.free == 1


def test_it_does_not_wait_for_what_a_site_never_has(places):
    """REFUSED at once, however long it was told to wait, with the reasons; nothing stays reserved."""
    rich, manager = limited(places, "rich", 1)
    poor = places("watch", "remove", name="poor", **with_units(units(0, most=0)))
    started = run(job(id="a"), [rich.site(), poor.site()], wait_resources=600, sleep=no_sleep)
    assert started.wait(0) is Verdict.REFUSED
    assert started.message == (
        "1 of 2 sites can start it, and waiting cannot change that. poor: 1 units asked, there are 0"
    )
    assert manager.free == 1


def test_it_waits_for_a_site_though_another_is_out_of_the_question(places):
    """With min_sites a permanent refusal or an error of a site that is not needed ends no wait."""
    first, manager = limited(places, "first", 0)
    never = places("watch", "remove", name="never", **with_units(units(0, most=0)))
    wrong = places("watch", name="wrong")

    def free_it(_reasons):
        manager.free = 1

    each = job(id="a", min_sites=1, launcher_spec={"default": {"fake": {}}, "wrong": {"fake": {"level": "high"}}})
    sites = [first.site(), never.site(), wrong.site()]
    started = run(each, sites, wait_resources=60, on_wait=free_it, sleep=lambda _seconds: None)
    assert set(started.handles) == {"first"}
    assert started.refused["never"] == "1 units asked, there are 0"
    assert "wrong.fake.level" in started.refused["wrong"]
    first.end("a")
    assert started.wait(10) is Verdict.SUCCEEDED


def test_errors_come_before_refusals_that_no_wait_mends(places):
    """Where a site's error alone makes the run impossible, that is what is raised, at once."""
    first, manager = limited(places, "first", 0)
    wrong = places("watch", name="wrong")
    with pytest.raises(OptionsRefused, match="level"):
        run(
            job(launcher_spec={"default": {"fake": {}}, "wrong": {"fake": {"level": "high"}}}),
            [first.site(), wrong.site()],
            wait_resources=600,
            sleep=no_sleep,
        )
    assert manager.held == {}


def test_the_pauses_grow(places):
    """From under a second to a quarter of a minute."""
    poor, _ = limited(places, "poor", 0)
    pauses = []

    def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == 10:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run(job(id="a"), [poor.site()], wait_resources=10_000, sleep=sleep)
    assert pauses[0] <= 0.5
    assert max(pauses) <= 15
    assert min(pauses[6:]) >= 7.5


def test_an_interrupted_inquiry_gives_back_what_was_reserved(places, monkeypatch):
    """Ctrl-C between two sites leaves no reservation."""
    first, manager = limited(places, "first", 1)
    second = places("watch", name="second")
    sites = [first.site(), second.site()]

    def interrupted(_job):
        raise KeyboardInterrupt

    monkeypatch.setattr(sites[1], "prepare", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(job(id="a"), sites)
    assert (manager.free, manager.held) == (1, {})
