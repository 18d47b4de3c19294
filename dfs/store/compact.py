"""Compaction: what still counts in a few volumes is copied to one new volume, and they are removed.

Order: `*.tmp`, fdatasync, rename, directory fsync, index commit (synced), unlink, directory fsync. So
at every moment each record that counts is in a volume file that is durable under its name, and the
copies, which keep their sequence, are no harm beside the originals.

A DROP or ERASE is forgotten only when no other volume and no set-aside file can hold an older record
of its key; an ERASE moreover not before it is 30 days old. A corrupt chunk is set aside, and a DROP
with its sequence goes into the new volume, so that no older record of the key can come back for it.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from dfs import logs
from dfs.errors import Unavailable
from dfs.store.catalog import Catalog
from dfs.store.chunk import CompactionResult
from dfs.store.disk import Bytes, Disk, DiskFile, close_quietly, write_fully
from dfs.store.entry import Entry, entry_of
from dfs.store.identity import DiskIdentity
from dfs.store.index import Index
from dfs.store.index_change import VolumeRow
from dfs.store.record import INDEXED, Kind, Record, encode_header
from dfs.store.scan import Damage, body_is_good, walk
from dfs.store.set_aside import Kept, SetAside
from dfs.store.volume import TEMPORARY, Volume, VolumeFiles, encode_mark, make_header, volume_name
from dfs.store.volumes import Volumes

_BUFFER = 1 << 20
_SMALL_SHARE = 8
_SMALL_COUNT = 8
_BATCH = 2000
_MOST_FORGOTTEN = 10_000
"""Of one compaction, so that its memory is bounded; another forgets more."""
_OVERHEAD = 1024
"""About what the header and the final MARK of a volume take: no reason to copy the rest."""


class Interrupted(Exception):
    """The store is closing, or something could not be kept: what was copied so far is thrown away."""


@dataclass(slots=True)
class _Copy:
    """The new volume while it is written."""

    file: DiskFile
    number: int
    volume_id: bytes
    path: str
    end: int = 0
    parts: list[Bytes] = field(default_factory=list)
    waiting: int = 0
    records: int = 0
    forgotten: list[Entry] = field(default_factory=list)

    def write(self, parts: Sequence[Bytes]) -> None:
        self.parts += parts
        self.waiting += sum(len(part) for part in parts)
        if self.waiting >= _BUFFER:
            self.flush()

    def flush(self) -> None:
        self.end += write_fully(self.file, self.parts, self.end)
        self.parts, self.waiting = [], 0

    @property
    def position(self) -> int:
        return self.end + self.waiting


class Compactor:
    """Compacts sealed volumes. `pace` is told of bytes copied and returns False to stop.

    Everything may raise OSError, sqlite3.Error, Unavailable and Interrupted; then nothing was removed.
    """

    def __init__(
        self,
        disk: Disk,
        directory: str,
        identity: DiskIdentity,
        volumes: Volumes,
        files: VolumeFiles,
        catalog: Catalog,
        aside: SetAside,
        *,
        volume_size: int,
        now: Callable[[], int],
        erase_memory_ms: int,
        pace: Callable[[int], bool],
    ) -> None:
        self._disk = disk
        self._directory = directory
        self._identity = identity
        self._volumes = volumes
        self._files = files
        self._catalog = catalog
        self._aside = aside
        self._volume_size = volume_size
        self._now = now
        self._erase_memory_ms = erase_memory_ms
        self._pace = pace
        self.stuck: str | None = None
        """Why nothing is compacted for now: a file may be there that the index does not know, holding
        records that a DROP must go on hiding. The next start looks at every file; `_unfinished` is
        what may end it before."""
        self._unfinished: Callable[[], None] | None = None

    def settle(self) -> None:
        """Finish what a failure left unfinished, if that can be done without a restart."""
        if self._unfinished is not None:
            self._unfinished()

    def choose(self, dead_share: float, newest: int | None, free: int | None = None) -> list[list[int]]:
        """Volumes worth compacting, in groups whose remains fit into one volume each, and into `free` bytes of
        the disk: those come first of which the least is left.

        Worth it: at least `dead_share` of it is dead; or it is small and so are many others. Never the
        newest appended one: its header and its records carry the highest sequence."""
        index = self._catalog.index
        rows = index.volumes if index is not None else {}
        sealed = [
            (volume, rows[volume.number])
            for volume in self._volumes.all()
            if volume.number in rows and rows[volume.number].sealed and volume.number != newest
        ]
        small = [row.number for volume, row in sealed if volume.end * _SMALL_SHARE < self._volume_size]
        chosen = [
            (row.live, row.number)
            for volume, row in sealed
            if row.live == 0
            or volume.end - row.live - _OVERHEAD >= dead_share * volume.end
            or (len(small) >= _SMALL_COUNT and row.number in small)
        ]
        groups: list[list[int]] = []
        room = 0
        most = self._volume_size if free is None else max(0, min(self._volume_size, free - _OVERHEAD))
        for live, number in sorted(chosen):
            if free is not None and live > most:
                break
            if not groups or live > room:
                groups.append([])
                room = most
            groups[-1].append(number)
            room -= live
        return groups

    def compact(self, numbers: Sequence[int]) -> CompactionResult:
        """Replace the volumes by one with what still counts in them, or by none if that is nothing."""
        self.settle()
        if self.stuck or not self._catalog.flush() or self._catalog.index is None:
            raise Unavailable(f"no compaction now: {self.stuck or 'the index cannot be written'}")
        rows = self._catalog.index.volumes
        victims = [
            volume
            for number in numbers
            if (volume := self._volumes.get(number)) is not None and number in rows and rows[number].sealed
        ]
        copy = self._begin()
        try:
            kept = self._aside.keys()
            for volume in victims:
                self._copy_volume(volume, self._catalog.index, kept, copy)
            if copy.records:
                self._complete(copy)
        except BaseException:
            self._throw_away(copy)
            raise
        return self._switch(victims, copy)

    def _begin(self) -> _Copy:
        number, volume_id = self._volumes.next_number(), uuid.uuid4().bytes
        path = os.path.join(self._directory, volume_name(number))
        copy = _Copy(self._disk.create(path + TEMPORARY), number, volume_id, path)
        sequence = self._volumes.next_sequence()
        copy.write(
            [
                make_header(
                    self._identity, number, volume_id, sequence, self._now(), previous=None, compacted=True
                )
            ]
        )
        return copy

    def _copy_volume(self, volume: Volume, index: Index, kept: Kept, copy: _Copy) -> None:
        with self._files.reading(volume.number) as file:
            for item in walk(file, volume.volume_id, 0, volume.end):
                if isinstance(item, Damage):
                    if item.unreadable:
                        raise Interrupted(f"the disk cannot read all of volume {volume.number}")
                    message = (
                        f"bytes {item.offset} to {item.end} of a volume are no record, though they once were"
                    )
                    if not self._aside.keep_bytes(
                        file, volume.number, item.offset, item.end, "corrupt_region", message
                    ):
                        raise Interrupted("a damaged region could not be set aside")
                elif item.kind not in (Kind.VOLUME, Kind.MARK):
                    entry = entry_of(item, volume.number)
                    if index.stands(entry):
                        self._copy_record(file, item, entry, index, kept, copy)
                        if not self._pace(item.size):
                            raise Interrupted("the store is closing")

    def _copy_record(
        self, file: DiskFile, record: Record, entry: Entry, index: Index, kept: Kept, copy: _Copy
    ) -> None:
        if len(copy.forgotten) < _MOST_FORGOTTEN and self._may_forget(entry, index, kept):
            copy.forgotten.append(entry)
            return
        if body_is_good(file, record):
            self._write_record(record, entry, _body(file, record), copy)
            return
        if not self._aside.keep_chunk(file, entry, "a record does not verify; found while compacting"):
            raise Interrupted("a corrupt record could not be set aside")
        if entry.kind == Kind.DATA:
            self._catalog.is_bad(entry, self._now(), "its bytes did not verify when they were to be moved")
            drop = entry._replace(
                kind=int(Kind.DROP), length=0, checksum=bytes(32), chunk_size=0, file_size=None
            )
            self._write_record(record, drop, (), copy)

    def _may_forget(self, entry: Entry, index: Index, kept: Kept) -> bool:
        if entry.kind == Kind.ERASE:
            if self._now() - entry.created < self._erase_memory_ms:
                return False
        elif entry.kind != Kind.DROP:
            return False
        return not kept.may_hold(entry.file_id) and not index.hidden_elsewhere(entry)

    def _write_record(
        self, record: Record, entry: Entry, body: Sequence[bytes] | Iterator[bytes], copy: _Copy
    ) -> None:
        is_same = entry.kind == record.kind
        header = encode_header(
            entry.kind,
            volume_id=copy.volume_id,
            offset=copy.position,
            sequence=entry.sequence,
            durable_upto=0,
            created=entry.created,
            file_id=entry.file_id,
            chunk_index=entry.chunk_index,
            length=entry.length,
            sha256=entry.checksum,
            attributes=record.raw_attributes if is_same else b"{}",
            crcs=record.piece_crcs if is_same else (),
        )
        copy.write([header])
        for piece in body:
            copy.write([piece])
        copy.write([bytes(-entry.length % 8)])
        copy.records += 1

    def _complete(self, copy: _Copy) -> None:
        """Write the rest, sync. Ends with a MARK, so that a cut is noticed."""
        place = copy.position
        mark = encode_mark(
            Kind.MARK, copy.volume_id, place, self._volumes.next_sequence(), place, self._now()
        )
        copy.write([mark])
        copy.flush()
        copy.file.sync()

    def _switch(self, victims: list[Volume], copy: _Copy) -> CompactionResult:
        if copy.records:
            self._install(copy)
        else:
            self._throw_away(copy)
        self._take_over([volume.number for volume in victims], copy)
        return CompactionResult(
            volumes=len(victims),
            moved_records=copy.records,
            moved_bytes=copy.end if copy.records else 0,
            freed_bytes=sum(volume.end for volume in victims),
            forgotten=len(copy.forgotten),
        )

    def _take_over(self, victims: list[int], copy: _Copy) -> None:
        """Have the index name the new volume instead of the old ones, and remove those. May be
        repeated from the beginning when it failed anywhere."""
        self._get_stuck("the index has not taken a new volume yet", lambda: self._take_over(victims, copy))
        row = None
        if copy.records:
            row = VolumeRow(copy.number, copy.volume_id, copy.end, sealed=True, compacted=True)
            self._enter(copy)
        self._catalog.change(
            (), row, remove=victims, forget=copy.forgotten, sequence=self._volumes.sequence, now=self._now()
        )
        for number in victims:
            self._volumes.remove(number)
        self._remove(victims)

    def _enter(self, copy: _Copy) -> None:
        row = VolumeRow(copy.number, copy.volume_id, 0, sealed=False, compacted=True)
        entries: list[Entry] = []
        with self._files.reading(copy.number) as file:
            for item in walk(file, copy.volume_id, 0, copy.end):
                if isinstance(item, Damage):
                    raise OSError(f"the new volume {copy.number} cannot be read back")
                if item.kind in INDEXED:
                    entries.append(entry_of(item, copy.number))
                if len(entries) == _BATCH:
                    self._catalog.change(entries, row, remove=(), forget=(), sequence=0)
                    entries = []
        self._catalog.change(entries, row, remove=(), forget=(), sequence=0)

    def _install(self, copy: _Copy) -> None:
        """Give the new volume its name, durably."""
        try:
            copy.file.close()
            self._disk.rename(copy.path + TEMPORARY, copy.path)
        except OSError:
            self._throw_away(copy)
            raise
        self._sync_names()
        self._volumes.add(Volume(copy.number, copy.volume_id, copy.end, compacted=True))

    def _remove(self, numbers: Sequence[int]) -> None:
        """Remove files that the index does not know any more. Raises OSError."""
        place = self._files.path
        try:
            present = self._disk.listdir(self._directory)
            for number in [number for number in numbers if volume_name(number) in present]:
                self._disk.unlink(place(number))
                self._files.forget(number)
        except OSError as error:
            self._get_stuck(
                f"a compacted volume could not be removed: {error}", lambda: self._remove(numbers)
            )
            raise
        self._sync_names()
        self.stuck = self._unfinished = None

    def _sync_names(self) -> None:
        try:
            self._disk.sync_directory(self._directory)
        except OSError as error:  # and to repeat it would prove nothing
            self._get_stuck(f"names of volume files may be durable or not: {error}", None)
            raise

    def _get_stuck(self, reason: str, unfinished: Callable[[], None] | None) -> None:
        self.stuck, self._unfinished = reason, unfinished

    def _throw_away(self, copy: _Copy) -> None:
        path = copy.path + TEMPORARY
        close_quietly(copy.file, path)
        try:
            self._disk.unlink(path)
        except OSError as error:
            logs.warning("store.copy_left_behind", path=path, error=error)


def _body(file: DiskFile, record: Record) -> Iterator[bytes]:
    start = record.offset + record.header_length
    for at in range(0, record.length, _BUFFER):
        data = bytearray(min(_BUFFER, record.length - at))
        with memoryview(data) as view:
            count = file.read(view, start + at)
        if count != len(data):
            raise OSError("a record became shorter while it was copied")
        yield bytes(data)
