"""How absence is counted."""

from __future__ import annotations

from typing import Any

import pytest

from dfs.cluster.view import MemberState, View
from dfs.model import AdminState
from dfs.repair.absence import LONGEST_GAP, READABLE_WITHIN, Absence
from tests.unit.cluster.fakes import info


def view(*gone: str, **changes: Any) -> View:
    return View(1, [MemberState(info(name, **changes), name not in gone, suspect=False) for name in "abc"])


def test_seconds_are_counted_between_looks() -> None:
    absence = Absence()
    for now in (100.0, 105.0, 112.0):
        absence.look(view("a"), 0.0, now)
    assert absence.seconds() == {"a": 12.0}
    absence.look(view("a", "b"), 0.0, 113.0)
    assert absence.seconds() == {"a": 13.0, "b": 0.0}
    absence.look(view("b"), 0.0, 115.0)
    assert absence.seconds() == {"b": 2.0}


def test_time_without_a_readable_registry_does_not_count() -> None:
    absence = Absence({"a": 7.0})
    for now, age in ((0.0, 0.0), (5.0, READABLE_WITHIN + 0.1), (500.0, 1.0), (503.0, 1.0)):
        absence.look(view("a"), age, now)
    assert absence.readable and absence.seconds() == {"a": 10.0}


def test_a_process_that_was_stopped_counts_little() -> None:
    absence = Absence()
    absence.look(view("a"), 0.0, 0.0)
    absence.look(view("a"), 0.0, 3600.0)
    absence.look(view("a"), 0.0, 3599.0)
    assert absence.seconds() == {"a": LONGEST_GAP}


@pytest.mark.parametrize("state", [AdminState.MAINTENANCE, AdminState.DECOMMISSIONED])
def test_who_is_expected_to_be_away_is_not_absent(state: AdminState) -> None:
    absence = Absence({"a": 5.0})
    absence.look(view("a", admin_state=state), 0.0, 1.0)
    assert absence.seconds() == {}


def test_a_node_that_is_alive_and_does_not_work_is_absent() -> None:
    absence = Absence()
    absence.look(View(1, [MemberState(info("a"), alive=True, suspect=True)]), 0.0, 1.0)
    assert absence.seconds() == {"a": 0.0}
