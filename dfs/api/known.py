"""What an API server may remember: buckets that exist, and the shapes of uploads, which never change."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

from dfs.errors import Gone, NotFound
from dfs.metadata.contract import MetadataStore
from dfs.model import FileRecord, FileState, check_bucket

_MOST_SHAPES = 4096
_MOST_BUCKETS = 4096


class Buckets:
    """Names of buckets seen. Buckets are never removed, so only their absence is looked up again."""

    def __init__(self, store: MetadataStore) -> None:
        self._store = store
        self._seen: set[str] = set()

    def require(self, name: str) -> str:
        """`name`, if such a bucket exists; raises BadPath, NotFound."""
        if name not in self._seen:
            if not self._store.has_bucket(check_bucket(name)):
                raise NotFound(f"there is no bucket {name}; PUT /buckets/{name} makes it")
            if len(self._seen) < _MOST_BUCKETS:
                self._seen.add(name)
        return name


@dataclass(frozen=True, slots=True)
class Shape:
    """The fields of an upload that were fixed when it began."""

    size: int
    chunk_size: int
    chunk_count: int


class Shapes:
    """Shapes of recent uploads. States are never remembered: whether a file still takes chunks is
    decided when their rows are added."""

    def __init__(self, store: MetadataStore) -> None:
        self._store = store
        self._shapes: OrderedDict[str, Shape] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, file_id: str) -> Shape:
        """The shape of an upload or file; raises NotFound, Gone."""
        with self._lock:
            shape = self._shapes.get(file_id)
            if shape is not None:
                self._shapes.move_to_end(file_id)
                return shape
        record = self._store.get_file(file_id)
        if record is None:
            raise NotFound(f"there is no upload {file_id}")
        if record.state is FileState.DELETING:
            raise Gone(f"the upload {file_id} was aborted or its file deleted")
        shape = Shape(record.size, record.chunk_size, record.chunk_count)
        if record.chunk_count:  # a streamed upload learns its size only at its end
            self.remember(record)
        return shape

    def remember(self, record: FileRecord) -> None:
        """Keep the shape of an upload whose size is known."""
        with self._lock:
            self._shapes[record.file_id] = Shape(record.size, record.chunk_size, record.chunk_count)
            while len(self._shapes) > _MOST_SHAPES:
                self._shapes.popitem(last=False)
