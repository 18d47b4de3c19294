"""Uploads under way: what is missing, and giving one up."""

from __future__ import annotations

from collections.abc import Iterator

from dfs.api.answers import compact, streamed_list
from dfs.api.requests import file_id_of_path
from dfs.api.service import Service
from dfs.api.tally import count_copies
from dfs.errors import ConditionFailed, NotFound
from dfs.metadata.operations import discard_upload
from dfs.model import FileState
from dfs.wire.message import Request, Response


def show_upload(service: Service, request: Request) -> Response:
    """The state of an upload (or of the file it became) and the chunks it lacks, as ranges."""
    file_id = file_id_of_path(request)
    record = service.store.get_file(file_id)
    if record is None:
        raise NotFound(f"there is no upload {file_id}")
    facts = {
        "file_id": file_id,
        "state": record.state.value,
        "bucket": record.bucket,
        "path": record.path,
        "size": record.size,
        "chunk_size": record.chunk_size,
        "chunks": record.chunk_count,
    }
    before = compact(facts)[:-1] + ',"missing":['
    missing: Iterator[tuple[int, int]] = iter(())
    if record.state is FileState.UPLOADING:
        rows = service.store.replicas(file_id)
        tally = count_copies(rows, record.size, record.chunk_size, record.chunk_count)
        missing = tally.missing(service.required_copies)
    ranges = (f"[{first},{last}]" for first, last in missing)
    return Response(200, [("Content-Type", "application/json")], streamed_list(ranges, before, "]}"))


def abort_upload(service: Service, request: Request) -> Response:
    """Give an unfinished upload up; its space comes back. Repeating it is harmless."""
    file_id = file_id_of_path(request)
    record = service.store.get_file(file_id)
    if record is None:
        raise NotFound(f"there is no upload {file_id}")
    if not discard_upload(service.store, record, service.now()):
        raise ConditionFailed(f"the upload {file_id} is finished; delete {record.path!r} in bucket {record.bucket}")
    return Response.empty(204)
