"""Jobs that do not see this machine's files: FLARE's workspace goes there and comes back."""

import os

import pytest

from siteward_nvflare.carrying import bring_home, pack

from .parent import PATIENT, ends, until


@pytest.fixture
def remote(make):
    """A parent whose backend is taken for one on another machine: everything is carried."""
    return make(shared=[])


def test_a_workspace_is_carried_to_and_fro(remote):
    """The job sees a workspace of its own, at another path; what it leaves in its folder comes home before the end."""
    (remote.root / "local" / "study_runtime.yaml").write_text("secrets")
    (remote.root / "startup" / "start.sh").write_text("")
    behaviour = (
        "tell('seen', [workspace, sorted(os.listdir(workspace)), sorted(os.listdir(workspace + '/startup')),"
        " os.listdir(workspace + '/local'), [each for each in sys.path if 'custom' in each]])\n"
        "os.mkdir(os.path.join(workspace, job, 'models'))\n"
        "open(os.path.join(workspace, job, 'models', 'best'), 'w').write('weights')\n"
        "os.symlink('/etc/passwd', os.path.join(workspace, job, 'link'))"
    )
    assert ends(remote.launch(behaviour=behaviour)) == 0
    workspace, top, startup, local, path = remote.told("job-1", "seen")
    assert workspace != str(remote.root)
    assert top == ["job-1", "local", "startup"]
    assert startup == ["client.key"]
    assert local == []
    assert path == [f"{workspace}/job-1/app_site-1/custom", f"{workspace}/local/custom"]
    assert (remote.root / "job-1" / "models" / "best").read_text() == "weights"
    assert not os.path.lexists(remote.root / "job-1" / "link")


def test_results_come_home_whatever_the_end(remote):
    """Also of a job that is aborted; FLARE's own transfer happens only at a clean exit."""
    handle = remote.launch(behaviour=PATIENT)
    jobs = remote.folder / "state" / "jobs" / "job-1-site-1" / "work"
    until((jobs / "job-1" / "up").exists)
    handle.terminate()
    assert ends(handle) == 9
    assert remote.told("job-1", "term") == 1


def test_no_key_stays_behind(remote):
    """siteward keeps ended jobs' folders for a while; keys and certificates are not in them."""
    assert ends(remote.launch()) == 0
    kept = [path for path in (remote.folder / "state").rglob("*") if path.is_file()]
    assert kept
    assert not [path for path in kept if b"very-secret-key" in path.read_bytes()]
    assert not list((remote.folder / "state").glob("flare-*"))


def test_what_is_the_site_s_own_does_not_go(tmp_path):
    """Its file, its state and its secrets, should they lie in `local`; of the kit only what a job process reads."""
    workspace, target = tmp_path / "workspace", tmp_path / "state" / "target"
    files = {
        "startup/client.key": True,
        "startup/fed_client.json": True,
        "startup/start.sh": False,
        "local/resources.json": True,
        "local/custom/code.py": True,
        "local/siteward__p_resources.json": False,
        "local/study_runtime.yaml": False,
        "local/site.yaml": False,
        "local/secrets/token": False,
        "local/state/siteward.db": False,
        "job/app/config.json": True,
        "another-job/log.txt": False,
        "daemon_pid.fl": False,
    }
    for name in files:
        (workspace / name).parent.mkdir(parents=True, exist_ok=True)
        (workspace / name).write_text(name)
    local = workspace / "local"
    pack(workspace, "job", target, leave_out=[local / "site.yaml", local / "secrets" / "token", local / "state"])
    packed = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    assert packed == {name for name, goes in files.items() if goes}


def test_only_plain_files_come_home(tmp_path):
    """Links and pipes stay, and nothing is written through a link at home; the rest comes, and what did not is told."""
    left, home, elsewhere = tmp_path / "work" / "job", tmp_path / "home", tmp_path / "elsewhere"
    for folder in (left / "deep" / "er", left / "linked", home / "job", elsewhere):
        folder.mkdir(parents=True)
    (left / "deep" / "er" / "file").write_bytes(b"1")
    (left / "linked" / "file").write_text("through a link")
    (left / "over").write_text("through a link")
    (left / "changed").write_text("new")
    (home / "job" / "changed").write_text("old and longer")
    (home / "job" / "linked").symlink_to(elsewhere)
    (home / "job" / "over").symlink_to(elsewhere / "over")
    (left / "link").symlink_to("/etc/passwd")
    os.mkfifo(left / "pipe")
    skipped = bring_home(tmp_path / "work", "job", home)
    assert (home / "job" / "deep" / "er" / "file").read_bytes() == b"1"
    assert (home / "job" / "changed").read_text() == "new"
    assert list(elsewhere.iterdir()) == []
    assert sorted(words.split(":")[0] for words in skipped) == ["job/link", "job/linked", "job/over", "job/pipe"]


def test_a_job_that_left_nothing_is_told(tmp_path):
    """Its folder may not have come back at all."""
    (tmp_path / "home" / "job").mkdir(parents=True)
    assert len(bring_home(tmp_path / "work", "job", tmp_path / "home")) == 1
