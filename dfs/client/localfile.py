"""Files written here: whole and verified, or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from dfs.client.failures import LocalConflict, LocalFailure, Replaced, local_failure, printable
from dfs.client.spans import Spans

_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


class Sink(Protocol):
    """Where content goes."""

    def write(self, piece: bytes) -> None: ...
    def restart(self) -> None: ...
    def commit(self) -> None: ...
    def abort(self) -> None: ...


class AtomicFile:
    """A file that appears under its name only when complete.

    Written to a temporary file beside `target`; `commit` makes it durable and renames it, so that
    `target` is untouched until then and survives a power cut afterwards. `abort` leaves nothing.
    With `replace` False an existing `target` is never replaced (LocalConflict).
    """

    def __init__(self, target: Path, *, replace: bool = True) -> None:
        self.target = target
        self._replace = replace
        self._lock = threading.Lock()
        if not replace and os.path.lexists(target):
            raise in_the_way(target)
        # Short whatever the name's length, so that a name of 255 bytes can be written.
        self._temporary = target.parent / f".dfs-{secrets.token_hex(8)}.tmp"
        try:
            self._fd = os.open(self._temporary, _NEW, 0o666)
        except OSError as error:
            raise local_failure("write", target, error) from None

    def write(self, piece: bytes) -> None:
        """Append `piece`."""
        with _translated("write", self.target):
            write_all(self._fd, piece)

    def write_at(self, piece: bytes, offset: int) -> None:
        """Write `piece` at `offset`; safe from several threads."""
        with _translated("write", self.target), self._lock:
            view = memoryview(piece)
            while len(view):
                count = os.pwrite(self._fd, view, offset)
                view, offset = view[count:], offset + count

    def read_at(self, offset: int, length: int) -> bytes:
        """What was written there, at least one byte."""
        with _translated("read", self.target):
            piece = os.pread(self._fd, length, offset)
        if not piece:
            raise LocalFailure(f"{printable(str(self.target))} got shorter: somebody else writes to it")
        return piece

    def landed(self, spans: Spans) -> None:
        """Nothing is kept of a download that does not end."""

    def restart(self) -> None:
        """Forget what was written."""
        with _translated("write", self.target):
            os.ftruncate(self._fd, 0)
            os.lseek(self._fd, 0, os.SEEK_SET)

    def commit(self) -> None:
        """Make it durable and give it its name."""
        with _translated("write", self.target):
            _keep_mode(self._fd, self.target)
            os.fsync(self._fd)
            os.close(self._fd)
            self._fd = -1
            give_name(self._temporary, self.target, replace=self._replace)

    def abort(self) -> None:
        """Remove what was written; harmless after `commit`."""
        with self._lock:  # a late write_at must not meet a descriptor that became another file's
            if self._fd >= 0:
                os.close(self._fd)
            self._fd = -1
        with contextlib.suppress(OSError):  # renamed already, or gone with its directory
            os.unlink(self._temporary)


class StreamSink:
    """An open stream (stdout, a device): what is written is out and cannot be taken back."""

    def __init__(self, stream: BinaryIO, name: str, *, owned: bool = False) -> None:
        self._stream = stream
        self._name = name
        self._owned = owned
        self._begun = False

    def write(self, piece: bytes) -> None:
        """Pass on `piece`; BrokenPipeError when nobody reads any more."""
        self._begun = True
        try:
            self._stream.write(piece)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise local_failure("write", self._name, error) from None

    def restart(self) -> None:
        """Only possible while nothing was written."""
        if self._begun:
            raise Replaced("the file was replaced while it was being read: what was written is incomplete")

    def commit(self) -> None:
        """Flush."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise local_failure("write", self._name, error) from None
        self.abort()

    def abort(self) -> None:
        """Close the stream if it is ours."""
        if self._owned:
            with contextlib.suppress(OSError):  # an unflushed rest: the transfer failed before
                self._stream.close()


def open_sink(target: Path, *, replace: bool = True) -> Sink:
    """The sink for a path: atomic for regular files, the thing itself for devices and pipes.

    A symbolic link is followed: the file it names is replaced, not the link.
    """
    try:
        status = os.stat(target)
    except FileNotFoundError:
        if target.is_symlink():
            target = Path(os.path.realpath(target))
        return AtomicFile(target, replace=replace)
    except (OSError, ValueError) as error:
        reason = error if isinstance(error, OSError) else OSError(str(error))
        raise local_failure("write", target, reason) from None
    if stat.S_ISREG(status.st_mode):
        if not replace:
            raise in_the_way(target)
        return AtomicFile(Path(os.path.realpath(target)), replace=replace)
    if stat.S_ISDIR(status.st_mode):
        raise LocalFailure(f"cannot write {printable(str(target))}: it is a directory")
    try:
        return StreamSink(target.open("wb"), str(target), owned=True)
    except OSError as error:
        raise local_failure("write", target, error) from None


def in_the_way(target: Path) -> LocalConflict:
    """The error for a `target` that must not be replaced."""
    return LocalConflict(f"{printable(str(target))} exists and is not to be replaced")


def write_all(fd: int, piece: bytes) -> None:
    """Write all of `piece` where `fd` stands; raises OSError."""
    view = memoryview(piece)
    while len(view):
        view = view[os.write(fd, view) :]


def give_name(temporary: Path, target: Path, *, replace: bool) -> None:
    """Rename durably. Without `replace` an existing `target` wins: LocalConflict. Raises OSError."""
    if replace:
        os.replace(temporary, target)
    else:
        try:
            os.link(temporary, target)
        except FileExistsError:
            raise in_the_way(target) from None
        os.unlink(temporary)
    sync_directory(target.parent)


def sync_directory(directory: Path) -> None:
    """Make names in `directory` durable; raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _keep_mode(fd: int, target: Path) -> None:
    """A file that is replaced passes on its permissions."""
    with contextlib.suppress(FileNotFoundError):
        os.fchmod(fd, os.stat(target).st_mode & 0o777)


@contextlib.contextmanager
def _translated(action: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise local_failure(action, path, error) from None
