"""Names on both sides: paths of the store as command lines spell them, and file names for them here."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dfs.client.failures import LocalFailure, UsageError, local_failure, printable
from dfs.errors import BadPath, DfsError
from dfs.model import check_path, is_file_id, parse_file_id

_FORCED = "path:"


def stored_path(text: str) -> str:
    """The path that an argument names; `path:` before it is allowed. Raises BadPath."""
    return check_path(text.removeprefix(_FORCED))


def stored_prefix(text: str) -> str:
    """The beginning of paths that a directory-like argument names: `a`, `a/` are `a/`; `/` is all.

    Nothing is not all: an empty variable must not empty a bucket. Raises BadPath.
    """
    text = text.removeprefix(_FORCED)
    if not text:
        raise BadPath("an empty name is no path; `/` means all paths of the bucket")
    if text == "/":
        return ""
    return check_path(text.removesuffix("/")) + "/"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a command shall read: a path or a file by its id."""

    path: str | None
    file_id: str | None

    @property
    def name(self) -> str:
        """For messages, and the last part of it as a file name here."""
        return self.path if self.path is not None else self.file_id or ""


def wanted(text: str) -> Wanted:
    """A UUID is a file id, all else a path; `path:` forces a path."""
    if is_file_id(text):
        return Wanted(None, parse_file_id(text))
    return Wanted(stored_path(text), None)


def last_part(path: str) -> str:
    """The part of a path behind its last `/`."""
    return path.rpartition("/")[2]


def walk(directory: Path) -> Iterator[tuple[Path, str] | DfsError]:
    """All files below `directory` in a stable order, each with its relative name ('/' between parts).

    What cannot be stored comes as an error in its place: links to directories (following them may
    never end), sockets and the like, unreadable directories.
    """
    stack: list[tuple[Path, str]] = [(directory, "")]
    while stack:
        here, prefix = stack.pop()
        try:
            with os.scandir(here) as found:
                entries = sorted(found, key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            yield local_failure("read", here, error)
            continue
        below = []
        for entry in entries:
            name = prefix + entry.name
            try:
                if entry.is_dir(follow_symlinks=False):
                    below.append((Path(entry.path), name + "/"))
                elif entry.is_file():
                    yield Path(entry.path), name
                else:
                    yield LocalFailure(f"{printable(entry.path)} is not a regular file: not stored")
            except OSError as error:
                yield local_failure("read", entry.path, error)
        stack.extend(reversed(below))


class LocalTree:
    """File names below a directory for stored paths, which are data and never trusted.

    `folds` says that the file system takes names for equal that differ in case or Unicode form;
    then two paths that would become one file are refused.
    """

    def __init__(self, directory: Path, *, folds: bool) -> None:
        self._directory = directory
        self._taken: dict[str, str] | None = {} if folds else None

    def place(self, relative: str) -> Path:
        """The file for `relative`, its directories made. Raises LocalFailure, BadPath.

        No part may lead out of the directory: not `..`, nor a symbolic link on the way.
        """
        try:
            parts = check_path(relative).split("/")
        except BadPath as error:
            raise LocalFailure(f"{printable(relative)} cannot be a file name here: {error.message}") from None
        self._claim(relative)
        here = self._directory
        for part in parts[:-1]:
            here = here / part
            try:
                here.mkdir(exist_ok=True)
            except FileExistsError:
                raise LocalFailure(f"{printable(str(here))} is a file: {printable(relative)} needs a directory there") from None
            except OSError as error:
                raise local_failure("make the directory", here, error) from None
            if here.is_symlink():
                raise LocalFailure(f"{printable(str(here))} is a symbolic link: not written through")
        file = here / parts[-1]
        if file.is_symlink():
            raise LocalFailure(f"{printable(str(file))} is a symbolic link: not written through")
        if file.is_dir():
            raise LocalFailure(f"{printable(str(file))} is a directory: {printable(relative)} needs a file there")
        return file

    def _claim(self, relative: str) -> None:
        if self._taken is None:
            return
        folded = unicodedata.normalize("NFC", relative.casefold())
        other = self._taken.setdefault(folded, relative)
        if other != relative:
            raise LocalFailure(f"{printable(relative)} and {printable(other)} would be the same file here")


def folds_names(directory: Path) -> bool:
    """Whether the file system under `directory` ignores case, tried with a file. Raises LocalFailure."""
    probe = directory / f".dfs-probe-{os.getpid()}"
    try:
        probe.touch()
        try:
            return probe.with_name(probe.name.upper()).exists()
        finally:
            probe.unlink()
    except OSError as error:
        raise local_failure("write", directory, error) from None


def output_file(text: str | None, name: str) -> Path:
    """Where a file called `name` goes: OUT, in OUT when that is a directory, or here."""
    name = last_part(name)
    if text is None:
        return Path(name)
    out = Path(text)
    if out.is_dir():
        return out / name
    if text.endswith("/"):
        raise UsageError(f"there is no directory {printable(text)}")
    return out
