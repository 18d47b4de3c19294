"""T7, the store's part: bits flipped, bytes zeroed and files cut at random places of everything on disk.

Never is a byte served that was not stored; whatever is spoilt is found by an offline check, and by
reading every chunk once.
"""

from __future__ import annotations

import hashlib
import random
import shutil
import uuid
from pathlib import Path

import pytest

from dfs.errors import CorruptChunk, Gone, NotFound, StartError
from dfs.store.check import check_directory
from dfs.store.identity import create_identity, load_identity
from dfs.store.store import ChunkStore
from tests.support.store_model import GONE, State, quiet, small
from tests.support.sweep import SEED, scaled, seeded

CASES = scaled(300, 20_000)
FILES = [str(uuid.UUID(int=0x40008000 << 64 | n, version=4)) for n in range(40, 45)]
Key = tuple[str, int]


@pytest.fixture(autouse=True)
def _quiet() -> None:
    quiet()


class Original:
    """A stopped store with every kind of record and volume in it, as files in memory."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.identity = create_identity(directory, "n1", "c1")
        store = ChunkStore.open(directory, self.identity, small(index_batch=10))
        rng = random.Random(1)
        self.stored: dict[Key, State] = {}
        self.written: dict[Key, set[bytes]] = {}
        for index in range(8):
            for file_id in FILES:
                data = rng.randbytes(rng.choice((0, 5, 64, 333, 900, 3000)))
                store.put(file_id, index, data, checksum=None, chunk_size=3000, file_size=None)
                self.stored[file_id, index] = data
                self.written[file_id, index] = {data}
            store.note([{"file_id": FILES[0], "op_id": str(index)}])
        for index in range(0, 8, 2):
            store.drop(FILES[1], index)
            self.stored[FILES[1], index] = None
        store.compact([volume.number for volume in store._parts.volumes.all()][:2])
        store.erase([FILES[2]])
        for index in range(8):
            self.stored[FILES[2], index] = GONE
        store.drop(FILES[3], 0)
        again = b"other bytes after a drop"
        store.put(FILES[3], 0, again, checksum=None, chunk_size=3000, file_size=None)
        self.stored[FILES[3], 0] = again
        self.written[FILES[3], 0].add(again)
        store.close()
        self.files = {
            path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()
        }

    def write(self, directory: Path, changed: dict[Path, bytes | None]) -> None:
        """The files at `directory`, with changes; None leaves a file out."""
        for name, content in (self.files | changed).items():
            if content is not None:
                (directory / name).parent.mkdir(parents=True, exist_ok=True)
                (directory / name).write_bytes(content)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Original:
    quiet()
    return Original(tmp_path_factory.mktemp("rot") / "original")


def spoil(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """One kind of rot."""
    at = rng.randrange(len(content))
    way = rng.choice(("flip", "flip", "flips", "zero", "cut"))
    spoilt = bytearray(content)
    if way == "cut":
        return f"cut at {at}", content[:at]
    if way == "zero":
        length = rng.choice((1, 8, 512, 4096))
        spoilt[at : at + length] = bytes(len(spoilt[at : at + length]))
        return f"{length} bytes zeroed at {at}", bytes(spoilt)
    places = [rng.randrange(len(content)) for _ in range(1 if way == "flip" else 12)]
    for place in places:
        spoilt[place] ^= 1 << rng.randrange(8)
    return f"bits flipped at {places}", bytes(spoilt)


def read(store: ChunkStore, key: Key) -> State | CorruptChunk:
    try:
        with store.open_chunk(*key) as reader:
            data = b"".join(map(bytes, reader.pieces()))
            assert hashlib.sha256(data).hexdigest() == reader.info.checksum
            return data
    except NotFound:
        return None
    except Gone:
        return GONE
    except CorruptChunk as error:
        return error


@pytest.mark.parametrize("part", range(4))
def test_no_spoilt_byte_of_a_volume_is_served_and_all_are_found(
    part: int, original: Original, tmp_path: Path
) -> None:
    volumes = [name for name in original.files if name.suffix == ".vol"]
    for number in range(part, CASES, 4):
        rng = seeded("T7", "volume", number)
        name = rng.choice(volumes)
        what, content = spoilt = spoil(original.files[name], rng)
        if content == original.files[name]:
            continue
        lost_index = rng.random() < 0.3 and "cut" not in what
        where = f"case {number}: {name} {what}, index lost: {lost_index} (replay: SEED={SEED} pytest '{__file__}' -k '[{part}]')"
        directory = tmp_path / str(number)
        original.write(directory, {name: content} | ({Path("index.db"): None} if lost_index else {}))

        report = check_directory(directory)
        assert not report.ok, f"{where}: the check found nothing"
        assert any(problem.volume is not None or problem.kind == "index" for problem in report.problems)

        told: list[object] = []
        store = ChunkStore.open(directory, original.identity, small(on_report=told.append))
        try:
            for key, state in original.stored.items():
                found = read(store, key)
                if lost_index:  # and with it what is hidden by a DROP or ERASE that is spoilt itself
                    right = {state, None, *original.written[key]}
                    assert isinstance(found, CorruptChunk) or found in right, f"{where}: {key} is {found!r}"
                else:
                    assert found == state or (isinstance(found, CorruptChunk) and isinstance(state, bytes)), (
                        f"{where}: {key}"
                    )
                if isinstance(found, CorruptChunk):
                    assert told, f"{where}: nothing was reported"
                    heal(store, key, original, where)
        finally:
            store.close()
        shutil.rmtree(directory)
        del spoilt


def heal(store: ChunkStore, key: Key, original: Original, where: str) -> None:
    """A good copy from elsewhere replaces the bad one."""
    state = original.stored[key]
    data = state if isinstance(state, bytes) else next(iter(original.written[key]))
    with pytest.raises(CorruptChunk):
        store.verify(*key)
    if state != data:
        return
    store.put(*key, data, checksum=None, chunk_size=3000, file_size=None)
    assert store.verify(*key).length == len(data), where
    assert read(store, key) == data, where


def test_a_spoilt_index_is_noticed_and_nothing_is_lost_by_it(original: Original, tmp_path: Path) -> None:
    for number in range(max(1, CASES // 4)):
        rng = seeded("T7", "index", number)
        what, content = spoil(original.files[Path("index.db")], rng)
        sealed = rng.random() < 0.5
        directory = tmp_path / str(number)
        changed: dict[Path, bytes | None] = {Path("index.db"): content}
        original.write(directory, changed | ({} if sealed else {Path("index.db.seal"): None}))
        check_directory(directory)
        store = ChunkStore.open(directory, original.identity, small())
        try:
            for key, state in original.stored.items():
                assert read(store, key) == state, f"case {number}: index {what}, sealed: {sealed}: {key}"
            assert len(store.notes(0, 100)) == 8
        finally:
            store.close()
        assert check_directory(directory).ok
        shutil.rmtree(directory)


def test_a_spoilt_identity_stops_the_start_or_is_the_same(original: Original, tmp_path: Path) -> None:
    refused = 0
    for number in range(max(1, CASES // 4)):
        rng = seeded("T7", "identity", number)
        what, content = spoil(original.files[Path("node.json")], rng)
        (tmp_path / "node.json").write_bytes(content)
        try:
            assert load_identity(tmp_path) == original.identity, f"case {number}: node.json {what}"
        except StartError as error:
            assert "damaged" in str(error) or "format" in str(error)
            refused += 1
    assert refused


def test_a_spoilt_seal_costs_a_look_at_the_whole_index_only(original: Original, tmp_path: Path) -> None:
    for content in (b"", b"\xff\xfe\x00", b"1 00000000\n", original.files[Path("index.db.seal")][:-3]):
        directory = tmp_path / str(len(content))
        original.write(directory, {Path("index.db.seal"): content})
        store = ChunkStore.open(directory, original.identity, small())
        assert store.reports() == []
        store.close()
        shutil.rmtree(directory)
