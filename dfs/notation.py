"""How values of settings and arguments are written: sizes, times, numbers, addresses, URLs; and how sizes
and times are shown to people.

Each parser takes the text and returns the value; its ValueError says what is allowed, to be put
behind "it must be".
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dfs.model import is_node_id

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

_SIZES = {
    "": 1, "B": 1, "K": KIB, "KIB": KIB, "M": MIB, "MIB": MIB, "G": GIB, "GIB": GIB, "T": TIB, "TIB": TIB,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
}  # fmt: skip
_TIMES = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

_SHOWN_SIZES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")

Parser = Callable[[str], Any]


def parse_size(text: str) -> int:
    """Bytes from `4096`, `4KiB`, `1.5GiB`, `96 MiB`; raises ValueError."""
    match = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]{1,6})?)\s*([A-Za-z]*)", text.strip())
    if not match or match[2].upper() not in _SIZES:
        raise ValueError("a size such as 4096, 64KiB, 4MiB or 1.5GiB")
    value = float(match[1]) if "." in match[1] else int(match[1])
    return int(value * _SIZES[match[2].upper()])


def parse_time(text: str) -> float:
    """Seconds from `30`, `500ms`, `15m`, `24h`, `7d`; raises ValueError."""
    match = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)\s*([a-z]*)", text.strip())
    if not match or match[2] not in _TIMES:
        raise ValueError("a time such as 30, 500ms, 15m, 24h or 7d")
    return float(match[1]) * _TIMES[match[2]]


def format_size(size: float) -> str:
    """`1.5 GiB`; whole bytes below 1 KiB."""
    unit = 0
    while size >= 999.5 and unit < len(_SHOWN_SIZES) - 1:
        size /= 1024
        unit += 1
    return f"{size:.0f} B" if not unit else f"{size:.{0 if size >= 99.95 else 1}f} {_SHOWN_SIZES[unit]}"


def format_span(seconds: float) -> str:
    """A length of time, in its largest unit: `45 s`, `12 min`, `3.5 h`, `6 d`."""
    for size, unit in ((86400, "d"), (3600, "h")):
        if seconds >= 1.5 * size:
            count = seconds / size
            return f"{count:.0f} {unit}" if count >= 10 or abs(count - round(count)) < 0.05 else f"{count:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{max(0.0, seconds):.0f} s"


def integers(low: int, high: int) -> Parser:
    """A parser of whole numbers from `low` to `high`."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", text.strip()) or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(text)

    return parse


def sizes(low: int, high: int) -> Parser:
    """A parser of sizes from `low` to `high` bytes."""

    def parse(text: str) -> int:
        value = parse_size(text)
        if not low <= value <= high:
            raise ValueError(f"a size from {low} to {high} bytes")
        return value

    return parse


def times(low: float, high: float) -> Parser:
    """A parser of times from `low` to `high` seconds."""

    def parse(text: str) -> float:
        value = parse_time(text)
        if not low <= value <= high:
            raise ValueError(f"a time from {low:g} to {high:g} seconds")
        return value

    return parse


def choices(*allowed: str) -> Parser:
    """A parser that takes only `allowed`."""

    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError("one of " + ", ".join(allowed))
        return text

    return parse


def texts(pattern: str, meaning: str) -> Parser:
    """A parser of texts that match `pattern` whole; `meaning` says what they are."""
    compiled = re.compile(pattern)

    def parse(text: str) -> str:
        if not compiled.fullmatch(text):
            raise ValueError(meaning)
        return text

    return parse


AUTO = "auto"


def integers_or_auto(low: int, high: int) -> Parser:
    """A parser of whole numbers from `low` to `high`, or `auto`."""
    number = integers(low, high)

    def parse(text: str) -> int | str:
        try:
            return text if text == AUTO else int(number(text))
        except ValueError as error:
            raise ValueError(f"{AUTO} or {error}") from None

    return parse


def parse_address(text: str) -> str:
    """An IP address; raises ValueError."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError("an IP address such as 127.0.0.1 or 0.0.0.0") from None


def parse_path(text: str) -> Path:
    """A path of the file system; raises ValueError."""
    if "\0" in text:
        raise ValueError("a path without NUL characters")
    return Path(text)


def parse_node_id(text: str) -> str:
    """A node id; raises ValueError."""
    if not is_node_id(text):
        raise ValueError("1 to 64 of A-Z a-z 0-9 . _ -, beginning with a letter or digit")
    return text


def parse_public_url(text: str) -> str:
    """An http or https URL without path, query or user; raises ValueError."""
    try:
        parts = urlsplit(text)
        port_is_good = parts.port is None or 0 < parts.port < 65536
    except ValueError:
        parts, port_is_good = urlsplit(""), False
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or not port_is_good
        or parts.path not in ("", "/")
        or parts.query
        or parts.fragment
        or "@" in parts.netloc
        or not re.fullmatch(r"[\x21-\x7e]+", text)
    ):
        raise ValueError("a URL such as http://files.example.org:8080, without a path")
    return text.rstrip("/")


def parse_plain_http_url(text: str) -> str:
    """An http URL without path; raises ValueError."""
    url = parse_public_url(text)
    if not url.startswith("http://"):
        raise ValueError("a URL such as http://169.254.169.254, without a path")
    return url


def parse_switch(text: str) -> bool:
    """As botocore reads its own switches: `true` in any case is true, all else is false."""
    return text.strip().lower() == "true"


def parse_metadata_url(text: str) -> str:
    """Where metadata lives; raises ValueError."""
    if text in ("dynamodb:", "dynamodb://"):
        return "dynamodb://"
    if text.startswith("sqlite:///") and len(text) > len("sqlite:///"):
        return text
    raise ValueError("dynamodb:// or sqlite:///PATH (a fourth slash makes PATH absolute)")
