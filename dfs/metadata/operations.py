"""The rules of files, written once on `MetadataStore.transact`: begin, commit, move, delete, restore, discard.

Each operation reads what it changes and sends one transaction conditioned on exactly that; when it
is refused the operation reads again, `TRIES` times, then answers `Busy`.

**Lost answers.** A transaction whose answer was lost may have been applied, and may still be. So an
upload is resolved by its own file record and a delete, move or restore by its own operation record, never by
the path, which others change. Before an operation that may still be in flight, here or in another
server, is answered with a refusal, it is *fenced*: something it is conditioned on is changed, so
that a late arrival is refused too. Therefore:

- success means it happened, exactly once;
- `ConditionFailed`, `NotFound` and `Gone` mean it did not happen and will not;
- `Busy` and `Unavailable` mean this call did nothing;
- `Unknown` means: repeat with the same id to find out.
"""

from __future__ import annotations

from dfs.metadata.heads import Committed, head_of
from dfs.metadata.preconditions import ALWAYS, Precondition
from dfs.metadata.rebind import delete_path, move_path
from dfs.metadata.restore import LATEST, purge_trashed, restore_path
from dfs.metadata.uploads import begin_upload, commit_file, discard_upload, find_commit, touch_upload

__all__ = [
    "ALWAYS",
    "LATEST",
    "Committed",
    "Precondition",
    "begin_upload",
    "commit_file",
    "delete_path",
    "discard_upload",
    "find_commit",
    "head_of",
    "move_path",
    "purge_trashed",
    "restore_path",
    "touch_upload",
]
