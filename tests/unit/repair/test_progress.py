"""The shared documents of repair: what is written is read again, also by other releases."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfs.metadata.contract import MOST_DOCUMENT_BYTES, document_text
from dfs.metadata.sqlite import SqliteStore
from dfs.model import new_file_id
from dfs.repair.progress import DOCUMENT, ORDERS, Orders, RepairStatus, Tour, TourKind, load, load_orders


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    made = SqliteStore(str(tmp_path / "meta.db"))
    made.create()
    yield made
    made.close()


def test_a_status_is_read_as_it_was_written(store: SqliteStore) -> None:
    assert load(store) is None
    tours = (
        Tour(TourKind.LOST, "a", 1, cursor=(new_file_id(), 7), passes=2, found=3, chunks_total=9, waits_for="room"),
        Tour(TourKind.DRAIN, "b", 2, in_inventory=True, sequence=17, left=4),
    )
    status = RepairStatus(
        at=5,
        leader="api-x",
        fence=3,
        absent={"a": 12.5},
        repaired=("a",),
        tours=tours,
        unrecoverable=1,
        unrecoverable_chunks=((new_file_id(), 0),),
        problems=("one",),
    )
    store.write_document(DOCUMENT, status.to_json(), None)
    assert load(store) == status


def test_fields_that_are_missing_or_unknown_are_no_error() -> None:
    tour = {"kind": "lost", "node_id": "a", "began_at": 1, "speed": 3}
    status = RepairStatus.from_json({"at": 7, "tours": [tour], "colour": "red"})
    assert status == RepairStatus(at=7, tours=(Tour(TourKind.LOST, "a", 1),))


def test_a_status_of_a_large_cluster_fits_a_document() -> None:
    names = [f"i-{number:017x}" for number in range(300)]
    status = RepairStatus(
        absent=dict.fromkeys(names, 1234567.891),
        repaired=tuple(names),
        tours=tuple(Tour(TourKind.LOST, name, 1 << 41, cursor=(new_file_id(), 1 << 30)) for name in names),
        unrecoverable_chunks=tuple((new_file_id(), 1 << 30) for _ in range(5000)),
        problems=("x" * 200,) * 5000,
    )
    assert len(json.dumps(status.to_json())) < MOST_DOCUMENT_BYTES


def test_orders_are_read_as_they_were_written(store: SqliteStore) -> None:
    assert load_orders(store) == Orders()
    orders = Orders(17, {"a": 5})
    store.write_document(ORDERS, orders.to_json(), None)
    assert load_orders(store) == orders


@pytest.mark.parametrize("value", [{}, {"rebalance": 7, "repair_now": []}, {"rebalance": {"at": "x"}}])
def test_what_is_not_understood_is_no_order(value: dict[str, object]) -> None:
    assert Orders.from_json(value) == Orders()


def test_the_state_of_a_thousand_nodes_has_room_in_a_document() -> None:
    names = [f"i-0abcdef{number:010d}" for number in range(1000)]
    tours = tuple(
        Tour(TourKind.REBALANCE, name, 1, waits_for="node i-0abcdef0000000001 is away", chunks_total=10**6, bytes_total=10**12)
        for name in names
    )
    status = RepairStatus(at=1, absent=dict.fromkeys(names[:300], 12345.678), repaired=tuple(names[:300]), tours=tours)
    assert RepairStatus.from_json(json.loads(document_text(status.to_json()))) == status
