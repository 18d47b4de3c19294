"""Reads of file records, shared by requests that ask at the same time."""

from __future__ import annotations

import threading
from concurrent.futures import Future

from dfs.metadata.contract import MetadataStore
from dfs.model import FileRecord


class _Asked:
    """Requests about one file: `next` is the read that newcomers share; one read runs at a time."""

    def __init__(self) -> None:
        self.users = 0
        self.next: Future[FileRecord | None] | None = None
        self.reading = threading.Lock()


class SharedReads:
    """Consistent reads of file records. Hundreds of chunks of one file that come in at once cost a
    few reads, not hundreds; nothing is remembered. Thread-safe."""

    def __init__(self, store: MetadataStore) -> None:
        self._store = store
        self._files: dict[str, _Asked] = {}
        self._lock = threading.Lock()

    def get_file(self, file_id: str) -> FileRecord | None:
        """The record, by a read that began after this call did. Raises what the store raises."""
        with self._lock:
            asked = self._files.setdefault(file_id, _Asked())
            asked.users += 1
            leads = asked.next is None
            if asked.next is None:
                asked.next = Future()
            answer = asked.next
        try:
            if leads:
                with asked.reading:
                    with self._lock:
                        asked.next = None
                    self._read(file_id, answer)
            return answer.result()
        finally:
            with self._lock:
                asked.users -= 1
                if not asked.users:
                    del self._files[file_id]

    def _read(self, file_id: str, answer: Future[FileRecord | None]) -> None:
        try:
            answer.set_result(self._store.get_file(file_id))
        except BaseException as error:
            answer.set_exception(error)
