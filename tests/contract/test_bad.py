"""The kit sees what it is there to see: each bad backend fails the promise that it breaks, and no other."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from siteward.testing import BackendContract
from siteward.testing.promises import promises_of, words_of

from . import bad

HERE = Path(__file__).parent
MODULE = """
import importlib.util, sys
import pytest
from siteward.testing import BackendContract, BackendSetup

pytest_plugins = ["siteward.testing.fixtures"]
package = sys.modules["contract"] = importlib.util.module_from_spec(importlib.util.spec_from_loader("contract", None))
package.__path__ = [{here!r}]
from contract import bad

"""
SUBCLASS = """
class Test{name}(BackendContract):
    @pytest.fixture
    def backend_setup(self):
        return BackendSetup(name="bad", plugin=bad.{name}, patience=0.4, concurrent=8)
"""


def run_contract(folder, names):
    """Run the whole contract on some bad backends; return pytest's output."""
    (folder / "tmp").mkdir()
    module = MODULE.format(here=str(HERE)) + "".join(SUBCLASS.format(name=name) for name in names)
    (folder / "test_it.py").write_text(module)
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    options = ["-q", "-rfE", "--tb=short", "-p", "no:cacheprovider", "-p", "no:asyncio", f"--basetemp={folder}/base"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "test_it.py"],
        cwd=folder,
        env=os.environ | {"TMPDIR": str(folder / "tmp"), "PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=600,
    )
    return run.stdout


@pytest.fixture(scope="module")
def outputs(request, tmp_path_factory):
    """What pytest says of every bad backend that this session asks for; most of its time it waits for processes."""
    calls = (getattr(item, "callspec", None) for item in request.session.items)
    asked = [call.params["backend"] for call in calls if call is not None and "backend" in call.params]
    count = 1 + (os.cpu_count() or 1)
    with ThreadPoolExecutor(count) as pool:
        shares = [asked[index::count] for index in range(min(count, len(asked)))]
        runs = {tuple(names): pool.submit(run_contract, tmp_path_factory.mktemp("bad"), names) for names in shares}
        return {name: run.result() for names, run in runs.items() for name in names}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("backend", bad.DETECTED_BY)
def test_exactly_the_broken_promises_fail(backend, outputs):
    """A bad backend fails the tests of the promise that it breaks, and the report says so in the promise's words."""
    output = outputs[backend]
    assert f"(Test{backend}): " in output, output
    failed = set(re.findall(rf"^(?:FAILED|ERROR) test_it\.py::Test{backend}::(\w+)", output, re.MULTILINE))
    assert failed == bad.DETECTED_BY[backend], output
    for name in failed:
        words = words_of(promises_of(BackendContract)[name])
        assert re.search(rf"^FAILED +{re.escape(words)} \(test_it\.py::Test{backend}::{name}\)$", output, re.MULTILINE)
