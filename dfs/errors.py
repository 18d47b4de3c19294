"""The one error tree.

Every error that may reach a peer is a `DfsError`. Its class says the HTTP status, the stable code
clients switch on, and whether the same request may succeed when repeated (`retryable`). Anything
else that escapes a handler is a bug: the wire layer logs it in full and answers a bare 500.
"""

from __future__ import annotations

from typing import Any, ClassVar


class DfsError(Exception):
    """Base of all errors that have an HTTP answer.

    `message` is one sentence for a person. `retry_after` (seconds) becomes a `Retry-After` header.
    `details` are further JSON members of the error object (for example `missing` ranges).
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    default_retry_after: ClassVar[int | None] = None

    def __init__(
        self,
        message: str,
        *,
        retry_after: int | None = None,
        details: dict[str, Any] | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = self.default_retry_after if retry_after is None else retry_after
        self.details = details or {}
        self.headers = headers

    def payload(self, request_id: str) -> dict[str, Any]:
        """The JSON body of the answer."""
        error: dict[str, Any] = {
            "code": self.code,
            "message": self.message,
            "retryable": self.retryable,
            "request_id": request_id,
        }
        for name, value in self.details.items():
            error.setdefault(name, value)
        return {"error": error}


class BadRequest(DfsError):
    """The request itself is wrong and will be wrong again."""

    status = 400
    code = "bad_request"


class BadPath(BadRequest):
    """A path or bucket name breaks the naming rules."""

    code = "bad_path"


class ChecksumMismatch(BadRequest):
    """The bytes received do not have the checksum that the request declared."""

    code = "checksum_mismatch"


class LengthMismatch(BadRequest):
    """The number of bytes received is not the number expected here."""

    code = "length_mismatch"


class BadIndex(BadRequest):
    """The chunk index is not one of the file's."""

    code = "bad_index"


class TooManyChunks(BadRequest):
    """The file would have more chunks than `DFS_MAX_CHUNKS_PER_FILE`."""

    code = "too_many_chunks"


class Forbidden(DfsError):
    """The caller may not do this."""

    status = 403
    code = "forbidden"


class NotFound(DfsError):
    """There is no such file, path, bucket, chunk or endpoint."""

    status = 404
    code = "not_found"


class MethodNotAllowed(DfsError):
    """The endpoint exists, but not with this method."""

    status = 405
    code = "method_not_allowed"


class RequestTimeout(DfsError):
    """The client sent its request too slowly."""

    status = 408
    code = "request_timeout"
    retryable = True


class ChunkConflict(DfsError):
    """The chunk is already stored with other bytes."""

    status = 409
    code = "chunk_conflict"


class Incomplete(DfsError):
    """The upload lacks chunks; `details["missing"]` names the ranges."""

    status = 409
    code = "incomplete"


class NotFinalized(DfsError):
    """The file is still being uploaded."""

    status = 409
    code = "not_finalized"


class Fenced(DfsError):
    """The caller works under a lease that somebody else has taken since (nodes only)."""

    status = 409
    code = "fenced"


class Refused(DfsError):
    """The operators' command would endanger data or writes now; `details["reasons"]` lists why."""

    status = 409
    code = "refused"


class Gone(DfsError):
    """The file was deleted for good."""

    status = 410
    code = "gone"


class LengthRequired(DfsError):
    """The request needs a Content-Length."""

    status = 411
    code = "length_required"


class ConditionFailed(DfsError):
    """A precondition (If-Match, If-None-Match, target exists) does not hold."""

    status = 412
    code = "condition_failed"


class PayloadTooLarge(DfsError):
    """The body is larger than this endpoint takes."""

    status = 413
    code = "too_large"


class UriTooLong(DfsError):
    """The request target is too long."""

    status = 414
    code = "uri_too_long"


class RangeNotSatisfiable(DfsError):
    """The requested range lies outside the file."""

    status = 416
    code = "range_not_satisfiable"


class ExpectationFailed(DfsError):
    """An `Expect` other than `100-continue`."""

    status = 417
    code = "expectation_failed"


class WrongNode(DfsError):
    """The process that answered is not the node, or not of the cluster, that was asked for."""

    status = 421
    code = "wrong_node"


class HeadersTooLarge(DfsError):
    """The request head is over its limits."""

    status = 431
    code = "headers_too_large"


class NotSupported(DfsError):
    """A transfer coding or method that this server does not implement."""

    status = 501
    code = "not_supported"


class HttpVersionNotSupported(DfsError):
    """Neither HTTP/1.1 nor HTTP/1.0."""

    status = 505
    code = "http_version_not_supported"


class Unavailable(DfsError):
    """Something this request needs cannot be reached now. Nothing was done."""

    status = 503
    code = "unavailable"
    retryable = True
    default_retry_after = 2


class NotEnoughNodes(Unavailable):
    """Fewer nodes can take the chunk than replicas are required."""

    code = "not_enough_nodes"


class NoReplica(Unavailable):
    """No good replica of a chunk could be read."""

    code = "no_replica"


class Busy(Unavailable):
    """Too much contention or too many waiters; trying again later helps."""

    code = "busy"
    default_retry_after = 1


class Unknown(Unavailable):
    """The outcome could not be learnt: repeat with the same operation id to find out."""

    code = "unknown"
    default_retry_after = 1


class StoreReadOnly(Unavailable):
    """The node takes no writes (its disk failed, it is draining or stopping)."""

    code = "read_only"


class CorruptChunk(DfsError):
    """The stored bytes do not verify; another replica must answer."""

    status = 500
    code = "corrupt_chunk"
    retryable = True


class ClusterFull(DfsError):
    """No node has room for the chunk."""

    status = 507
    code = "cluster_full"
    retryable = True
    default_retry_after = 60


class NodeFull(DfsError):
    """This node is below its reserve."""

    status = 507
    code = "node_full"
    retryable = True


def _tree(root: type[DfsError]) -> list[type[DfsError]]:
    found = [root]
    for child in root.__subclasses__():
        found.extend(_tree(child))
    return found


BY_CODE: dict[str, type[DfsError]] = {kind.code: kind for kind in _tree(DfsError)}
"""Every error class by its code, so that a peer's answer becomes the same error here."""


def from_answer(status: int, payload: object, retry_after: int | None = None) -> DfsError:
    """The error that a peer's non-2xx answer stands for.

    Unknown codes and bodies that are not ours become an `Unavailable` (5xx) or `BadRequest` (4xx)
    that names the status.
    """
    error = payload.get("error") if isinstance(payload, dict) else None
    if isinstance(error, dict) and isinstance(error.get("code"), str):
        kind = BY_CODE.get(error["code"])
        if kind is not None and kind.status == status:
            details = {
                name: value
                for name, value in error.items()
                if name not in ("code", "message", "retryable", "request_id")
            }
            return kind(str(error.get("message", "")), retry_after=retry_after, details=details)
    text = f"the server answered {status}"
    return Unavailable(text, retry_after=retry_after) if status >= 500 else BadRequest(text)


class SettingsError(ValueError):
    """A setting is unknown or has a bad value; the message names it and what is allowed."""


class StartError(RuntimeError):
    """The process cannot start; the message says what is wrong and what to do."""
