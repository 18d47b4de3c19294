"""A node is emptied, and something fails at each step."""

from __future__ import annotations

from pathlib import Path

import pytest

from dfs.model import AdminState
from tests.fault.matrix.healing import Damage, Strike, examine, steps_of_metadata, steps_of_nodes
from tests.support.site import Site

CELLS: dict[str, list[Strike]] = (
    steps_of_nodes("copies", "/pull-chunk")
    | steps_of_metadata("removal", "rows out")
    | steps_of_nodes("bytes", "/drop-replica")
    | steps_of_nodes("inventory", "/inventory")
    | steps_of_metadata("declaration", "set_admin_state")
)


class Draining(Damage):
    """A node that holds a copy of `a/file` is draining, and knows it."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.node = site.api.holders(self.ids["a/file"])[0]
        self.node.admin_state = "draining"
        seen = next(info for info in site.store.list_nodes() if info.node_id == self.node.node_id)
        assert site.store.set_admin_state(
            seen, AdminState.DRAINING, at=1, until=0, guard=None, guard_name="nodes"
        )
        site.api.service.membership.refresh(0.0)

    def done(self) -> bool:
        state = next(info for info in self.site.store.list_nodes() if info.node_id == self.node.node_id)
        return state.admin_state is AdminState.DRAINED

    def finish(self) -> None:
        super().finish()
        assert not self.node.chunks, "drained is what the node itself says"


@pytest.mark.parametrize("cell", CELLS)
def test_drain(tmp_path: Path, cell: str) -> None:
    examine(tmp_path, CELLS[cell], Draining)
