"""Job directories as tar streams, for backends whose platform does not share the site's files.

What comes back was written by a job: nothing in it is trusted.
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from siteward.statedir import remove_tree

_CHUNK = 2**18
_MAX_MEMBERS = 10**6
_MOST_PADDING = 2**20
# Each entry costs a look at every folder above it.
_MAX_DEPTH = 200
# What says that an entry cannot be made as it is asked for, not that the disk is full or broken.
_UNTAKABLE = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)


def pack_directory(
    directory: Path, *, name: str, owner: tuple[int, int], unreadable: Callable[[OSError], object] | None = None
) -> Iterator[bytes]:
    """Yield a directory as a tar stream: a folder ``name`` with its contents, owned by ``owner`` (uid, gid).

    Files, folders and links are packed as they are, whatever else there is is left out. A file that shrinks
    meanwhile is filled up with zeros; one that grows is cut off. OSError when something cannot be read; with
    ``unreadable``, that is told and left out instead.
    """
    tell = unreadable or _raise
    for top, folders, files in os.walk(directory, onerror=tell):
        links = [name for name in folders if os.path.islink(os.path.join(top, name))]
        here = os.path.relpath(top, directory)
        for each in (".", *links, *files):
            path = os.path.join(top, each)
            yield from _pack(path, os.path.normpath(os.path.join(name, here, each)), owner, tell)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _raise(error: OSError) -> None:
    raise error


def _pack(path: str, name: str, owner: tuple[int, int], tell: Callable[[OSError], object]) -> Iterator[bytes]:
    try:
        info = _info(path, name, owner)
        stream = _opened(path) if info is not None and info.isreg() else None
    except OSError as error:
        tell(error)
        return
    if info is None:
        return
    with stream or nullcontext():
        yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        if stream is not None and info.size:
            yield from _content(stream, info.size)


def _opened(path: str) -> BinaryIO:
    """Open a file, and nothing else that has taken its place: no link, and no pipe to wait at."""
    return open(path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK))


def _info(path: str, name: str, owner: tuple[int, int]) -> tarfile.TarInfo | None:
    status = os.lstat(path)
    info = tarfile.TarInfo(name)
    info.mode, info.mtime = stat.S_IMODE(status.st_mode), int(status.st_mtime)
    info.uid, info.gid = owner
    if stat.S_ISDIR(status.st_mode):
        info.type = tarfile.DIRTYPE
    elif stat.S_ISLNK(status.st_mode):
        info.type, info.linkname = tarfile.SYMTYPE, os.readlink(path)
    elif stat.S_ISREG(status.st_mode):
        info.size = status.st_size
    else:
        return None
    return info


def _content(stream: BinaryIO, size: int) -> Iterator[bytes]:
    left = size
    while left and (chunk := stream.read(min(left, _CHUNK))):
        left -= len(chunk)
        yield chunk
    while left:
        yield bytes(min(left, _CHUNK))
        left -= min(left, _CHUNK)
    yield bytes(-size % tarfile.BLOCKSIZE)


def unpack_directory(chunks: Iterable[bytes], target: Path, *, max_bytes: int) -> bool:
    """Replace ``target`` by the directory in a tar stream; whether all of it could be taken.

    The stream's first path component is the directory itself. What would lie or point outside, devices, pipes,
    sockets and what lies 200 folders deep are left out, and so is all that comes after ``max_bytes`` or a million
    entries. Files belong to this process's user and lose setuid bits. OSError or tarfile.TarError when the stream
    breaks off; whatever ``chunks`` raises, it may be at its very end, when a checksum is known to be wrong, comes
    through too: ``target`` is then as it was.
    """
    draft, aside = target.with_name(f"{target.name}.incoming"), target.with_name(f"{target.name}.outgoing")
    for path in (draft, aside):
        remove_tree(path)
    draft.mkdir(mode=0o700)
    try:
        whole = _Unpacking(draft, max_bytes).take(chunks)
        if target.exists():
            target.rename(aside)
        draft.rename(target)
    finally:
        for path in (draft, aside):
            remove_tree(path)
    return whole


class _Unpacking:
    """Links are made last, so that no entry can lie behind one: a filter alone has been tricked (CVE-2025-4517)."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._left = max_bytes
        self._links: list[tarfile.TarInfo] = []
        self._whole = True

    def take(self, chunks: Iterable[bytes]) -> bool:
        reader = _Reader(chunks)
        with tarfile.open(fileobj=reader, mode="r|") as archive:  # type: ignore[call-overload]
            for number, member in enumerate(archive):
                self._left -= member.size
                if self._left < 0 or number >= _MAX_MEMBERS:
                    self._whole = False
                    break
                with self._or_leave_out():
                    self._member(archive, member)
                archive.members.clear()  # a million entries need not stay in memory
            else:
                self._read_out(reader)
        for link in self._links:
            with self._or_leave_out():
                self._link(link)
        return self._whole

    def _read_out(self, reader: _Reader) -> None:
        """Read what comes behind the last entry: whoever sends may notice only there that something went wrong."""
        left = _MOST_PADDING
        while left > 0 and (chunk := reader.read(_CHUNK)):
            left -= len(chunk)

    @contextmanager
    def _or_leave_out(self) -> Iterator[None]:
        try:
            yield
        except (tarfile.FilterError, ValueError, OverflowError):
            self._whole = False
        except OSError as error:
            if error.errno not in _UNTAKABLE:
                raise
            self._whole = False

    def _member(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        name = _inside(member.name)
        if not name:
            return
        safe = tarfile.data_filter(member.replace(name=name, deep=False), str(self._folder))
        if safe.issym() or safe.islnk():
            self._links.append(safe)
            return
        # Whom a folder shuts out could not fill it.
        mode = (safe.mode or 0) | (0o700 if safe.isdir() else 0o600)
        archive.extract(safe.replace(mode=mode, deep=False), self._folder, filter="fully_trusted")

    def _link(self, link: tarfile.TarInfo) -> None:
        path = self._folder / link.name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._refuse_detour(path.parent)
        if link.issym():
            # As it was checked: behind another link, `..` would lead to somewhere else than its words say.
            path.symlink_to(os.path.normpath(link.linkname))
            return
        source = self._folder / _inside(link.linkname)
        self._refuse_detour(source)
        if not source.is_file():
            raise ValueError(f"{link.name} is to be the same as {link.linkname}, which is no file")
        path.hardlink_to(source)

    def _refuse_detour(self, path: Path) -> None:
        """Refuse a path on which there is a link."""
        straight = os.path.join(os.path.realpath(self._folder), path.relative_to(self._folder))
        if os.path.realpath(path) != os.path.normpath(straight):
            raise ValueError(f"there is a link on the way to {path}")


def _inside(name: str) -> str:
    """Return a member's path without its first component, the directory itself; ValueError for one with ``..``."""
    parts = PurePosixPath(name).parts[1:]
    if ".." in parts:
        raise ValueError(f"{name} leads out of its folder")
    if len(parts) > _MAX_DEPTH:
        raise ValueError(f"{name} lies in more than {_MAX_DEPTH} folders")
    return "/".join(parts)


class _Reader:
    """Chunks as a file that can only be read forward."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = b""

    def read(self, size: int) -> bytes:
        pieces = [self._rest]
        length = len(self._rest)
        while length < size and (chunk := next(self._chunks, None)) is not None:
            pieces.append(chunk)
            length += len(chunk)
        data = b"".join(pieces)
        self._rest = data[size:]
        return data[:size]
