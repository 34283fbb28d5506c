"""Job directories as tar streams: out as they are, back with nothing that leads anywhere else."""

import io
import itertools
import os
import tarfile

import pytest

from siteward import archive as archives
from siteward import pack_directory, unpack_directory

NOBODY = (65534, 65534)


def stream_of(*members):
    """Return a tar stream of members: (name, content, or fields of its TarInfo)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, what in members:
            info = tarfile.TarInfo(name)
            content = what if isinstance(what, bytes) else b""
            info.size = len(content)
            for key, value in ({} if isinstance(what, bytes) else what).items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content))
    return [buffer.getvalue()]


def folder(name):
    return name, {"type": tarfile.DIRTYPE, "mode": 0o700}


def link(name, target, kind=tarfile.SYMTYPE):
    return name, {"type": kind, "linkname": target}


def take(tmp_path, *members, max_bytes=2**20):
    """Unpack members into a target that had something before; return whether all of it came, and what is there."""
    target = tmp_path / "work"
    target.mkdir(exist_ok=True)
    (target / "before").touch()
    whole = unpack_directory(stream_of(folder("job"), *members), target, max_bytes=max_bytes)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "outside") == ["work"]
    return whole, sorted(str(path.relative_to(target)) for path in target.rglob("*"))


def test_what_goes_comes_back(tmp_path):
    """Names in any script, empty and large files, folders, executables and links arrive as they were."""
    source = tmp_path / "source"
    (source / "deep" / "empty").mkdir(parents=True)
    (source / "deep" / "café ✓").write_bytes(bytes(range(256)) * 5000)
    (source / os.fsdecode(b"\xff raw")).write_text("x")
    (source / ("n" * 200)).touch()
    (source / "tool").write_text("#!/bin/sh\n")
    (source / "tool").chmod(0o755)
    (source / "link").symlink_to("deep/café ✓")
    (source / "folder link").symlink_to("deep")
    os.mkfifo(source / "pipe")
    target = tmp_path / "target"
    assert unpack_directory(pack_directory(source, name="job", owner=NOBODY), target, max_bytes=2**30)
    found = {str(path.relative_to(target)) for path in target.rglob("*")}
    assert found == {str(path.relative_to(source)) for path in source.rglob("*")} - {"pipe"}
    assert (target / "deep" / "café ✓").read_bytes() == (source / "deep" / "café ✓").read_bytes()
    assert os.access(target / "tool", os.X_OK)
    assert (os.readlink(target / "link"), os.readlink(target / "folder link")) == ("deep/café ✓", "deep")
    assert (target / "deep").stat().st_uid == os.geteuid()


def test_all_that_is_packed_is_the_owners(tmp_path):
    """The platform's user can write to what it gets, the folder itself included."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").touch()
    data = io.BytesIO(b"".join(pack_directory(tmp_path, name="job", owner=NOBODY)))
    with tarfile.open(fileobj=data) as archive:
        assert [(each.name, each.uid, each.gid) for each in archive] == [
            (name, *NOBODY) for name in ("job", "job/a", "job/a/b")
        ]


HOSTILE = {
    "a path up": ("job/../../outside/x", b"evil"),
    "an absolute path": ("/job/../../outside/x", b"evil"),
    "a device": ("job/x", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5}),
    "a pipe": ("job/x", {"type": tarfile.FIFOTYPE}),
    "a link out": link("job/x", "/etc/passwd"),
    "a link up": link("job/x", "../../outside"),
    "a hard link out": link("job/x", "job/../../outside/secret", tarfile.LNKTYPE),
    "a hard link to nothing": link("job/x", "job/none", tarfile.LNKTYPE),
    "no name": ("job/a\0b", b""),
    "a name that is too long": ("job/" + "n" * 300, b""),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_hostile_is_left_out(tmp_path, name):
    """It is left out, the rest comes, and that something is missing is said."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    whole, found = take(tmp_path, HOSTILE[name], ("job/good", b"good"))
    assert [each for each in found if each not in ("a",)] == ["good"]
    assert not whole or name == "no name"
    assert [path.name for path in outside.iterdir()] == ["secret"]


def test_nothing_is_written_through_a_link(tmp_path):
    """A link that is followed by what would lie behind it leads nowhere."""
    outside = tmp_path / "outside"
    outside.mkdir()
    members = [
        folder("job/d"),
        link("job/d/l", "."),
        link("job/e", "d/l"),
        ("job/e/x", b"evil"),
        link("job/up", "e/../.."),
        link("job/up/outside", "/"),
        ("job/up/outside/y", b"evil"),
        link("job/hard", "job/up/outside", tarfile.LNKTYPE),
    ]
    take(tmp_path, *members)
    assert list(outside.iterdir()) == []


def test_a_link_that_leads_out_by_way_of_another(tmp_path):
    """It is made to mean what its words say: read behind another link they would lead out."""
    (tmp_path / "outside").mkdir()
    way = [folder("job/a"), folder("job/a/b"), link("job/a/b/top", "../..")]
    take(tmp_path, *way, link("job/evil", "a/b/top/../outside"), link("job/first", "a/b/top/../../../outside"))
    work = os.path.realpath(tmp_path / "work")
    for path in (tmp_path / "work").rglob("*"):
        assert os.path.commonpath([work, os.path.realpath(path)]) == work, path


def test_a_time_that_no_clock_shows(tmp_path):
    """A file comes back also if its time cannot be set; that something is missing is said."""
    assert take(tmp_path, ("job/x", {"mtime": 1e300}), ("job/y", b"")) == (False, ["x", "y"])


def test_folders_too_deep_are_left_out(tmp_path):
    """Looking at everything above each of them would take for ever."""
    deep = [folder("job" + "/d" * depth) for depth in range(1, 400)]
    whole, found = take(tmp_path, *deep)
    assert (whole, len(found)) == (False, 200)


def test_a_setuid_file_comes_back_without_the_bit(tmp_path):
    """Nor can others write it."""
    take(tmp_path, ("job/x", {"mode": 0o6777}))
    assert (tmp_path / "work" / "x").stat().st_mode & 0o7777 == 0o755


def test_a_bomb_is_cut_off(tmp_path):
    """What comes after the limit is left out; what came before is there."""
    members = [("job/small", b"x" * 10), ("job/large", b"x" * 1000), ("job/after", b"")]
    assert take(tmp_path, *members, max_bytes=100) == (False, ["small"])


def test_a_stream_that_breaks_off_changes_nothing(tmp_path):
    """What was there before is there still."""
    target = tmp_path / "work"
    target.mkdir()
    (target / "before").touch()
    data = stream_of(folder("job"), ("job/x", b"x" * 5000))[0]
    with pytest.raises((tarfile.TarError, OSError)):
        unpack_directory([data[:2000]], target, max_bytes=2**20)
    assert [path.name for path in tmp_path.rglob("*")] == ["work", "before"]


def test_what_is_found_wrong_at_the_end_keeps_the_target(tmp_path):
    """An error that the sender raises behind the archive's last byte comes through, and the target stays."""

    def sent():
        yield from stream_of(folder("job"), ("job/new", b"new"))
        yield bytes(10240)
        raise ConnectionError("the checksum is wrong")

    target = tmp_path / "work"
    target.mkdir()
    (target / "before").touch()
    with pytest.raises(ConnectionError, match="checksum"):
        unpack_directory(sent(), target, max_bytes=2**20)
    assert [path.name for path in target.iterdir()] == ["before"]


def test_padding_without_end_is_not_read_for_ever(tmp_path):
    """A sender that never stops after the archive's end is left."""
    sent = itertools.chain(stream_of(folder("job"), ("job/new", b"new")), itertools.repeat(bytes(2**16)))
    assert unpack_directory(sent, tmp_path / "work", max_bytes=2**20)


def test_what_cannot_be_read_is_an_error_or_told(tmp_path, monkeypatch):
    """A folder that is not there or is shut, and a file; nothing is left out in silence."""
    with pytest.raises(FileNotFoundError):
        list(pack_directory(tmp_path / "nothing", name="job", owner=NOBODY))
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "shut").mkdir(parents=True)
    (source / "open").write_text("x")
    (source / "closed").write_text("x")

    def scandir(path, scandir=os.scandir):
        if str(path).endswith("shut"):
            raise PermissionError("shut")
        return scandir(path)

    def opened(path, opened=archives._opened):
        if path.endswith("closed"):
            raise PermissionError("closed")
        return opened(path)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(archives, "_opened", opened)
    with pytest.raises(PermissionError):
        list(pack_directory(source, name="job", owner=NOBODY))
    told = []
    unpack_directory(pack_directory(source, name="job", owner=NOBODY, unreadable=told.append), target, max_bytes=2**20)
    assert sorted(map(str, told)) == ["closed", "shut"]
    assert [path.name for path in target.iterdir()] == ["open"]


def test_a_file_that_becomes_a_link_or_a_pipe_is_not_followed(tmp_path, monkeypatch):
    """Whoever still runs there can have nothing packed from elsewhere, and cannot hold the packing up."""
    (tmp_path / "secret").write_text("s3cr3t")
    source = tmp_path / "source"
    source.mkdir()
    (source / "a").write_text("innocent")
    (source / "b").write_text("innocent")
    lstat = os.lstat

    def changing(path, **how):
        status = lstat(path, **how)
        if path == str(source / "a"):
            os.unlink(path)
            os.symlink(tmp_path / "secret", path)
        if path == str(source / "b"):
            os.unlink(path)
            os.mkfifo(path)
        return status

    with monkeypatch.context() as patch:
        patch.setattr(os, "lstat", changing)
        told = []
        packed = b"".join(pack_directory(source, name="job", owner=NOBODY, unreadable=told.append))
    assert b"s3cr3t" not in packed
    assert len(told) == 1
