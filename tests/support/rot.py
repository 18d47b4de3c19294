"""Bits that flip on a disk, under a store that runs."""

from __future__ import annotations

import random
import uuid
from collections.abc import Collection
from pathlib import Path

from dfs.store.disk import OsDisk
from dfs.store.record import Kind, Record
from dfs.store.scan import walk

Key = tuple[str, int]


def flip_chunks(directory: Path, keys: Collection[Key], chooser: random.Random) -> None:
    """Flip one bit in the bytes of each of these chunks of the node with that data directory.

    Fails when one of them is not there.
    """
    found: set[Key] = set()
    disk = OsDisk(direct=False)
    for path in sorted((directory / "volumes").glob("*.vol")):
        file = disk.open(str(path))
        try:
            records = [record for record in walk(file, None, 0, path.stat().st_size) if isinstance(record, Record)]
        finally:
            file.close()
        for record in records:
            key = (str(uuid.UUID(bytes=record.file_id)), record.chunk_index)
            if record.kind is Kind.DATA and key in keys and record.length:
                _flip(path, record.offset + record.header_length + chooser.randrange(record.length), chooser)
                found.add(key)
    assert found == set(keys), f"not on the disk: {sorted(set(keys) - found)[:5]}"


def _flip(path: Path, place: int, chooser: random.Random) -> None:
    with open(path, "r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1 << chooser.randrange(8)]))
