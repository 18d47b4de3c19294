"""Of everything that can happen to a file in the trash at once, exactly one does: on SQLite and on DynamoDB (moto)."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dfs.errors import ConditionFailed, NotFound
from dfs.metadata import operations
from dfs.metadata.contract import GcEntry, MetadataStore
from dfs.metadata.operations import ALWAYS, LATEST
from dfs.metadata.trashlist import trash_page
from dfs.model import FileState, Head
from dfs.repair.purge import discard, purge_some
from tests.support.metadata_records import NOW, put

B = "default"
ROUNDS = 5


def trashed(store: MetadataStore, path: str) -> tuple[Head, GcEntry]:
    put(store, path)
    head = operations.delete_path(store, B, path, ALWAYS, NOW + 1)
    (entry,) = [entry for entry in store.gc_entries("trashed#default") if entry.id == head.file_id]
    return head, entry


def at_once(work: Sequence[Callable[[], Any]]) -> list[Any]:
    """What each returned; None for those that were refused."""
    start = threading.Barrier(len(work))

    def one(call: Callable[[], Any]) -> Any:
        start.wait()
        try:
            return call()
        except (NotFound, ConditionFailed):
            return None

    with ThreadPoolExecutor(len(work)) as pool:
        return list(pool.map(one, work))


@pytest.mark.parametrize("number", range(ROUNDS))
def test_restores_purges_and_the_end_of_retention_at_once(
    store: MetadataStore, rng: random.Random, number: int
) -> None:
    path = f"p{number}"
    head, entry = trashed(store, path)
    work: list[tuple[str, Callable[[], Any]]] = [
        ("restored", lambda: operations.restore_path(store, B, path, head.file_id, NOW + 5)),
        ("restored", lambda: operations.restore_path(store, B, path, LATEST, NOW + 6, pause=lambda _: None)),
        ("restored", lambda: operations.restore_path(store, B, path, head.file_id, NOW + 5, to=path + "/else")),
        ("going", lambda: operations.purge_trashed(store, B, path, head.file_id, NOW + 5)),
        ("going", lambda: discard(store, [entry], NOW + 5) or None),
    ]
    rng.shuffle(work)
    results = at_once([call for _, call in work])
    won = [name for (name, _), result in zip(work, results, strict=True) if result is not None]
    assert len(won) == 1, won
    record = store.get_file(head.file_id)
    assert record is not None
    assert record.state is (FileState.COMMITTED if won == ["restored"] else FileState.DELETING)
    heads = [found for place in (path, path + "/else") if (found := store.get_head(B, place)) is not None]
    assert heads == ([operations.head_of(record)] if won == ["restored"] else [])


@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_restore_and_puts_on_the_same_path(store: MetadataStore, number: int) -> None:
    """A put always succeeds; the restore only where nothing is shown: before the first of them."""
    path = f"p{number}"
    head, _ = trashed(store, path)
    restored, *puts = at_once(
        [
            lambda: operations.restore_path(store, B, path, head.file_id, NOW + 5),
            lambda: put(store, path, now=NOW + 5),
            lambda: put(store, path, now=NOW + 5),
        ]
    )
    assert all(puts)
    record, shown = store.get_file(head.file_id), store.get_head(B, path)
    assert record is not None and shown is not None and shown.file_id in {done.head.file_id for done in puts}
    assert record.state is FileState.TRASHED
    assert (record.version > head.version) == (restored is not None)
    replaced = [done.replaced.file_id for done in puts if done.replaced is not None]
    assert (head.file_id in replaced) == (restored is not None), "replaced if it was back, and only then"


def test_one_operation_asked_for_by_many_at_once_happens_once(store: MetadataStore) -> None:
    for number in range(ROUNDS):
        head, _ = trashed(store, f"p{number}")

        def restore(path: str = head.path, file_id: str = head.file_id, op_id: str = f"op-{number}") -> Head:
            return operations.restore_path(store, B, path, file_id, NOW + 5, op_id=op_id)

        results = at_once([restore] * 6)
        assert None not in results and len({(each.file_id, each.version) for each in results}) == 1


def test_the_trash_is_listed_and_emptied_alike(store: MetadataStore) -> None:
    heads = [trashed(store, f"d/{name}")[0] for name in ("b", "a", "é" * 490)]
    page = trash_page(store, B, prefix="d/", limit=2)
    rest = trash_page(store, B, prefix="d/", limit=2, cursor=page.cursor)
    assert [record.path for record in (*page.records, *rest.records)] == ["d/a", "d/b", "d/" + "é" * 490][:3]
    assert rest.cursor is None
    entries = store.gc_entries("trashed#default")
    assert sorted((entry.id, entry.size) for entry in entries) == sorted((head.file_id, head.size) for head in heads)
    plan = purge_some(store, bucket=B, before=NOW + 2, plan=True, cursor=None, now_ms=NOW + 9)
    assert (plan.amount.files, plan.amount.bytes) == (3, sum(head.size for head in heads))
    done = purge_some(store, bucket=B, before=NOW + 2, plan=False, cursor=None, now_ms=NOW + 9)
    assert done == plan and not trash_page(store, B).records
    with pytest.raises(NotFound):
        operations.restore_path(store, B, "d/a", LATEST, NOW + 10, pause=lambda _: None)


def test_a_batch_with_one_that_was_restored_takes_the_others(store: MetadataStore) -> None:
    pairs = [trashed(store, f"p{number}") for number in range(7)]
    operations.restore_path(store, B, "p3", pairs[3][0].file_id, NOW + 5)
    gone = discard(store, [entry for _, entry in pairs], NOW + 6)
    assert [entry.path for entry in gone] == ["p0", "p1", "p2", "p4", "p5", "p6"]
    assert store.get_head(B, "p3") is not None
