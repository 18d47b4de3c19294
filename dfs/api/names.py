"""Names a client chooses, made into what is stored: pure."""

from __future__ import annotations

import re

from dfs.errors import BadRequest
from dfs.model import MAX_PATH_BYTES

DEFAULT_CONTENT_TYPE = "application/octet-stream"
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_CONTENT_TYPE = re.compile(
    rf"{_TOKEN}/{_TOKEN}"
    rf"(?:[ \t]*;[ \t]*(?:{_TOKEN}=(?:{_TOKEN}|\"(?:[\t \x21\x23-\x5b\x5d-\x7e]|\\[\t\x20-\x7e])*\"))?)*\Z"
)
_MAX_CONTENT_TYPE = 255
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def check_content_type(value: str | None) -> str:
    """A media type fit to be sent back as it is; the default when there is none.

    Raises BadRequest: what is stored here becomes a header of every answer.
    """
    if value is None or not value.strip():
        return DEFAULT_CONTENT_TYPE
    value = value.strip()
    if len(value) > _MAX_CONTENT_TYPE or not _CONTENT_TYPE.match(value):
        raise BadRequest(
            f"the content type must be like text/plain, of at most {_MAX_CONTENT_TYPE} ASCII characters"
        )
    return value


def check_filename(value: object) -> str:
    """`filename` of an init-upload as given. Raises BadRequest."""
    if not isinstance(value, str) or not value:
        raise BadRequest("filename must be a non-empty string")
    if "\0" in value:
        raise BadRequest("filename must not contain NUL")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRequest("filename must be valid Unicode") from None
    return value


def upload_path(file_id: str, filename: str) -> str:
    """The legal path `<file_id>/<filename>` under which an upload without a path appears.

    Of the filename its last segment is used (clients send whole local paths), control characters
    replaced, cut to fit.
    """
    segments = [segment for segment in filename.split("/") if segment]
    name = _CONTROL.sub("_", segments[-1]) if segments else "file"
    if name in (".", ".."):
        name = "_" * len(name)
    return f"{file_id}/{cut_utf8(name, MAX_PATH_BYTES - len(file_id) - 1)}"


def cut_utf8(text: str, limit: int) -> str:
    """`text` without the characters that go beyond `limit` bytes of UTF-8."""
    data = text.encode()
    return text if len(data) <= limit else data[:limit].decode(errors="ignore")
