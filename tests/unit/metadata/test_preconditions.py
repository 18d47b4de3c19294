"""If-Match and If-None-Match."""

from __future__ import annotations

import pytest

from dfs.errors import ConditionFailed
from dfs.metadata.operations import head_of
from dfs.metadata.preconditions import ALWAYS, Precondition
from tests.support.metadata_records import a_record

HEAD = head_of(a_record())
ID = HEAD.file_id


@pytest.mark.parametrize(
    ("condition", "on_head", "on_nothing"),
    [
        (ALWAYS, True, True),
        (Precondition(if_match=("*",)), True, False),
        (Precondition(if_match=("x", ID)), True, False),
        (Precondition(if_match=("x",)), False, False),
        (Precondition(if_match=()), False, False),
        (Precondition(if_match=(f"W/{ID}",)), False, False),
        (Precondition(if_none_match=("*",)), False, True),
        (Precondition(if_none_match=(ID,)), False, True),
        (Precondition(if_none_match=(f"W/{ID}",)), False, True),
        (Precondition(if_none_match=("x",)), True, True),
        (Precondition(if_none_match=()), True, True),
        (Precondition(if_match=(ID,), if_none_match=("*",)), False, False),
    ],
)
def test_conditions(condition: Precondition, on_head: bool, on_nothing: bool) -> None:
    assert condition.holds(HEAD) is on_head
    assert condition.holds(None) is on_nothing
    for head, holds in ((HEAD, on_head), (None, on_nothing)):
        if holds:
            condition.check(head)
        else:
            with pytest.raises(ConditionFailed):
                condition.check(head)
