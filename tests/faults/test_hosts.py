"""Programs that host a Site: several Sites at once, forks, callbacks that work."""

import os
import subprocess
import sys

import pytest

from siteward import Job, Site, SiteFile, SitewardError
from siteward.handle import _lines


@pytest.fixture
def site_file(tmp_path):
    """A site file with the process backend, on disk too, for other processes."""
    (tmp_path / "site.yaml").write_text(
        "name: s\nbackends: {process: {}}\ndefault_backend: process\nstate_dir: state\n"
    )
    return SiteFile.load(tmp_path / "site.yaml")


def job(*command, **more):
    return Job.from_mapping({"name": "j", "command": list(command), **more})


def test_a_second_site_in_one_process_costs_the_first_nothing(site_file):
    """Opening the same site again keeps the first one's store whole, though other processes come and go."""
    with Site(site_file) as first, Site(site_file):
        first.launch(job("true")).wait(30)
        command = [sys.executable, "-m", "siteward", "ps", "--all", "--site", site_file.file]
        subprocess.run(command, check=True, capture_output=True)
        first.launch(job("true", id="later")).wait(30)
        open_files = {os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_link(fd)}
        assert not [name for name in open_files if "siteward.db" in name and name.endswith("(deleted)")]
        assert "later" in subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _is_link(fd):
    return os.path.lexists(f"/proc/self/fd/{fd}")


def test_a_done_callback_may_launch_and_wait(site_file):
    """A callback that runs the next job and waits for it holds up no other job."""
    with Site(site_file) as site:
        ends = []
        first = site.launch(job("true"))
        first.add_done_callback(lambda handle: ends.append(site.launch(job("sh", "-c", "exit 5")).wait(30).exit_code))
        assert site.launch(job("sh", "-c", "exit 7")).wait(30).exit_code == 7
        deadline = site.launch(job("true"))
        deadline.wait(30)
        while not ends:
            site.launch(job("true")).wait(30)
        assert ends == [5]


def test_a_done_callback_that_raises_is_logged(site_file, caplog):
    """What a callback raises goes to the log, and the result is there all the same."""
    with Site(site_file) as site:
        handle = site.launch(job("true"))
        handle.add_done_callback(lambda _handle: 1 / 0)
        handle.wait(30)
        while "ZeroDivisionError" not in caplog.text:
            site.launch(job("true")).wait(30)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_is_told_to_open_the_site_itself(site_file):
    """In a fork of the program an open Site refuses in words; the parent's goes on."""
    with Site(site_file) as site:
        handle = site.launch(job("sh", "-c", "sleep 0.3; exit 4"))
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            words = []
            for act in (lambda: handle.wait(5), lambda: site.launch(job("true")), handle.terminate):
                try:
                    act()
                    words.append("did")
                except SitewardError as error:
                    words.append("refused" if "load it again" in str(error) else str(error))
                except BaseException as error:
                    words.append(repr(error))
            site.close()
            os.write(write, ",".join(words).encode())
            os._exit(0)
        os.close(write)
        os.waitpid(pid, 0)
        assert os.read(read, 4096) == b"refused,refused,refused"
        os.close(read)
        assert handle.wait(30).exit_code == 4
        assert site.launch(job("sh", "-c", "exit 6")).wait(30).exit_code == 6


def test_output_without_newlines_comes_in_pieces():
    """A line that never ends is neither kept whole in memory nor slow to cut."""
    chunks = (b"x" * 65536 for _ in range(64))
    pieces = list(_lines(chunks))
    assert sum(map(len, pieces)) == 64 * 65536
    assert max(map(len, pieces)) <= 2**20 + 65536
    assert list(_lines(iter([b"a\nb", b"c\n", b"d"]))) == [b"a\n", b"bc\n", b"d"]
