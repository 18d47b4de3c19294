"""Key encoding: how ids, times and paths become index keys, for both backends. Pure.

Numbers in keys are decimal of fixed width, so that text order is numeric order. `\\x1f` separates
the parts of a trash key: it sorts below every character a path may hold.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from typing import Any

from dfs.metadata.contract import GC_SHARDS, GcEntry, GcKind
from dfs.metadata.steps import ChangeFile
from dfs.model import FileState

MAX_CHUNK_INDEX = 10**10 - 1
MAX_SORT_KEY_BYTES = 1024
MAX_PARTITION_KEY_BYTES = 2048
_SEPARATOR = "\x1f"
_CUT = "\x1e"
_LONGEST_PLAIN_PATH = 880
_LONGEST_CUT_PATH = _LONGEST_PLAIN_PATH - 65
_SHORT_KEY = re.compile(r"short#(\d{10})\Z")
_TIME_DIGITS = 15
_NUMBER_DIGITS = 16
_REPLICA_KEY = re.compile(r"(\d{10})#(.+)\Z")

GcPlace = tuple[str, str]
"""(partition, key) in the gc index."""


def _index(chunk_index: int) -> str:
    if not 0 <= chunk_index <= MAX_CHUNK_INDEX:
        raise ValueError(f"chunk index {chunk_index} does not fit a key")
    return f"{chunk_index:010d}"


def replica_key(chunk_index: int, node_id: str) -> str:
    """Sort key of a replica row."""
    return f"{_index(chunk_index)}#{node_id}"


def replica_range(first: int, last: int | None) -> tuple[str, str]:
    """Lowest and highest sort key of the replica rows of chunks first..last inclusive."""
    return f"{_index(first)}#", f"{_index(MAX_CHUNK_INDEX if last is None else last)}$"


def parse_replica_key(key: str) -> tuple[int, str]:
    """(chunk_index, node_id) of a replica row's sort key; raises ValueError."""
    match = _REPLICA_KEY.match(key)
    if not match:
        raise ValueError(f"not a replica key: {key!r}")
    return int(match[1]), match[2]


def short_key(chunk_index: int) -> str:
    """Sort key of a `short` row."""
    return f"short#{_index(chunk_index)}"


def shard(key_id: str) -> str:
    """The gc shard of a file or operation id."""
    return GC_SHARDS[zlib.crc32(key_id.encode()) & 15]


def _time(at: int) -> str:
    if not 0 <= at < 10**_TIME_DIGITS:
        raise ValueError(f"time {at} does not fit a key")
    return f"{at:0{_TIME_DIGITS}d}"


def time_bound(before: int) -> str:
    """Every key with a time earlier than `before` sorts below this, every other one above."""
    return _time(before)


def _number(value: int) -> str:
    if not 0 <= value < 10**_NUMBER_DIGITS:
        raise ValueError(f"version or size {value} does not fit a key")
    return f"{value:0{_NUMBER_DIGITS}d}"


def file_place(
    state: FileState,
    file_id: str,
    bucket: str,
    path: str,
    version: int,
    touched_at: int,
    retired: str = "",
    size: int = 0,
) -> GcPlace | None:
    """Where a file record stands in the gc index; None for a committed file, which is not in it.

    The key of a file in the trash ends with when it came there, its size, and why: what has been there long
    enough, and how much all of it is, is found by reading keys alone."""
    if state is FileState.COMMITTED:
        return None
    if state is FileState.TRASHED:
        came = f"{_time(touched_at)}{_number(size)}{retired}"
        return f"trashed#{bucket}", f"{trash_after(path, version)}{_SEPARATOR}{file_id}{_SEPARATOR}{came}"
    return f"{state.value}#{shard(file_id)}", f"{_time(touched_at)}#{file_id}"


def short_place(file_id: str, chunk_index: int, at: int) -> GcPlace:
    """Where a `short` mark stands in the gc index."""
    return f"short#{shard(file_id)}", f"{_time(at)}#{file_id}#{_index(chunk_index)}"


def operation_place(op_id: str, at: int) -> GcPlace:
    """Where an operation record stands in the gc index."""
    return f"op#{shard(op_id)}", f"{_time(at)}#{op_id}"


def change_place(step: ChangeFile) -> GcPlace | bool | None:
    """What a ChangeFile does to the record's place: a place, None (leaves the index), or False (as it was).

    Raises ValueError when the step names too little to tell.
    """
    changes = step.changes
    moves = changes.keys() & {"state", "touched_at", "path", "bucket", "version", "retired"}
    state = changes.get("state") or (next(iter(step.states)) if len(step.states) == 1 else None)
    if not moves or (state is FileState.COMMITTED and "state" not in changes):
        return False
    if state is None:
        raise ValueError("a change of a file's place needs its state")
    needs = {
        FileState.COMMITTED: (),
        FileState.TRASHED: ("bucket", "path", "version", "touched_at", "retired", "size"),
        FileState.UPLOADING: ("touched_at",),
        FileState.DELETING: ("touched_at",),
    }[state]
    if "state" not in changes and not moves & set(needs):
        return False
    missing = [name for name in needs if name not in changes]
    if missing:
        raise ValueError(f"a change to {state.value} needs {', '.join(missing)}")
    return file_place(
        state,
        step.file_id,
        changes.get("bucket", ""),
        changes.get("path", ""),
        changes.get("version", 0),
        changes.get("touched_at", 0),
        changes.get("retired", ""),
        changes.get("size", 0),
    )


def trash_path(path: str) -> str:
    """The path part of a trash key: the path, or for very long ones its beginning and a digest,
    because a sort key has at most 1,024 bytes and the version and id need room too."""
    raw = path.encode()
    if len(raw) <= _LONGEST_PLAIN_PATH:
        return path
    return raw[:_LONGEST_CUT_PATH].decode(errors="ignore") + _CUT + hashlib.sha256(raw).hexdigest()


def trash_after(path: str, version: int | None = None) -> str:
    """Trash keys of `path` (of versions from `version`, if given) begin above this."""
    bound = f"{trash_path(path)}{_SEPARATOR}"
    return bound if version is None else bound + _number(version)


def trash_bounds(prefix: str) -> tuple[str, str | None]:
    """Trash keys of paths that begin with `prefix` lie above the first and below the second (None: no bound).

    For a prefix longer than what keys hold of very long paths there are others between them."""
    raw = prefix.encode()
    kept = prefix if len(raw) <= _LONGEST_CUT_PATH else raw[:_LONGEST_CUT_PATH].decode(errors="ignore")
    return kept, prefix_end(kept)


def gc_partitions(kind: GcKind, buckets: list[str]) -> list[str]:
    """The partitions of a kind."""
    return [f"{kind.value}#{part}" for part in (buckets if kind is GcKind.TRASHED else GC_SHARDS)]


def gc_entry(partition: str, key: str) -> GcEntry:
    """The entry that a partition and key stand for; raises ValueError."""
    kind = GcKind(partition.partition("#")[0])
    if kind is GcKind.TRASHED:
        path, version, file_id, came = key.split(_SEPARATOR)
        return GcEntry(
            partition,
            key,
            file_id,
            int(came[:_TIME_DIGITS]),
            path=None if _CUT in path else path,
            version=int(version),
            retired=came[_TIME_DIGITS + _NUMBER_DIGITS :],
            size=int(came[_TIME_DIGITS : _TIME_DIGITS + _NUMBER_DIGITS]),
        )
    time, _, rest = key.partition("#")
    if kind is GcKind.SHORT:
        file_id, _, index = rest.rpartition("#")
        return GcEntry(partition, key, file_id, int(time), chunk_index=int(index))
    return GcEntry(partition, key, rest, int(time))


def prefix_end(prefix: str) -> str | None:
    """The lowest text above every text that begins with `prefix`; None when there is none.

    It is the prefix with its last code point incremented: past the surrogates, which are no
    characters, and dropping trailing U+10FFFF, which have no successor.
    """
    trimmed = prefix.rstrip("\U0010ffff")
    if not trimmed:
        return None
    successor = ord(trimmed[-1]) + 1
    return trimmed[:-1] + chr(0xE000 if successor == 0xD800 else successor)


def record_fields(kind: type[Any]) -> tuple[str, ...]:
    """Field names of a frozen model class, in order: the columns or attributes that store it."""
    return tuple(kind.__dataclass_fields__)
