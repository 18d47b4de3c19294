"""A new index for a store that runs, made by reading its volume files from end to end."""

from __future__ import annotations

from dfs.store.entry import Entry, entry_of
from dfs.store.index import Index
from dfs.store.index_change import VolumeRow
from dfs.store.record import INDEXED
from dfs.store.scan import Damage, walk
from dfs.store.set_aside import SetAside
from dfs.store.volume import VolumeFiles
from dfs.store.volumes import Volumes

_BATCH = 2000


def fill_index(
    index: Index, volumes: Volumes, files: VolumeFiles, aside: SetAside, active: int | None
) -> None:
    """Enter every durable record of every volume. Raises OSError and sqlite3.Error.

    No volume may be removed meanwhile; records that become durable meanwhile may be missed."""
    for volume in volumes.all():
        end = volume.end
        entries: list[Entry] = []
        upto = 0
        with files.reading(volume.number) as file:
            for item in walk(file, volume.volume_id, 0, end):
                if isinstance(item, Damage):
                    message = (
                        f"bytes {item.offset} to {item.end} of a volume are no record, though they once were"
                    )
                    aside.keep_bytes(file, volume.number, item.offset, item.end, "corrupt_region", message)
                elif item.kind in INDEXED:
                    entries.append(entry_of(item, volume.number))
                    upto = item.end
                if len(entries) >= _BATCH:
                    index.apply(
                        entries, [VolumeRow(volume.number, volume.volume_id, upto, False, volume.compacted)]
                    )
                    entries = []
        sealed = volume.number != active
        index.apply(
            entries,
            [VolumeRow(volume.number, volume.volume_id, end, sealed, volume.compacted)],
            sequence=volumes.sequence,
        )
