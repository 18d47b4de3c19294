"""Strict parsing of message heads: bytes only, no leniency that two parsers could read differently.

A head is everything up to and including the empty line. Refused are: line ends other than CRLF,
control characters, folded lines, names that are not tokens, space before the colon, more than one
Host, Content-Length or Transfer-Encoding, a length that is not plain digits, and length and transfer
coding together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from dfs.errors import (
    BadRequest,
    ExpectationFailed,
    HeadersTooLarge,
    HttpVersionNotSupported,
    NotSupported,
    UriTooLong,
)
from dfs.wire.link import FramingError
from dfs.wire.message import Headers
from dfs.wire.target import is_host

Fields = list[tuple[bytes, bytes]]

END = b"\r\n\r\n"
HOPELESS = re.compile(rb"\0|(?<!\r)\n|\r[^\n]")
"""Bytes that no head may contain: there is no point in waiting for its end."""

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb"{1,32}) ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2}) [\t\x20-\x7e\x80-\xff]*")
_FIELDS = re.compile(rb"(?:" + _TOKEN + rb"{1,256}:[\t\x20-\x7e\x80-\xff]*\r\n)*")
_FIELD = re.compile(rb"([^:\r]+):[ \t]*([^\r]*)\r\n")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_CODING = re.compile(_TOKEN + rb"+")

REMEMBERED = 128
REMEMBERED_BYTES = 1024

_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"connection", b"host", b"expect"})
_FRAMING_SIZES = frozenset(map(len, _FRAMING))


@dataclass(frozen=True)
class HeadLimits:
    """What a head may measure, in bytes and lines."""

    line_bytes: int = 16 * 1024
    lines: int = 100


class Framing(NamedTuple):
    """What the framing fields of a message say."""

    length: int | None
    chunked: bool
    close: bool
    keep_alive: bool
    host: bytes | None
    expect: bytes | None


class RequestHead(NamedTuple):
    """A parsed request head. `target` is as sent; `version` is the minor version, 0 or 1."""

    method: str
    target: str
    version: int
    headers: Headers
    framing: Framing
    host: str | None
    persistent: bool
    expects_continue: bool


class ResponseHead(NamedTuple):
    """A parsed response head."""

    status: int
    version: int
    fields: Fields
    framing: Framing


def parse_fields(block: bytes, limits: HeadLimits) -> Fields:
    """Names and values (with outer blanks) of `block`, lines that each end in CRLF.

    Raises FramingError for bad syntax, HeadersTooLarge beyond the limits.
    """
    if _FIELDS.fullmatch(block) is None:
        raise FramingError("malformed header field")
    fields: Fields = _FIELD.findall(block)
    if len(fields) > limits.lines:
        raise HeadersTooLarge(f"the head has more than {limits.lines} fields")
    if len(block) > limits.line_bytes and max(map(len, block.split(b"\r\n"))) > limits.line_bytes:
        raise HeadersTooLarge(f"a header field is longer than {limits.line_bytes} bytes")
    return fields


def _framing(fields: Fields, version: int) -> Framing:
    """Raises FramingError unless the fields delimit the message in exactly one way."""
    length: int | None = None
    chunked = close = keep_alive = False
    host: bytes | None = None
    expect: bytes | None = None
    seen_coding = False
    for name, value in fields:
        if len(name) not in _FRAMING_SIZES:
            continue
        key = name.lower()
        if key not in _FRAMING:
            continue
        value = value.strip(b" \t")
        if key == b"connection":
            options = [option.strip(b" \t").lower() for option in value.split(b",")]
            close = close or b"close" in options
            keep_alive = keep_alive or b"keep-alive" in options
        elif key == b"host":
            if host is not None:
                raise FramingError("more than one Host")
            host = value
        elif key == b"content-length":
            if length is not None:
                raise FramingError("more than one Content-Length")
            if _LENGTH.fullmatch(value) is None:
                raise FramingError("Content-Length is not a plain number of at most 18 digits")
            length = int(value)
        elif key == b"transfer-encoding":
            if seen_coding:
                raise FramingError("more than one Transfer-Encoding")
            seen_coding = True
            if value.lower() != b"chunked":
                if _CODING.fullmatch(value) and value.lower() != b"identity":
                    raise NotSupported("the only transfer coding here is chunked")
                raise FramingError("the transfer coding is not chunked")
            chunked = True
        elif expect is not None:
            raise FramingError("more than one Expect")
        else:
            expect = value
    if chunked and length is not None:
        raise FramingError("Content-Length together with Transfer-Encoding")
    if chunked and version == 0:
        raise FramingError("Transfer-Encoding in HTTP/1.0")
    return Framing(length, chunked, close, keep_alive, host, expect)


class _Block(NamedTuple):
    """What the header fields of a request say."""

    headers: Headers
    framing: Framing
    host: str | None
    persistent: bool
    expects_continue: bool


def _parse_block(block: bytes, version: int, limits: HeadLimits) -> _Block:
    try:
        fields = parse_fields(block, limits)
        framing = _framing(fields, version)
    except FramingError as error:
        raise BadRequest(f"malformed request: {error}") from None
    host: str | None = None
    if framing.host is not None:
        host = framing.host.decode("latin-1")
        if not is_host(host):
            raise BadRequest("the Host header is not a host")
    elif version == 1:
        raise BadRequest("an HTTP/1.1 request needs a Host header")
    expects = False
    if framing.expect is not None and version == 1:
        if framing.expect.lower() != b"100-continue":
            raise ExpectationFailed("the only expectation here is 100-continue")
        expects = True
    persistent = not framing.close and (version == 1 or framing.keep_alive)
    return _Block(Headers.from_raw(fields), framing, host, persistent, expects)


class RequestHeads:
    """Parses the request heads of one server; used by every thread at once.

    A client that keeps its connection sends the same header fields with each request without a body:
    what they say is remembered by their very bytes, for `REMEMBERED` short blocks at most.
    """

    def __init__(self, limits: HeadLimits) -> None:
        self._limits = limits
        self._known: dict[bytes, _Block] = {}

    def parse(self, head: bytes) -> RequestHead:
        """The request head `head`, which ends with its empty line.

        Raises BadRequest, UriTooLong, HeadersTooLarge, HttpVersionNotSupported, NotSupported or
        ExpectationFailed; after any of them the connection cannot be used further.
        """
        end = head.find(b"\r\n")
        line = _REQUEST_LINE.fullmatch(head, 0, end)
        if line is None:
            raise BadRequest("malformed request line")
        if end > self._limits.line_bytes:
            raise UriTooLong(f"the request line is longer than {self._limits.line_bytes} bytes")
        raw_method, raw_target, major, minor = line.groups()
        if major != b"1" or minor not in (b"0", b"1"):
            raise HttpVersionNotSupported("this server speaks HTTP/1.1 and HTTP/1.0")
        version = 1 if minor == b"1" else 0
        key = head[end - 1 : -2]  # with the version's digit, which decides how the fields are read
        block = self._known.get(key)
        if block is None:
            block = _parse_block(key[3:], version, self._limits)
            if len(key) <= REMEMBERED_BYTES and not block.framing.length and not block.framing.chunked:
                if len(self._known) >= REMEMBERED:
                    self._known.clear()
                self._known[key] = block
        return RequestHead(raw_method.decode("ascii"), raw_target.decode("ascii"), version, *block)


def parse_request_head(head: bytes, limits: HeadLimits) -> RequestHead:
    """`RequestHeads.parse` for a single head."""
    return RequestHeads(limits).parse(head)


def parse_response_head(head: bytes, limits: HeadLimits) -> ResponseHead:
    """The response head `head`, which ends with its empty line; raises FramingError."""
    end = head.find(b"\r\n")
    line = _STATUS_LINE.fullmatch(head, 0, end)
    if line is None:
        raise FramingError("malformed status line")
    version = 1 if line[1] == b"1" else 0
    try:
        fields = parse_fields(head[end + 2 : -2], limits)
        framing = _framing(fields, version)
    except (HeadersTooLarge, NotSupported) as error:
        raise FramingError(error.message) from None
    return ResponseHead(int(line[2]), version, fields, framing)
