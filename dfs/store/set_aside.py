"""Bytes that do not verify are copied to `set-aside/` and reported; nothing is deleted on doubt."""

from __future__ import annotations

import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator

from dfs import logs
from dfs.store.chunk import Report
from dfs.store.disk import Disk, DiskFile, close_quietly, read_fully, write_fully
from dfs.store.entry import Entry, Key
from dfs.store.record import Kind
from dfs.store.volume import TEMPORARY

_NAME = re.compile(r"([0-9]{10})-([0-9]{12})-[0-9]+(?:-([0-9a-f]{32})-([0-9]+))?\.(?:bad|kept|tail)\Z")
_COPY = 1 << 20
_REPORTS = 1000


class SetAside:
    """The directory, and the reports of what the store found wrong (the last thousand)."""

    def __init__(
        self, disk: Disk, directory: str, *, now: Callable[[], int], on_report: Callable[[Report], None]
    ) -> None:
        self._disk = disk
        self._directory = directory
        self._now = now
        self._on_report = on_report
        self._lock = threading.Lock()
        self.reports: deque[Report] = deque(maxlen=_REPORTS)

    def report(
        self,
        kind: str,
        message: str,
        *,
        volume: int | None = None,
        offset: int | None = None,
        file_id: str | None = None,
        chunk_index: int | None = None,
        kept: str | None = None,
    ) -> None:
        """Remember a finding and tell whoever wants to know."""
        found = Report(kind, message, self._now(), volume, offset, file_id, chunk_index, kept)
        self.reports.append(found)
        self._on_report(found)

    def keep_chunk(self, file: DiskFile, entry: Entry, message: str, kind: str | None = None) -> bool:
        """Keep a record, by default a corrupt one; whether it is safe in `set-aside/`. One of another `kind` is
        kept as it is now, whatever was found of it before: a copy made when it could not be read well is not this."""
        stem = (
            f"{entry.volume:010d}-{entry.offset:012d}-{entry.size}-{entry.file_id.hex()}-{entry.chunk_index}"
        )
        kept = self._copy(file, entry.offset, entry.offset + entry.size, stem + (".kept" if kind else ".bad"))
        chunk = entry.stored()
        is_data = entry.kind == Kind.DATA
        self.report(
            kind or ("corrupt_chunk" if is_data else "corrupt_record"),
            message,
            volume=entry.volume,
            offset=entry.offset,
            file_id=chunk.file_id,
            chunk_index=chunk.chunk_index if is_data else None,
            kept=kept,
        )
        return kept is not None

    def keep_bytes(self, file: DiskFile, volume: int, offset: int, end: int, kind: str, message: str) -> bool:
        """Keep bytes of which no key is known; whether they are safe in `set-aside/`."""
        suffix = "tail" if kind == "cut_tail" else "bad"
        kept = self._copy(file, offset, end, f"{volume:010d}-{offset:012d}-{end - offset}.{suffix}")
        self.report(kind, message, volume=volume, offset=offset, kept=kept)
        return kept is not None

    def _copy(self, file: DiskFile, offset: int, end: int, name: str) -> str | None:
        """The file's name when the bytes are durably in it, now or from an earlier time."""
        with self._lock:
            return self._copy_alone(file, offset, end, name)

    def _copy_alone(self, file: DiskFile, offset: int, end: int, name: str) -> str | None:
        try:
            path = os.path.join(self._directory, name)
            if self._is_there(path):
                return name
            if self._is_there(path + TEMPORARY):
                self._disk.unlink(path + TEMPORARY)
            target = self._disk.create(path + TEMPORARY)
            try:
                for at in range(offset, end, _COPY):
                    write_fully(target, [read_fully(file, min(_COPY, end - at), at)], at - offset)
                target.sync()
            finally:
                target.close()
            self._disk.rename(path + TEMPORARY, path)
            self._disk.sync_directory(self._directory)
        except OSError as error:
            logs.error("store.set_aside_failed", name=name, error=error)
            return None
        return name

    def _is_there(self, path: str) -> bool:
        """Not by listing: thousands of records may have been set aside."""
        try:
            close_quietly(self._disk.open(path), path)
        except FileNotFoundError:
            return False
        return True

    def keys(self) -> Kept:
        """Which keys the directory may hold. Raises OSError."""
        return Kept(list(self._disk.listdir(self._directory)))

    def records(self) -> Iterator[tuple[int, int, Key]]:
        """Volume, offset and key of every corrupt record that was set aside. Raises OSError."""
        for name in self._disk.listdir(self._directory):
            match = _NAME.match(name)
            if match is not None and match[3] is not None and name.endswith(".bad"):
                yield int(match[1]), int(match[2]), (bytes.fromhex(match[3]), int(match[4]))


class Kept:
    """The keys that set-aside files may hold. A file without a key in its name may hold any."""

    def __init__(self, names: list[str]) -> None:
        self._any = False
        self._files: set[bytes] = set()
        for name in names:
            match = _NAME.match(name)
            if match is None or match[3] is None:
                self._any = True
            else:
                self._files.add(bytes.fromhex(match[3]))

    def may_hold(self, file_id: bytes) -> bool:
        """Whether a record of the file may be among them."""
        return self._any or file_id in self._files
