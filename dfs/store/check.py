"""Offline verification of a data directory: every byte of every volume, and the index against them.

Reads only; the node must not be running.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from dfs.errors import StartError
from dfs.store.compare import compare_indexes
from dfs.store.disk import Disk, DiskFile, OsDisk, opened
from dfs.store.entry import Entry, entry_of
from dfs.store.extent import Extent
from dfs.store.identity import DiskIdentity, load_identity, lock_for_reading
from dfs.store.index import Index
from dfs.store.index_change import VolumeRow
from dfs.store.index_file import SqliteFile
from dfs.store.parts import INDEX_NAME
from dfs.store.record import INDEXED, Kind, Record, padded
from dfs.store.scan import Damage, body_is_good, read_header, read_tolerant
from dfs.store.volume import SET_ASIDE, VOLUMES, Ending, is_compacted, previous_of, volume_name, volume_number

_BATCH = 2000
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong, and where: `kind` is one of identity, volume, record, body, padding, tail, index."""

    kind: str
    message: str
    volume: int | None = None
    offset: int | None = None
    end: int | None = None
    file_id: str | None = None
    chunk_index: int | None = None

    def __str__(self) -> str:
        place = "" if self.volume is None else f"{volume_name(self.volume)}"
        if self.offset is not None:
            place += f" bytes {self.offset} to {self.end}"
        chunk = "" if self.file_id is None else f" (file {self.file_id}, chunk {self.chunk_index})"
        return f"{self.kind}: {place}{': ' if place else ''}{self.message}{chunk}"


@dataclass(slots=True)
class CheckReport:
    """What was found. `chunks`, `erased` and `notes` count what stands; `records` every record by kind."""

    directory: Path
    identity: DiskIdentity | None = None
    volumes: int = 0
    volume_bytes: int = 0
    records: dict[str, int] = field(default_factory=dict)
    chunks: int = 0
    erased: int = 0
    notes: int = 0
    index: str = "missing; the next start makes it anew"
    set_aside: tuple[str, ...] = ()
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong. An index that is missing or behind is not wrong."""
        return not self.problems

    def lines(self) -> list[str]:
        """The report for a person."""
        identity = self.identity
        counts = ", ".join(f"{count} {name}" for name, count in sorted(self.records.items()))
        found = [
            f"directory  {self.directory}",
            f"identity   node {identity.node_id}, disk {identity.disk_id}, cluster {identity.cluster_id}"
            if identity
            else "identity   none",
            f"volumes    {self.volumes} with {self.volume_bytes} bytes",
            f"records    {counts or 'none'}",
            f"standing   {self.chunks} chunks, {self.erased} erased files, {self.notes} notes",
            f"index      {self.index}",
            f"set aside  {len(self.set_aside)} files",
        ]
        found += [f"problem    {problem}" for problem in self.problems]
        return [*found, "result     good" if self.ok else f"result     {len(self.problems)} problems"]


def check_directory(path: Path, disk: Disk | None = None) -> CheckReport:
    """Verify the data directory at `path`. Raises StartError when it is none, or in use."""
    disk = disk or OsDisk()
    if not path.is_dir():
        raise StartError(f"{path} is not a directory")
    lock = lock_for_reading(path)
    try:
        return _Check(path, disk).run()
    finally:
        lock.release()


class _Check:
    def __init__(self, path: Path, disk: Disk) -> None:
        self._path = path
        self._disk = disk
        self._volumes = str(path / VOLUMES)
        self._report = CheckReport(path)
        self._endings: dict[int, Ending] = {}
        self._headers: dict[int, Record | None] = {}
        self._behind = 0

    def run(self) -> CheckReport:
        report = self._report
        try:
            report.identity = load_identity(self._path)
            if report.identity is None:
                self._problem("identity", "there is no node.json; the volumes' headers say whose they are")
        except StartError as error:
            self._problem("identity", str(error))
        sizes = self._sizes()
        report.volumes, report.volume_bytes = len(sizes), sum(sizes.values())
        if (self._path / SET_ASIDE).is_dir():
            report.set_aside = tuple(sorted(os.listdir(self._path / SET_ASIDE)))
        with tempfile.TemporaryDirectory(prefix="dfs-check-") as scratch:
            found = self._copy_index(scratch)
            fresh = Index(SqliteFile(os.path.join(scratch, "fresh.db"), 1), "check")
            try:
                self._read_headers(sizes)
                self._remove_missing(sizes, found)
                for number, size in sorted(sizes.items()):
                    self._check_volume(number, size, fresh, found)
                self._count(fresh, found)
            finally:
                fresh.close()
                if found is not None:
                    found.close()
        return report

    def _problem(
        self,
        kind: str,
        message: str,
        volume: int | None = None,
        offset: int | None = None,
        end: int | None = None,
        *,
        record: Record | None = None,
    ) -> None:
        file_id = chunk_index = None
        if record is not None and record.kind in (Kind.DATA, Kind.DROP):
            file_id, chunk_index = str(uuid.UUID(bytes=record.file_id)), record.chunk_index
        self._report.problems.append(Problem(kind, message, volume, offset, end, file_id, chunk_index))

    def _sizes(self) -> dict[int, int]:
        try:
            names = self._disk.listdir(self._volumes)
        except FileNotFoundError:
            return {}
        numbered = {volume_number(name): size for name, size in names.items()}
        return {number: size for number, size in numbered.items() if number is not None}

    def _read_headers(self, sizes: dict[int, int]) -> None:
        for number in sizes:
            with opened(self._disk, self._file(number)) as file:
                header = read_header(file)
            self._headers[number] = header if header is not None and header.kind == Kind.VOLUME else None
            previous = previous_of(header) if header is not None else None
            if previous is not None:
                self._endings[previous.number] = previous

    def _remove_missing(self, sizes: dict[int, int], found: Index | None) -> None:
        missing = [number for number in found.volumes if number not in sizes] if found is not None else []
        for number in missing:
            self._problem("volume", "the index knows it, but it is not there", number)
        if found is not None and missing:
            found.apply((), remove=missing)

    def _file(self, number: int) -> str:
        return os.path.join(self._volumes, volume_name(number))

    def _check_volume(self, number: int, size: int, fresh: Index, found: Index | None) -> None:
        header = self._headers[number]
        identity = self._report.identity
        if header is None:
            self._problem("volume", "its header is damaged or missing", number, 0, min(size, 512))
        elif identity is not None and header.attributes.get("disk_id") != identity.disk_id:
            self._problem("volume", f"it belongs to disk {header.attributes.get('disk_id')}", number, 0, size)
            return
        row = found.volumes.get(number) if found is not None else None
        if found is not None and row is not None and header is not None and row.volume_id != header.volume_id:
            self._problem("index", "it knows another volume by this number", number)
            found.apply((), remove=[number])
            row = None
        with opened(self._disk, self._file(number)) as file:
            extent = self._extent(file, number, size, header, row)
            last = self._check_records(file, number, extent, fresh, found, row)
            if extent.end < size:
                what = "never acknowledged; the next start sets them aside"
                self._problem("tail", what, number, extent.end, size)
        if extent.durable > size:
            self._problem("volume", f"it once had {extent.durable} bytes", number, size, extent.durable)
        elif is_compacted(header) and (last is None or last.kind != Kind.MARK or last.end != size):
            self._problem("volume", "its end is missing", number, size, size)

    def _extent(
        self, file: DiskFile, number: int, size: int, header: Record | None, row: VolumeRow | None
    ) -> Extent:
        volume_id = header.volume_id if header else row.volume_id if row else None
        limit, durable = size, row.upto if row else 0
        if is_compacted(header):
            durable = max(durable, size)
        ending = self._endings.get(number)
        if ending is not None and volume_id in (None, ending.volume_id):
            limit, durable = min(limit, ending.length), max(durable, ending.length)
        if row is not None and row.sealed:
            limit = min(limit, row.upto)
        return Extent(file, volume_id, 0, limit, durable)

    def _check_records(
        self,
        file: DiskFile,
        number: int,
        extent: Extent,
        fresh: Index,
        found: Index | None,
        row: VolumeRow | None,
    ) -> Record | None:
        counts = self._report.records
        upto = row.upto if row is not None else 0
        entries: list[Entry] = []
        last: Record | None = None

        def take() -> None:
            place = VolumeRow(number, extent.volume_id or b"", 0, sealed=False, compacted=False)
            fresh.apply(entries, [place])
            if found is not None:
                later = [entry for entry in entries if entry.offset >= upto]
                self._behind += len(later)
                found.apply(later, [place])
            entries.clear()

        for item in extent:
            if isinstance(item, Damage):
                self._problem("record", "no record, though once there was one", number, item.offset, item.end)
                continue
            last = item
            name = item.kind.name.lower()
            counts[name] = counts.get(name, 0) + 1
            if not _readable(file, item):
                self._problem(
                    "body", "the bytes do not match their CRC", number, item.offset, item.end, record=item
                )
            elif any(_padding(file, item)):
                self._problem(
                    "padding", "bytes that must be zero are not", number, item.offset, item.end, record=item
                )
            if item.kind in INDEXED:
                entries.append(entry_of(item, number))
            if len(entries) >= _BATCH:
                take()
        take()
        return last

    # --- the index ------------------------------------------------------------------------------

    def _copy_index(self, scratch: str) -> Index | None:
        """The index as it is, opened as a copy: even reading a WAL database writes beside it."""
        source = self._path / INDEX_NAME
        if not source.exists():
            return None
        copy = os.path.join(scratch, INDEX_NAME)
        for suffix in ("", "-wal"):
            if os.path.exists(f"{source}{suffix}"):
                shutil.copyfile(f"{source}{suffix}", copy + suffix)
        identity = self._report.identity
        try:
            index = Index(SqliteFile(copy, 1), identity.disk_id if identity else "")
        except Exception as error:
            self._report.index = "damaged; the next start makes it anew"
            self._problem("index", f"it cannot be read: {error}")
            return None
        return index

    def _count(self, fresh: Index, found: Index | None) -> None:
        report = self._report
        report.chunks, report.erased, report.notes = fresh.counts()
        if found is None:
            return
        try:
            wrong = compare_indexes(found, fresh)
        except sqlite3.Error as error:
            self._problem("index", f"it cannot be read: {error}")
            return
        report.index = (
            f"behind by {self._behind} records, which the next start reads" if self._behind else "agrees"
        )
        if wrong:
            report.index = f"disagrees in {len(wrong)} places"
            for text in wrong[:_SHOWN]:
                self._problem("index", text)


def _readable(file: DiskFile, record: Record) -> bool:
    try:
        return body_is_good(file, record)
    except OSError:
        return False


def _padding(file: DiskFile, record: Record) -> bytes:
    size = padded(record.length) - record.length
    return read_tolerant(file, size, record.end - size)[0] if size else b""
