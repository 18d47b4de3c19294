"""A chunk has lost a copy and another has one too many, and something fails at each step of repair."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dfs.metadata.contract import GcKind
from dfs.metadata.steps import PutShort
from tests.fault.matrix.healing import Damage, Strike, examine, steps_of_metadata, steps_of_nodes
from tests.support.site import Site

CELLS: dict[str, list[Strike]] = (
    {cell: strikes for cell, strikes in steps_of_metadata("look", "read").items() if not cell.endswith("disk full")}
    | steps_of_nodes("copy", "/pull-chunk")
    | steps_of_nodes("proof", "/verify-chunk")
    | steps_of_metadata("row", "rows")
    | steps_of_metadata("removal", "rows out")
    | steps_of_nodes("bytes", "/drop-replica")
    | steps_of_metadata("mark", "mark out")
)


class Marked(Damage):
    """`a/file` has lost one of its copies, `other` has three; both are marked."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        lost, surplus = self.ids["a/file"], self.ids["other"]
        site.api.holders(lost)[0].lose((lost, 0))
        rows = list(site.store.replicas(surplus))
        third = next(node for node in site.nodes if node.node_id not in {row.node_id for row in rows})
        third._keep((surplus, 0), self.files["other"], rows[0].checksum)
        site.store.add_replicas(surplus, [replace(rows[0], node_id=third.node_id, replica_type="secondary")])
        for file_id in (lost, surplus):
            site.store.transact([PutShort(file_id, 0, 1)])

    def done(self) -> bool:
        store = self.site.store
        marks = [mark for part in store.gc_partitions(GcKind.SHORT) for mark in store.gc_entries(part)]
        return not marks


@pytest.mark.parametrize("cell", CELLS)
def test_repair(tmp_path: Path, cell: str) -> None:
    examine(tmp_path, CELLS[cell], Marked)
