"""The disk seam: every call the store makes on volume files goes through `Disk` and `DiskFile`.

`OsDisk` is the real thing. Tests put a simulated disk in its place that fails the n-th call, or
records writes and syncs and rebuilds what a disk may hold after a power cut. All methods raise
OSError; paths are absolute strings.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from dfs import logs

Bytes = bytes | bytearray | memoryview
_IOV_LIMIT = 512

BLOCK = 4096
"""Where direct writes begin and end: a multiple of every disk's block size."""

DIRECT_BYTES = 256 * 1024
"""The least that is worth a write of its own, past the page cache."""


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes of a file system: free for this process, and in total."""

    free: int
    total: int


class DiskFile(Protocol):
    """An open file."""

    def write(self, buffers: Sequence[Bytes], offset: int) -> int:
        """Write the buffers one after the other at `offset`; the number of bytes written, which may
        be short. Not durable before `sync`."""

    def read(self, view: memoryview, offset: int) -> int:
        """Fill `view` from `offset`; the number of bytes read, short only at the end of the file."""

    def sync(self) -> None:
        """fdatasync: on return, everything written is durable. After an error nothing is known
        about what was written since the last success, and calling again would not tell."""

    def truncate(self, size: int) -> None:
        """Cut the file; durable after `sync`."""

    def size(self) -> int:
        """Length of the file in bytes."""

    def forget_cached(self, offset: int, size: int) -> None:
        """Drop clean pages from the page cache where the system can, so that reads reach the disk."""

    def close(self) -> None:
        """Release the descriptor."""


class Disk(Protocol):
    """A file system."""

    def create(self, path: str) -> DiskFile:
        """A new empty file, open for reading and writing; FileExistsError when there is one."""

    def open(self, path: str, *, write: bool = False) -> DiskFile:
        """An existing file; FileNotFoundError when there is none."""

    def listdir(self, path: str) -> dict[str, int]:
        """Names and sizes of the regular files of a directory."""

    def make_directory(self, path: str) -> None:
        """Make one directory unless it exists; durable after `sync_directory` of its parent."""

    def rename(self, source: str, target: str) -> None:
        """Atomic; durable after `sync_directory`."""

    def unlink(self, path: str) -> None:
        """Remove a name; durable after `sync_directory`. Open files stay readable."""

    def sync_directory(self, path: str) -> None:
        """fsync of a directory: names made, renamed and removed in it are durable on return."""

    def space(self, path: str) -> Space:
        """Space of the file system that holds `path`."""


def write_fully(file: DiskFile, buffers: Sequence[Bytes], offset: int) -> int:
    """Write all of `buffers` at `offset`, going on after short writes; the number of bytes.

    Raises OSError; what is on the disk from `offset` on is then unknown.
    """
    parts = [part for part in buffers if len(part)]
    total = 0
    while parts:
        written = file.write(parts[:_IOV_LIMIT], offset + total)
        if written <= 0:
            raise OSError(errno.EIO, "the disk accepted no bytes and gave no reason")
        total += written
        done = 0
        while done < len(parts) and written >= len(parts[done]):
            written -= len(parts[done])
            done += 1
        parts = parts[done:]
        if written:
            parts[0] = memoryview(parts[0])[written:]
    return total


def close_quietly(file: DiskFile, path: str) -> None:
    """Close a file of which everything needed is durable or read; a failure is only logged."""
    try:
        file.close()
    except OSError as error:
        logs.warning("store.close_failed", path=path, error=error)


@contextmanager
def opened(disk: Disk, path: str, *, write: bool = False) -> Iterator[DiskFile]:
    """An existing file for the length of a block. Raises OSError."""
    file = disk.open(path, write=write)
    try:
        yield file
    finally:
        close_quietly(file, path)


def read_fully(file: DiskFile, size: int, offset: int) -> bytes:
    """Up to `size` bytes from `offset`; fewer only at the end of the file."""
    data = bytearray(size)
    with memoryview(data) as view:
        count = file.read(view, offset)
    return bytes(data[:count]) if count < size else bytes(data)


def write_small(disk: Disk, directory: str, name: str, data: bytes) -> None:
    """Put a whole small file in place of any older one, durably and atomically: tmp file, sync,
    rename, directory sync. Raises OSError; then the old file is still there or the new one is."""
    temporary = os.path.join(directory, name + ".tmp")
    if os.path.basename(temporary) in disk.listdir(directory):
        disk.unlink(temporary)
    file = disk.create(temporary)
    try:
        write_fully(file, [data], 0)
        file.sync()
    finally:
        file.close()
    disk.rename(temporary, os.path.join(directory, name))
    disk.sync_directory(directory)


_NO_DIRECT = frozenset({errno.EINVAL, errno.EOPNOTSUPP})
"""Nothing was written: the file system or the memory's alignment are in the way."""


def _sync(descriptor: int) -> None:
    if sys.platform == "darwin":
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(descriptor)


class OsFile:
    """A file of the operating system.

    With a `path`, whole blocks of large buffers go past the page cache (O_DIRECT): copying them into
    pages costs more than all else that is done with them, and a chunk is rarely read again at once.
    Where the file system or the memory does not allow it they are written as everything else is.
    """

    def __init__(self, descriptor: int, path: str | None = None) -> None:
        self._descriptor = descriptor
        self._path = path if hasattr(os, "O_DIRECT") else None  # macOS has none
        self._direct = -1

    def write(self, buffers: Sequence[Bytes], offset: int) -> int:
        if self._path is not None:
            at = offset
            for number, buffer in enumerate(buffers):
                if len(buffer) >= DIRECT_BYTES and at % BLOCK == 0:
                    if number:
                        return os.pwritev(self._descriptor, buffers[:number], offset)
                    written = self._write_direct(buffer, offset)
                    if written:
                        return written
                    break
                at += len(buffer)
        return os.pwritev(self._descriptor, buffers, offset)

    def _write_direct(self, buffer: Bytes, offset: int) -> int:
        """Write the whole blocks of `buffer`; 0 when that cannot be done here, from now on."""
        assert self._path is not None
        if self._direct < 0:
            try:
                self._direct = os.open(self._path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
            except OSError:  # not here, or too many files are open: whether the disk is well, the write tells
                self._path = None
                return 0
        try:
            with memoryview(buffer) as view:
                return os.pwrite(self._direct, view[: len(view) // BLOCK * BLOCK], offset)
        except OSError as error:
            if error.errno not in _NO_DIRECT:
                raise
            self._path = None
            return 0

    def read(self, view: memoryview, offset: int) -> int:
        total = 0
        while total < len(view):
            count = os.preadv(self._descriptor, [view[total:]], offset + total)
            if count == 0:
                break
            total += count
        return total

    def sync(self) -> None:
        _sync(self._descriptor)

    def truncate(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def forget_cached(self, offset: int, size: int) -> None:
        if hasattr(os, "posix_fadvise"):  # macOS has none
            first = offset // BLOCK * BLOCK  # pages that are not meant as a whole would stay
            size = -(-(offset + size) // BLOCK) * BLOCK - first
            os.posix_fadvise(self._descriptor, first, size, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        direct, self._direct = self._direct, -1
        descriptor, self._descriptor = self._descriptor, -1
        self._path = None
        try:
            if direct >= 0:
                os.close(direct)
        finally:
            if descriptor >= 0:
                os.close(descriptor)


class OsDisk:
    """The operating system's file system. On macOS `F_FULLFSYNC` stands for fdatasync, which there
    leaves the data in the drive's cache. `direct`: large writes go past the page cache (see OsFile)."""

    def __init__(self, *, direct: bool = True) -> None:
        self._direct = direct

    def create(self, path: str) -> DiskFile:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        return OsFile(descriptor, path if self._direct else None)

    def open(self, path: str, *, write: bool = False) -> DiskFile:
        return OsFile(os.open(path, (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC))

    def listdir(self, path: str) -> dict[str, int]:
        with os.scandir(path) as entries:
            return {
                entry.name: entry.stat().st_size for entry in entries if entry.is_file(follow_symlinks=False)
            }

    def make_directory(self, path: str) -> None:
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            if not os.path.isdir(path):
                raise

    def rename(self, source: str, target: str) -> None:
        os.rename(source, target)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def sync_directory(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def space(self, path: str) -> Space:
        facts = os.statvfs(path)
        return Space(free=facts.f_bavail * facts.f_frsize, total=facts.f_blocks * facts.f_frsize)
