"""If-Match and If-None-Match on a path's head."""

from __future__ import annotations

from dataclasses import dataclass

from dfs.errors import ConditionFailed
from dfs.model import Head

_WEAK = "W/"


@dataclass(frozen=True, slots=True)
class Precondition:
    """What must hold of a head. Each tuple holds file_ids (ETags without their quotes) or "*".

    A weak ETag is written `W/<file_id>`: it never matches If-Match, and matches If-None-Match as
    if it were strong (RFC 9110, 13.1). No tuple: no condition.
    """

    if_match: tuple[str, ...] | None = None
    if_none_match: tuple[str, ...] | None = None

    def holds(self, head: Head | None) -> bool:
        """Whether the condition is met by what the path shows (None: nothing)."""
        match = self.if_match
        if match is not None and (head is None or ("*" not in match and head.file_id not in match)):
            return False
        if self.if_none_match is not None and head is not None:
            named = {tag.removeprefix(_WEAK) for tag in self.if_none_match}
            return "*" not in named and head.file_id not in named
        return True

    def check(self, head: Head | None) -> None:
        """Raises ConditionFailed unless it holds."""
        if not self.holds(head):
            raise failed(head)


ALWAYS = Precondition()


def failed(head: Head | None) -> ConditionFailed:
    """The error for a head that does not meet a condition."""
    if head is None:
        return ConditionFailed("the path shows no file, and the request is conditional on one")
    return ConditionFailed(f"the path shows file {head.file_id}, which the request's condition excludes")
