"""Where the API servers are: `http://HOST:PORT[,http://HOST:PORT…]`."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from dfs.errors import SettingsError
from dfs.notation import parse_public_url


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One API server."""

    url: str
    host: str
    port: int


def parse_endpoint(text: str) -> Endpoint:
    """The endpoint that the URL `text` names; raises SettingsError."""
    try:
        url = parse_public_url(text)
    except ValueError as error:
        raise SettingsError(f"{text!r} does not name an API server: it must be {error}") from None
    parts = urlsplit(url)
    if parts.scheme != "http":
        raise SettingsError(f"{text!r}: this release speaks http only, not {parts.scheme}")
    return Endpoint(url=url, host=parts.hostname or "", port=parts.port or 80)


def parse_endpoints(text: str) -> tuple[Endpoint, ...]:
    """The endpoints of a comma-separated list, in order, each once; raises SettingsError."""
    parts = [part.strip() for part in text.split(",")]
    found = dict.fromkeys(parse_endpoint(part) for part in parts if part)
    if not found:
        raise SettingsError("no API server is named: give --api or DFS_API a URL such as http://localhost:8080")
    return tuple(found)
