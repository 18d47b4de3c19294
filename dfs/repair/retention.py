"""How long files stay in the trash: pure."""

from __future__ import annotations

from dataclasses import dataclass

from dfs.metadata.contract import GcEntry
from dfs.model import Retired


@dataclass(frozen=True, slots=True)
class Retention:
    """Milliseconds for which files can be restored, by why they left their path."""

    deleted_ms: int
    replaced_ms: int

    def of(self, retired: str) -> int:
        """For a file that was `retired` so. What does not say why counts as deleted."""
        return self.replaced_ms if retired == Retired.REPLACED else self.deleted_ms

    def ends(self, entry: GcEntry) -> int:
        """When the file of an entry of the trash may go."""
        return entry.at + self.of(entry.retired)

    @property
    def shortest(self) -> int:
        """The least time that a file which comes to the trash now stays there."""
        return min(self.deleted_ms, self.replaced_ms)
