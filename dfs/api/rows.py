"""Recording where chunks lie."""

from __future__ import annotations

from collections.abc import Sequence

from dfs.errors import Gone, NotFound, Unavailable
from dfs.metadata.contract import MetadataStore, OutcomeUnknown, StepsRefused
from dfs.metadata.steps import PutShort
from dfs.model import ChunkReplica

_TRIES = 3


def add_rows(
    store: MetadataStore, file_id: str, rows: Sequence[ChunkReplica], short: Sequence[PutShort]
) -> None:
    """Put replica rows of a file that is not being deleted; a lost answer is resolved by repeating.

    Raises NotFound (there is no such file), Gone (it is being deleted), Unavailable.
    """
    for _ in range(_TRIES):
        try:
            store.add_replicas(file_id, rows, short)
            return
        except StepsRefused:
            if store.get_file(file_id) is None:
                raise NotFound(f"there is no upload {file_id}") from None
            raise Gone(f"the upload {file_id} was aborted or its file deleted") from None
        except OutcomeUnknown:
            continue  # the same rows again do no harm
    raise Unavailable("the metadata store does not answer reliably; try again")
