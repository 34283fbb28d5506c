"""An installation's mark stays its own."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from siteward import installation, installation_id


def test_the_mark_stays_and_is_the_installations_own(tmp_path, monkeypatch):
    """Asked again it is the same, also when the directory was lost; another directory has another."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    (tmp_path / "machine-id").write_text("0123\n")
    monkeypatch.setattr(installation, "_MACHINE_ID", tmp_path / "machine-id")
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir(), there.mkdir()
    mark = installation_id(here)
    assert len(mark) == 16
    assert installation_id(here) == mark != installation_id(there)
    (here / "owner").unlink()
    assert installation_id(here) == mark


def test_a_mark_that_was_written_down_is_kept(tmp_path):
    """A directory that moved to another machine is still the same installation's."""
    (tmp_path / "owner").write_text("0123456789abcdef\n")
    assert installation_id(tmp_path) == "0123456789abcdef"


@pytest.mark.parametrize("where", ["a pod", "a machine without an id"])
def test_pods_of_one_image_have_marks_of_their_own(tmp_path, monkeypatch, where):
    """Two sites whose images, and paths in them, are the same would otherwise remove each other's jobs."""
    if where == "a pod":
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    else:
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        monkeypatch.setattr(installation, "_MACHINE_ID", tmp_path / "nothing")
    first = installation_id(tmp_path)
    assert installation_id(tmp_path) == first
    (tmp_path / "owner").unlink()
    assert installation_id(tmp_path) != first


def test_all_who_come_at_once_have_one_mark(tmp_path, monkeypatch):
    """Whoever writes it down first decides; an empty file is nobody's."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    for _ in range(20):
        with ThreadPoolExecutor(8) as pool:
            assert len(set(pool.map(installation_id, [tmp_path] * 8))) == 1
        (tmp_path / "owner").unlink()
    (tmp_path / "owner").touch()
    assert len(installation_id(tmp_path)) == 16
    assert [path.name for path in tmp_path.iterdir()] == ["owner"]
