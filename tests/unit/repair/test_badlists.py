"""Which nodes are asked for what is bad on their disks."""

from __future__ import annotations

from dfs.cluster.view import View
from dfs.model import AdminState
from dfs.repair.badlists import BadLists
from dfs.repair.later import Later
from tests.unit.repair.test_health import member


def test_a_node_that_is_ours_no_more_or_does_not_answer_is_not_asked() -> None:
    lists = BadLists(Later(1.0, lambda: 0.0))
    gone = member("n1", bad_chunks=1, admin_state=AdminState.DECOMMISSIONED)
    lists.look(View(1, (gone, member("n2", bad_chunks=2, down=True))))
    assert lists.count == 0 and lists.ask() is None
    lists.look(View(1, (gone, member("n2", bad_chunks=2))))
    assert lists.count == 2 and lists.ask() == ("n2", None)
