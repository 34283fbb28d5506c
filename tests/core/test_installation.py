"""An installation's mark stays its own."""

from siteward import installation_id


def test_the_mark_stays_and_is_the_installations_own(tmp_path):
    """Asked again it is the same, also when the directory was lost; another directory has another."""
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
