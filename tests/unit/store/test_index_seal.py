"""The checksums of the index's pages: what they prove after a clean stop, a kill and a power cut."""

from __future__ import annotations

import errno
import random
import shutil
import sqlite3
from array import array
from pathlib import Path

import pytest

from dfs.store.entry import Entry
from dfs.store.index import Index, IndexDamaged
from dfs.store.index_change import VolumeRow
from dfs.store.index_file import SEAL, SqliteFile
from dfs.store.index_seal import Seal, read_wal
from dfs.store.record import Kind
from tests.support.sweep import SEED, scaled, seeded

PAGE = 4096
PARTS = ("index.db", "index.db-wal", "index.db.seal")
Files = dict[str, bytes]


class Life:
    """An index in use; `commits` has what it held after each commit."""

    def __init__(self, directory: Path, rng: random.Random) -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.rng = rng
        self.file = SqliteFile(str(directory / "index.db"), 2, wal_bytes=20 * PAGE)
        self.index = Index(self.file, "disk")
        self.sequence = 0
        self.commits = [self.held()]

    def commit(self) -> None:
        entries = []
        for _ in range(self.rng.randint(1, 60)):
            self.sequence += 1
            name = self.rng.randbytes(16) if self.rng.random() < 0.9 else b"f" * 16
            entries.append(
                Entry(
                    int(Kind.DATA), name, 0, 1, self.sequence * 200, 200, self.sequence, 5, 9,
                    self.rng.randbytes(32), 9, None,
                )
            )  # fmt: skip
        self.index.apply(entries, [VolumeRow(1, b"v" * 16, self.sequence * 200, False, False)])
        self.commits.append(self.held())

    def held(self) -> list[tuple[object, ...]]:
        return held(self.index)

    def files(self) -> Files:
        """What a kill leaves."""
        return {
            name: (self.directory / name).read_bytes() for name in PARTS if (self.directory / name).exists()
        }


def held(index: Index) -> list[tuple[object, ...]]:
    return list(index.rows("SELECT sequence, file_id, checksum FROM chunks ORDER BY 1"))


def put_down(directory: Path, files: Files) -> SqliteFile:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return SqliteFile(str(directory / "index.db"))


def outcome(directory: Path, files: Files) -> tuple[bool, list[tuple[object, ...]] | None]:
    """Whether the index in `files` is believed unseen, and what it holds; None when it is refused."""
    file = put_down(directory, files)
    try:
        proved = file.is_proved()
        index = Index(file, "disk")
    except (sqlite3.Error, IndexDamaged):
        return False, None
    found = held(index)
    index.close()
    return proved, found


def test_a_kill_at_any_commit_leaves_an_index_that_is_proved(tmp_path: Path) -> None:
    life = Life(tmp_path / "life", seeded("seal", "kill"))
    sealed = 0
    for _ in range(40):
        life.commit()
        files = life.files()
        proved, found = outcome(tmp_path / "after", files)
        assert found == life.commits[-1]
        assert proved == (SEAL in "".join(files)), "it is proved from the first checkpoint on"
        sealed += proved
    assert sealed > 30
    life.index.close(clean=True)
    assert outcome(tmp_path / "after", life.files()) == (True, life.commits[-1])


@pytest.mark.parametrize("fails", ["save", "of", "load"])
def test_what_cannot_be_proved_for_an_error_is_looked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    life = Life(tmp_path / "life", seeded("seal", "full disk"))
    while SEAL not in "".join(life.files()) or len(life.files()["index.db-wal"]) == 0:
        life.commit()
    files = life.files()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Seal, fails, full)
        assert outcome(tmp_path / "after", files) == (False, life.commits[-1])
    assert outcome(tmp_path / "after", files) == (True, life.commits[-1])
    life.index.close()


def test_a_clean_stop_leaves_the_database_and_its_seal(tmp_path: Path) -> None:
    life = Life(tmp_path / "life", seeded("seal", "clean"))
    life.commit()
    life.index.close(clean=True)
    assert sorted(item.name for item in life.directory.iterdir()) == ["index.db", "index.db.seal"]
    assert life.file.is_proved()
    assert life.file.is_proved(), "a look changes nothing"
    again = Index(life.file, "disk")
    assert held(again) == life.commits[-1]
    again.close()
    assert life.file.is_proved(), "nothing was committed"
    life.file.discard()
    assert list(life.directory.iterdir()) == []
    assert not life.file.is_proved()


def test_a_power_cut_in_a_checkpoint_leaves_an_index_that_is_proved(tmp_path: Path) -> None:
    """The seal is durable, and of the pages to be copied any may have reached the file."""
    for number in range(scaled(20, 500)):
        rng = seeded("seal", "checkpoint", number)
        life = Life(tmp_path / "life", rng)
        while not (life.directory / "index.db.seal").exists() or rng.random() < 0.7:
            life.commit()
        before = life.files()
        life.index.close(clean=True)
        after = life.files()
        copied = bytearray(before["index.db"].ljust(len(after["index.db"]), b"\0"))
        for at in range(0, len(copied), PAGE):
            if rng.random() < 0.5:
                copied[at : at + PAGE] = after["index.db"][at : at + PAGE]
        for seal in (before["index.db.seal"], after["index.db.seal"]):
            files = {"index.db": bytes(copied), "index.db-wal": before["index.db-wal"], "index.db.seal": seal}
            assert outcome(tmp_path / "cut", files) == (True, life.commits[-1]), f"SEED={SEED}, {number}"
        shutil.rmtree(life.directory)


def test_a_wal_of_which_the_end_never_reached_the_disk_leaves_an_earlier_commit(tmp_path: Path) -> None:
    for number in range(scaled(20, 500)):
        rng = seeded("seal", "tail", number)
        life = Life(tmp_path / "life", rng)
        while not (life.directory / "index.db.seal").exists() or rng.random() < 0.8:
            life.commit()
        files = life.files()
        wal = files["index.db-wal"]
        cut = rng.randrange(len(wal) + 1)
        files["index.db-wal"] = wal[:cut] + bytes((len(wal) - cut) * rng.randrange(2))
        proved, found = outcome(tmp_path / "cut", files)
        assert proved, f"SEED={SEED}, {number}"
        assert found in life.commits
        life.index.close()
        shutil.rmtree(life.directory)


def test_pages_of_two_commits_are_not_believed(tmp_path: Path) -> None:
    """A power cut in a checkpoint, and then a WAL that can no longer be read to where it had been copied."""
    believed = 0
    for number in range(scaled(40, 1_000)):
        rng = seeded("seal", "mixed", number)
        life = Life(tmp_path / "life", rng)
        while not (life.directory / "index.db.seal").exists() or rng.random() < 0.8:
            life.commit()
        before = life.files()
        life.index.close(clean=True)
        after = life.files()
        mixed, wal = bytearray(after["index.db"]), bytearray(before["index.db-wal"])
        for at in range(0, len(before["index.db"]), PAGE):
            if rng.random() < 0.5:
                mixed[at : at + PAGE] = before["index.db"][at : at + PAGE]
        if wal:
            wal[rng.randrange(len(wal))] ^= 1 << rng.randrange(8)
        for seal in (before["index.db.seal"], after["index.db.seal"]):
            proved, found = outcome(
                tmp_path / "cut", {"index.db": bytes(mixed), "index.db-wal": bytes(wal), "index.db.seal": seal}
            )
            if proved:
                believed += 1
                assert found in life.commits, f"SEED={SEED}, {number}"
        shutil.rmtree(life.directory)
    assert believed


@pytest.mark.parametrize("part", ["index.db", "index.db-wal", "index.db.seal"])
def test_no_damage_is_believed(tmp_path: Path, part: str) -> None:
    """Whatever bytes are changed: what is believed unseen is what some commit left."""
    believed = 0
    for number in range(scaled(60, 3_000)):
        rng = seeded("seal", part, number)
        life = Life(tmp_path / "life", rng)
        for _ in range(rng.randint(3, 12)):
            life.commit()
        files = life.files()
        life.index.close()
        shutil.rmtree(life.directory)
        spoilt = bytearray(files.get(part, b""))
        if not spoilt:
            continue
        for _ in range(rng.randint(1, 4)):
            spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
        if rng.random() < 0.2:
            del spoilt[rng.randrange(len(spoilt)) :]
        files[part] = bytes(spoilt)
        proved, found = outcome(tmp_path / "spoilt", files)
        if proved:
            believed += 1
            assert found in life.commits, f"SEED={SEED}, {part}, {number}"
    assert part == "index.db-wal" or believed < 10


def test_what_is_no_seal_and_what_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "x"
    assert Seal.load(str(path)) is None
    assert read_wal(str(path)).images == {}
    for content in (b"", b"short", b"\0" * 32, b"dfsI" * 40):
        path.write_bytes(content)
        assert Seal.load(str(path)) is None
        assert Seal.of(str(path)) is None
        assert read_wal(str(path)).images == {}
    seal = Seal(PAGE, array("I", [1, 2, 3]))
    seal.save(str(path))
    assert Seal.load(str(path)) == seal
