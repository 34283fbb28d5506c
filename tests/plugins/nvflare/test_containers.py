"""The launcher with real containers, without a federation: what FLARE's own Docker launcher gets wrong."""

import gc
import threading

import pytest

from siteward import JobState

from ...engine import images
from ...engine.fixtures import skipping
from .parent import CODES, DEADLINE, UNKNOWN, ends, until

# docker-py leaves a socket that it cannot connect to the garbage collector.
pytestmark = [pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")]
WAIT = "while not os.path.exists('go'): time.sleep(0.05)\n"


@pytest.fixture(scope="module")
def mortal(own_engine):
    """An engine that is the tests' own to kill, with an image of Python; containers outlive it."""
    engine = own_engine(live_restore=True)
    with skipping():
        return engine, images.provide(engine, images.PYTHON)


@pytest.fixture
def contained(make, mortal):
    """A parent whose jobs are containers."""
    engine, image = mortal
    docker = {"docker_host": engine.host, "network": "none", "pull": "never", "default_image": image}
    parent = make(backends={"docker": docker}, default_backend="docker")
    yield parent
    if engine.pid is None:
        engine.start()
    parent.close()
    gc.collect()


def test_codes_of_containers_reach_flare_as_they_are(contained):
    """All kinds of ends at once; FLARE's own launcher makes 1 of all but 0 and 9."""
    handles = [contained.launch(f"job-{number}", behaviour) for number, (behaviour, _) in enumerate(CODES.values())]
    assert [ends(handle) for handle in handles] == [code for _, code in CODES.values()]


def test_waiting_outlasts_the_engine(contained, mortal):
    """An engine that goes away ends no wait (FLARE's own returns then), and the end is the true one."""
    engine, _ = mortal
    handle = contained.launch(behaviour=WAIT + "os._exit(103)")
    until(lambda: contained.status().state is JobState.RUNNING, what="the job running")
    waiter = threading.Thread(target=handle.wait)
    waiter.start()
    engine.kill()
    until(lambda: not contained.status().reachable, what="the outage to be told")
    assert (handle.poll(), waiter.is_alive()) == (UNKNOWN, True)
    engine.start()
    until(lambda: contained.status().reachable, what="the engine seen again")
    assert (handle.poll(), waiter.is_alive()) == (UNKNOWN, True)
    (contained.bridge.site.attach("job-1-site-1").job_dir / "go").touch()
    waiter.join(DEADLINE)
    assert not waiter.is_alive()
    assert handle.poll() == 103


def test_an_abort_while_the_engine_is_away_comes_true(contained, mortal):
    """Later, and as an abort."""
    engine, _ = mortal
    handle = contained.launch(behaviour=WAIT)
    until(lambda: contained.status().state is JobState.RUNNING, what="the job running")
    engine.kill()
    until(lambda: not contained.status().reachable, what="the outage to be told")
    handle.terminate()
    assert handle.poll() == UNKNOWN
    engine.start()
    assert ends(handle) == 9
