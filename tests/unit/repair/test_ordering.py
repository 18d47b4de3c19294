"""Orders to repair: written once, withdrawn, in spite of others who write too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from dfs.errors import Busy
from dfs.metadata.contract import MetadataStore, OutcomeUnknown
from dfs.model import Document
from dfs.repair.ordering import bytes_to_move, order_rebalance, order_repair, stop_rebalance
from dfs.repair.progress import Orders, load_orders
from tests.unit.cluster.fakes import GIB, info


class Documents:
    """The documents of a store. `meddle` runs before each write; `lost`: applied, but not answered."""

    def __init__(self) -> None:
        self.kept: dict[str, Document] = {}
        self.meddle: Callable[[], None] = lambda: None
        self.lost = False

    def read_document(self, name: str) -> Document | None:
        return self.kept.get(name)

    def write_document(self, name: str, value: dict[str, Any], seen: Document | None) -> Document | None:
        self.meddle()
        if self.kept.get(name) != seen:
            return None
        self.kept[name] = Document(name, 1 if seen is None else seen.version + 1, value)
        if self.lost:
            self.lost = False
            raise OutcomeUnknown("lost")
        return self.kept[name]


@pytest.fixture
def documents() -> Documents:
    return Documents()


def store(documents: Documents) -> MetadataStore:
    return cast(MetadataStore, documents)


def test_orders_are_given_once_and_kept_beside_each_other(documents: Documents) -> None:
    assert order_rebalance(store(documents), 5) and not order_rebalance(store(documents), 6)
    assert order_repair(store(documents), "n1", 7) and not order_repair(store(documents), "n1", 8)
    assert order_repair(store(documents), "n2", 9)
    assert load_orders(store(documents)) == Orders(5, {"n1": 7, "n2": 9})
    assert stop_rebalance(store(documents), 10) and not stop_rebalance(store(documents), 11)
    assert load_orders(store(documents)) == Orders(0, {"n1": 7, "n2": 9}, 10)
    assert order_rebalance(store(documents), 12)
    assert load_orders(store(documents)) == Orders(12, {"n1": 7, "n2": 9})


def test_an_order_beside_another_writer(documents: Documents) -> None:
    def once() -> None:
        documents.meddle = lambda: None
        order_repair(store(documents), "n2", 1)

    documents.meddle = once
    assert order_repair(store(documents), "n1", 2)
    assert load_orders(store(documents)).repair_now == {"n1": 2, "n2": 1}


def test_an_order_that_never_gets_through(documents: Documents) -> None:
    def always() -> None:
        seen = documents.kept.get("orders")
        documents.kept["orders"] = Document("orders", seen.version + 1 if seen else 1, {})

    documents.meddle = always
    with pytest.raises(Busy):
        order_rebalance(store(documents), 1)


def test_a_lost_answer(documents: Documents) -> None:
    documents.lost = True
    assert order_rebalance(store(documents), 5)
    assert load_orders(store(documents)).rebalance_at == 5


def test_what_rebalancing_moves() -> None:
    full = info("a", capacity=64 * GIB, used_bytes=40 * GIB)
    assert bytes_to_move([full, info("b", capacity=64 * GIB)]) == 20 * GIB
    assert bytes_to_move([full, info("b", capacity=64 * GIB, used_bytes=40 * GIB)]) == 0
    assert bytes_to_move([]) == 0
