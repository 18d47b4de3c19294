"""Keys sort as numbers and paths do, fit DynamoDB's limits, and can be read back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfs.metadata import keys
from dfs.metadata.contract import GcKind
from dfs.metadata.steps import ChangeFile
from dfs.model import FileState, Retired, new_file_id

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
PATH = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=300)


@given(st.integers(0, keys.MAX_CHUNK_INDEX), st.integers(0, keys.MAX_CHUNK_INDEX))
def test_replica_keys_sort_by_chunk(one: int, other: int) -> None:
    first, second = keys.replica_key(one, "n"), keys.replica_key(other, "n")
    assert (first < second) == (one < other)
    low, high = keys.replica_range(one, one)
    assert low < first < high and keys.parse_replica_key(first) == (one, "n")
    assert one == other or not low < second < high


@pytest.mark.parametrize("index", [-1, 10**10])
def test_an_index_that_does_not_fit_is_a_bug(index: int) -> None:
    with pytest.raises(ValueError):
        keys.replica_key(index, "n")


@pytest.mark.parametrize("key", ["file", "op", "short#0000000001", "123#n"])
def test_other_rows_are_no_replica_keys(key: str) -> None:
    low, high = keys.replica_range(0, None)
    assert key.startswith("1") or not low <= key <= high
    with pytest.raises(ValueError):
        keys.parse_replica_key(key)


@given(TEXT, TEXT)
def test_the_end_of_a_prefix_is_tight(prefix: str, text: str) -> None:
    end = keys.prefix_end(prefix)
    assert end is None or prefix < end
    assert (text >= prefix and (end is None or text < end)) == text.startswith(prefix)


@pytest.mark.parametrize(
    ("prefix", "end"),
    [
        ("a", "b"),
        ("a/", "a0"),
        ("\ud7ff", "\ue000"),
        ("x\U0010ffff", "y"),
        ("\U0010ffff", None),
        ("", None),
        ("\x7f", "\x80"),
    ],
)
def test_ends_of_prefixes(prefix: str, end: str | None) -> None:
    assert keys.prefix_end(prefix) == end


@given(
    PATH,
    st.integers(0, 10**16 - 1),
    st.integers(0, 10**15 - 1),
    st.sampled_from(["", *Retired]),
    st.integers(0, 10**16 - 1),
)
def test_trash_places_fit_and_are_read_back(path: str, version: int, at: int, why: str, size: int) -> None:
    path = path.encode()[:1024].decode(errors="ignore")
    file_id = new_file_id()
    place = keys.file_place(FileState.TRASHED, file_id, "b", path, version, at, why, size)
    assert place is not None
    partition, key = place
    assert len(key.encode()) <= keys.MAX_SORT_KEY_BYTES
    entry = keys.gc_entry(partition, key)
    assert (entry.id, entry.version, entry.at, entry.retired) == (file_id, version, at, why)
    assert entry.size == size
    assert keys.trash_after(path) < keys.trash_after(path, version) < key
    assert entry.path == (path if len(path.encode()) <= 880 else None)


@given(PATH, PATH, st.integers(1, 1024))
def test_all_keys_of_paths_with_a_prefix_lie_within_its_bounds(path: str, more: str, length: int) -> None:
    path = ((path + more) * 4).encode()[:1024].decode(errors="ignore")
    low, high = keys.trash_bounds(path.encode()[:length].decode(errors="ignore"))
    place = keys.file_place(FileState.TRASHED, "id", "b", path, 1, 0)
    assert place is not None and low < place[1] and (high is None or place[1] < high)


@given(PATH, PATH, st.integers(0, 10**15), st.integers(0, 10**15))
def test_trash_keys_sort_by_path_then_version(one: str, other: str, first: int, second: int) -> None:
    def key(path: str, version: int) -> str:
        place = keys.file_place(FileState.TRASHED, "id", "b", path, version, 0)
        assert place is not None
        return place[1]

    if len(one.encode()) <= 880 and len(other.encode()) <= 880:
        assert (key(one, first) < key(other, second)) == ((one, first) < (other, second))


def test_times_in_keys() -> None:
    place = keys.operation_place("x#y", 1000)
    entry = keys.gc_entry(*place)
    assert (entry.id, entry.at) == ("x#y", 1000)
    assert keys.time_bound(1000) < place[1] < keys.time_bound(1001)
    entry = keys.gc_entry(*keys.short_place("f", 7, 5))
    assert (entry.id, entry.at, entry.chunk_index) == ("f", 5, 7)
    for bad in (-1, 10**15):
        with pytest.raises(ValueError):
            keys.time_bound(bad)
    with pytest.raises(ValueError):
        keys.file_place(FileState.TRASHED, "f", "b", "p", 10**16, 0)


def test_every_shard_is_a_partition() -> None:
    partitions = keys.gc_partitions(GcKind.DELETING, [])
    assert {f"deleting#{keys.shard(str(number))}" for number in range(500)} == set(partitions)
    assert keys.gc_partitions(GcKind.TRASHED, ["a", "b"]) == ["trashed#a", "trashed#b"]


U, C, T, D = FileState.UPLOADING, FileState.COMMITTED, FileState.TRASHED, FileState.DELETING


def change(states: set[FileState], **changes: object) -> ChangeFile:
    return ChangeFile("f", frozenset(states), dict(changes))


def test_the_place_after_a_change() -> None:
    assert keys.change_place(change({U}, size=3)) is False
    assert keys.change_place(change({U, D}, size=3)) is False
    assert keys.change_place(change({C}, path="p", version=3)) is False
    assert keys.change_place(change({U}, path="p")) is False
    assert keys.change_place(change({U}, state=C, version=3)) is None
    assert keys.change_place(change({U}, touched_at=5)) == keys.file_place(U, "f", "", "", 0, 5)
    assert keys.change_place(change({U}, state=D, touched_at=5)) == keys.file_place(D, "f", "", "", 0, 5)
    trashed = change({C}, state=T, bucket="b", path="p", version=3, touched_at=8, retired="replaced", size=6)
    assert keys.change_place(trashed) == keys.file_place(T, "f", "b", "p", 3, 8, "replaced", 6)


@pytest.mark.parametrize(
    "step",
    [
        change({U}, state=D),
        change({C}, state=T, version=3),
        change({U, D}, touched_at=5),
        change({T}, path="p"),
    ],
)
def test_a_change_that_does_not_tell_the_place_is_a_bug(step: ChangeFile) -> None:
    with pytest.raises(ValueError):
        keys.change_place(step)
