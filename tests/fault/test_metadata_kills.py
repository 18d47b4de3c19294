"""Several processes commit to one SQLite file and are killed at any moment: nothing acknowledged is
lost, and nobody who lives waits for the dead."""

from __future__ import annotations

import os
import random
import signal
import threading
from pathlib import Path

from dfs.metadata.sqlite import SqliteStore
from dfs.metadata.sqlite_file import SqliteFile
from tests.support.metadata_audit import all_heads
from tests.support.metadata_records import put

KILLS = 60 if os.environ.get("LONG") else 8
PROCESSES, THREADS = 3, 3


def writer(path: str, tell: int, name: str) -> int:
    """A process that commits without end and reports each path once it is acknowledged."""
    child = os.fork()
    if child:
        return child
    try:
        store = SqliteStore(path, file=SqliteFile(path, checkpoint_rows=200))

        def work(thread: int) -> None:
            number = 0
            while True:
                done = f"{name}/{thread}/{number}"
                put(store, done)
                os.write(tell, f"{done}\n".encode())
                number += 1

        for thread in range(THREADS):
            threading.Thread(target=work, args=(thread,), daemon=True).start()
        signal.pause()
    finally:
        os._exit(1)


class Acknowledged:
    """What the writers report, read as it comes."""

    def __init__(self, fd: int) -> None:
        self._lines = os.fdopen(fd, encoding="ascii")
        self.paths: list[str] = []

    def of(self, name: str, count: int) -> None:
        """Read on until writer `name` has reported `count` more."""
        while count:
            line = self._lines.readline()
            assert line, "every writer has gone"
            self.paths.append(line.rstrip("\n"))
            count -= line.startswith(f"{name}/")

    def rest(self) -> None:
        """All that was reported before the last writer died (its last line may be cut)."""
        self.paths += [line.rstrip("\n") for line in self._lines if line.endswith("\n")]
        self._lines.close()


def test_commits_acknowledged_before_kills_are_there_and_the_living_go_on(
    tmp_path: Path, rng: random.Random
) -> None:
    path = str(tmp_path / "metadata.sqlite")
    store = SqliteStore(path)
    store.create()
    store.close()
    read, tell = os.pipe()
    acknowledged = Acknowledged(read)
    living = {f"w{number}": writer(path, tell, f"w{number}") for number in range(PROCESSES)}
    try:
        for number in range(KILLS):
            for name in living:
                acknowledged.of(name, rng.randint(1, 20))
            victim = rng.choice(sorted(living))
            os.kill(living[victim], signal.SIGKILL)
            os.waitpid(living.pop(victim), 0)
            for name in living:
                acknowledged.of(name, 5)
            replacement = f"w{PROCESSES + number}"
            living[replacement] = writer(path, tell, replacement)
    finally:
        os.close(tell)
        for child in living.values():
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    acknowledged.rest()
    store = SqliteStore(path)
    shown = {head.path: head.file_id for head in all_heads(store)}
    assert set(acknowledged.paths) <= shown.keys()
    for file_id in shown.values():
        assert store.get_file(file_id) is not None
        assert len(list(store.replicas(file_id))) == 2
    put(store, "afterwards")
    assert store._file.read("PRAGMA integrity_check") == [("ok",)]
    store.close()
