"""How long a pod has waited, and for what."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siteward_k8s import layout
from siteward_k8s.clocks import Clocks, Waited
from siteward_k8s.facts import read_pod

from .pods import CREATED, container, facts, gated, pod, running, terminated, unscheduled, waiting

NEW = read_pod(pod(phase="Pending", node=None))
REFUSED = read_pod(unscheduled())
GATED = read_pod(gated("kueue.x-k8s.io/admission"))
BOUND = facts(waiting(), phase="Pending")
STAGING = facts(waiting("PodInitializing"), phase="Pending", inits=[container(layout.STAGE, running(3))])
STAGED = facts(waiting(), phase="Pending", inits=[container(layout.STAGE, terminated(0, started=3, finished=63))])
RUNNING = facts(running())
OVER = facts(terminated(0), phase="Succeeded")
UNKNOWN = facts(waiting(), phase="Unknown")


def waited(**seconds):
    return Waited(**{"unscheduled": 0.0, "scheduled": 0.0, "gated": 0.0, **seconds})


LIVES = [
    ("nothing at first", [(NEW, 100)], waited()),
    ("no verdict counts", [(NEW, 100), (NEW, 160)], waited(unscheduled=60)),
    ("a verdict does not reset", [(NEW, 100), (REFUSED, 110), (NEW, 150), (REFUSED, 190)], waited(unscheduled=90)),
    ("gates have their own", [(GATED, 100), (GATED, 400), (NEW, 500), (NEW, 530)], waited(gated=400, unscheduled=30)),
    ("two clocks", [(NEW, 0), (BOUND, 40), (BOUND, 100)], waited(unscheduled=40, scheduled=60)),
    ("staging is ours", [(BOUND, 0), (STAGING, 5), (STAGED, 65), (STAGED, 70)], waited(scheduled=10)),
    ("running stops all", [(BOUND, 0), (RUNNING, 5), (RUNNING, 65), (OVER, 99)], waited(scheduled=5)),
    ("straight to its end", [(NEW, 0), (OVER, 30), (OVER, 90)], waited(unscheduled=30)),
    ("an unknown phase waits for nothing", [(BOUND, 0), (UNKNOWN, 5), (UNKNOWN, 50)], waited(scheduled=5)),
    ("nor does a clock", [(NEW, 50), (NEW, 60), (NEW, 40)], waited(unscheduled=10)),
    ("time does not go back", [(NEW, 50), (NEW, 40), (NEW, 60)], waited(unscheduled=10)),
]


@pytest.mark.parametrize(("looks", "sum"), [each[1:] for each in LIVES], ids=[each[0] for each in LIVES])
def test_lives(looks, sum):
    """The time between two looks counts for what the pod waited for at the first."""
    clocks = Clocks()
    for seen, now in looks:
        found = clocks.advance(seen, now)
    assert found == sum


def test_clocks_stand_still_while_the_platform_cannot_be_asked():
    """An hour's outage ages no pod."""
    clocks = Clocks()
    clocks.advance(NEW, 0)
    clocks.pause(10)
    clocks.pause(600)
    assert clocks.advance(NEW, 3000).unscheduled == 10
    clocks.resume(3600)
    clocks.resume(3605)
    assert clocks.advance(NEW, 3610).unscheduled == 20


def test_a_pause_before_the_first_look():
    """A pod may be expected before the platform could ever be asked."""
    clocks = Clocks()
    clocks.pause(0)
    assert clocks.advance(NEW, 5) == waited()
    clocks.resume(10)
    assert clocks.advance(NEW, 15).unscheduled == 5


SEEN_FIRST = [
    ("unscheduled", REFUSED, 200, waited(unscheduled=200)),
    ("gated", GATED, 200, waited(gated=200)),
    ("scheduled", BOUND, 200, waited(unscheduled=1, scheduled=199)),
    ("staging", STAGING, 200, waited(unscheduled=1, scheduled=2)),
    ("staged", STAGED, 200, waited(unscheduled=1, scheduled=139)),
    ("running", RUNNING, 200, waited(unscheduled=1, scheduled=4)),
    ("our clock is behind the server's", REFUSED, -3600, waited()),
    ("and behind the scheduler's", BOUND, -3600, waited(unscheduled=1)),
    ("no time of creation", read_pod({**unscheduled(), "metadata": {"name": "p", "uid": "u"}}), 200, waited()),
]


@pytest.mark.parametrize(
    ("seen", "age", "sum"), [each[1:] for each in SEEN_FIRST], ids=[each[0] for each in SEEN_FIRST]
)
def test_a_new_driver_counts_what_was_waited_before(seen, age, sum):
    """A pod that was there before us has waited since it was created; a clock that is off makes it no less than 0."""
    clocks = Clocks(wall=CREATED + age)
    assert clocks.advance(seen, 7000.0) == sum
    later = clocks.advance(seen, 7010.0)
    assert later.total - sum.total == pytest.approx(0 if seen in (STAGING, RUNNING) else 10)


STEPS = st.one_of(
    st.tuples(st.just("look"), st.sampled_from([NEW, REFUSED, GATED, BOUND, STAGING, STAGED, RUNNING, OVER, UNKNOWN])),
    st.tuples(st.sampled_from(["pause", "resume"]), st.none()),
)


@given(
    wall=st.none() | st.floats(CREATED - 1e4, CREATED + 1e4),
    steps=st.lists(st.tuples(STEPS, st.floats(-10, 1000)), min_size=1),
)
def test_waiting_only_grows(wall, steps):
    """Whatever is seen, and however time goes, no clock goes back, nor do all count more than has passed."""
    clocks, now, first, last, before = Clocks(wall=wall), 0.0, None, Waited(), None
    for (what, seen), more in steps:
        now += more
        if what == "look":
            found = clocks.advance(seen, now)
            if first is None:
                first, before, latest = found, now, now
            latest = max(latest, now)
            for name in ("unscheduled", "scheduled", "gated"):
                assert getattr(found, name) >= getattr(last, name)
            assert found.total - first.total <= latest - before + 1e-6
            last = found
        else:
            getattr(clocks, what)(now)
            if first is not None:
                latest = max(latest, now)
