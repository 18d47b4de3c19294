"""Operation records: they make a delete, move or restore happen once, whatever answers are lost.

The rules they follow are in `operations`.
"""

from __future__ import annotations

import uuid
from typing import Any

from dfs.errors import BY_CODE, BadRequest, ConditionFailed, DfsError
from dfs.metadata.attempts import Attempts
from dfs.metadata.contract import MetadataStore
from dfs.metadata.steps import PutOperation

_LONGEST_OPERATION_ID = 200


class Operation:
    """One operation under its id: `what` it is asked to do is kept with what came of it.

    Without `op_id` nobody can repeat it, and the record only tells its own lost answers. Raises BadRequest for
    an id that cannot be one.
    """

    def __init__(self, store: MetadataStore, op_id: str | None, what: dict[str, Any], now_ms: int) -> None:
        if op_id is not None and not (
            0 < len(op_id) <= _LONGEST_OPERATION_ID and op_id.isascii() and op_id.isprintable()
        ):
            raise BadRequest(f"an operation id is 1 to {_LONGEST_OPERATION_ID} printable ASCII characters")
        self._store = store
        self._named = op_id is not None
        self._id = op_id or str(uuid.uuid4())
        self._what = what
        self._now_ms = now_ms

    def record(self, result: dict[str, Any]) -> PutOperation:
        """The step that records the result, and is refused when there is one."""
        return PutOperation(self._id, self._what | result, self._now_ms)

    def earlier(self, tries: Attempts, *, asked: bool) -> dict[str, Any] | None:
        """The result of an earlier attempt, read when `asked` and there can be one.

        Raises its error if it was refused, ConditionFailed if the id was used for something else.
        """
        if not asked or not (self._named or tries.in_doubt):
            return None
        found = self._store.operation(self._id)
        if found is None:
            return None
        if any(found.get(name) != value for name, value in self._what.items()):
            raise ConditionFailed(f"operation id {self._id!r} was used for another operation")
        if "refused" in found:
            raise BY_CODE[found["refused"]](found["message"])
        return found

    def refuse(self, tries: Attempts, error: DfsError) -> None:
        """Raise `error` once no earlier attempt can be applied any more; returns when one may have been."""
        if not (self._named or tries.in_doubt):
            raise error
        if tries.send([self.record({"refused": error.code, "message": error.message})]):
            raise error
