"""Short ways to say what the tests of the store do."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from dfs.store.identity import create_identity, load_identity
from dfs.store.store import ChunkStore, StoredChunk
from dfs.store.volume import SET_ASIDE, VOLUMES, volume_name
from tests.support.disk import MemoryIndex, SimDisk
from tests.support.store_model import DIRECTORY, open_store, small

FILES = [str(uuid.UUID(int=0x40008000 << 64 | n, version=4)) for n in range(1, 9)]
FILE, OTHER = FILES[:2]


def put(
    store: ChunkStore, index: int = 0, data: bytes = b"data", file_id: str = FILE, **more: Any
) -> StoredChunk:
    given: dict[str, Any] = {"checksum": None, "chunk_size": 1000, "file_size": None}
    return store.put(file_id, index, data, **(given | more))


def get(store: ChunkStore, index: int = 0, file_id: str = FILE) -> bytes:
    with store.open_chunk(file_id, index) as reader:
        return b"".join(bytes(piece) for piece in reader.pieces())


def numbers(store: ChunkStore) -> list[int]:
    """The volumes the store has."""
    return [volume.number for volume in store._parts.volumes.all()]


def volume_path(number: int) -> str:
    return f"{DIRECTORY}/{VOLUMES}/{volume_name(number)}"


def set_aside(disk: SimDisk) -> list[str]:
    """Names of the set-aside files."""
    return sorted(disk.listdir(f"{DIRECTORY}/{SET_ASIDE}"))


def spoil(disk: SimDisk, store: ChunkStore, index: int = 0, file_id: str = FILE, at: int = -1) -> None:
    """Flip a bit of a chunk's record; by default the last byte of its bytes."""
    entry = store._find((uuid.UUID(file_id).bytes, index))
    assert entry is not None
    place = entry.offset + (entry.size - 8 + (entry.length - 1) % 8 if at < 0 else at)
    disk.files[volume_path(entry.volume)].cache[place] ^= 1


def reopened(disk: SimDisk, index: MemoryIndex | None = None, **options: Any) -> ChunkStore:
    """The store as the next process finds it."""
    return open_store(disk, index or MemoryIndex(), small(**options))


def real_store(directory: Path, **options: Any) -> ChunkStore:
    identity = load_identity(directory) or create_identity(directory, "n1", "c1")
    return ChunkStore.open(directory, identity, small(**({"volume_size": 1 << 16} | options)))
