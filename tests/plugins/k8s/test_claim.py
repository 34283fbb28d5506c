"""Job directories on a claim: there and back, whatever a job leaves behind."""

import os

import pytest

from siteward import BackendError, Unreachable
from siteward_k8s.claim import Claim

NAME = "job-1"


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "claim"
    root.mkdir()
    return root


@pytest.fixture
def source(tmp_path):
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "data").write_bytes(bytes(range(256)) * 1000)
    (source / "run.sh").write_text("#!/bin/sh\n")
    (source / "run.sh").chmod(0o755)
    (source / "link").symlink_to("sub/data")
    return source


def tree(folder):
    """Return what is in a folder: names with contents, modes of files, and where links lead."""
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else (path.stat().st_mode & 0o777, path.read_bytes())
        if path.is_file()
        else None
        for path in folder.rglob("*")
    }


def test_what_goes_comes_back(root, source, tmp_path):
    """A job directory is the same on the claim and after it, also when it was put there twice."""
    claim = Claim(root)
    assert claim.put(NAME, source)
    assert not claim.put(NAME, source)
    assert tree(root / NAME) == tree(source)
    (root / NAME / "result").write_text("42")
    target = tmp_path / "target"
    target.mkdir()
    assert claim.get(NAME, target) == "returned"
    assert (target / "result").read_text() == "42"
    claim.drop(NAME)
    assert list(root.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="run the tests as root: only root can give files away")
def test_jobs_own_their_directory(root, source):
    """A site that runs as root makes the files those of the user that jobs run as, and no file that a link names."""
    outside = root.parent / "outside"
    outside.touch()
    (source / "away").symlink_to(outside)
    Claim(root, user=(1234, 4321)).put(NAME, source)
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in (root / NAME).rglob("*")} == {(1234, 4321)}
    assert (root / NAME).stat().st_uid == 1234
    assert outside.stat().st_uid == os.geteuid()


def test_no_link_is_followed(root, source, tmp_path):
    """Links that a job leaves bring no file of the site's to it, and none of them is written through."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("s3cr3t")
    claim = Claim(root)
    claim.put(NAME, source)
    (root / NAME / "stolen").symlink_to(secret / "key")
    (root / NAME / "stolen-folder").symlink_to(secret)
    target = tmp_path / "target"
    target.mkdir()
    assert claim.get(NAME, target) == "partial"
    assert not any("s3cr3t" in path.read_text() for path in target.rglob("*") if path.is_file() and path.name == "key")
    assert not (target / "stolen").exists()
    claim.drop(NAME)
    assert (secret / "key").read_text() == "s3cr3t"


def test_a_folder_that_became_a_link_is_no_job_directory(root, source, tmp_path):
    """Not even when somebody with rights on the claim swapped it."""
    (root / NAME).symlink_to(source)
    claim = Claim(root)
    assert claim.get(NAME, tmp_path / "target") == "lost"
    claim.drop(NAME)
    assert (source / "run.sh").exists() and list(root.iterdir()) == []


def test_pipes_and_sockets_do_not_hold_the_site(root, source, tmp_path):
    """What is no file is left out; a pipe without a writer is not read."""
    claim = Claim(root)
    claim.put(NAME, source)
    os.mkfifo(root / NAME / "pipe")
    target = tmp_path / "target"
    assert claim.get(NAME, target) == "returned"
    assert not (target / "pipe").exists()


def test_only_so_much_comes_back(root, source, tmp_path):
    """What is more than the site takes is left behind, and that is told."""
    claim = Claim(root, max_bytes=1000)
    claim.put(NAME, source)
    assert claim.get(NAME, tmp_path / "target") == "partial"


def test_what_is_not_there_is_lost(root, tmp_path):
    """A directory that somebody removed is lost; dropping it is no error."""
    target = tmp_path / "target"
    target.mkdir()
    (target / "sent").touch()
    claim = Claim(root)
    assert claim.get(NAME, target) == "lost"
    assert (target / "sent").exists()
    claim.drop(NAME)


def test_a_claim_that_is_not_mounted_is_told(tmp_path, source):
    """Nothing is written where the claim should be and is not; what is on it is not lost."""
    with pytest.raises(BackendError, match=r"job_directory_path"):
        Claim(tmp_path / "nowhere").put(NAME, source)
    with pytest.raises(Unreachable, match=r"Mount the claim"):
        Claim(tmp_path / "nowhere").get(NAME, source)
    Claim(tmp_path / "nowhere").drop(NAME)
    Claim(tmp_path / "nowhere").sweep(set())


def test_what_could_not_be_removed_is_removed_later(root, source):
    """A sweep takes what earlier drops left, but not what a pod still uses, nor a directory in use."""
    claim = Claim(root)
    claim.put(NAME, source)
    (root / ".siteward-removed.job-2.0123abcd" / "deep").mkdir(parents=True)
    (root / ".siteward-removed.job-3.0123abcd").mkdir()
    claim.sweep({"job-3"})
    assert sorted(path.name for path in root.iterdir()) == [".siteward-removed.job-3.0123abcd", NAME]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc"])
def test_a_name_is_one_folder(root, source, name):
    """No name leads out of the claim."""
    for act in (lambda: Claim(root).put(name, source), lambda: Claim(root).drop(name)):
        with pytest.raises(ValueError, match="no name of a job directory"):
            act()
