"""A strict EC2 metadata service: no token, no answer; and what a real one refuses is refused.

`with ImdsServer({"instance-id": "i-1"}) as imds:` serves on a free loopback port at `imds.endpoint`.
"""

from __future__ import annotations

import http.server
import secrets
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Self

TOKEN = "/latest/api/token"
FACTS = "/latest/meta-data/"


class ImdsServer:
    """IMDSv2 alone. `facts` maps names below meta-data/ to text; `broken` maps a path to the status it
    gives instead of its answer. `calls` records (method, path, status)."""

    def __init__(self, facts: Mapping[str, str], broken: Mapping[str, int] | None = None) -> None:
        self.facts = dict(facts)
        self.broken = dict(broken or {})
        self.calls: list[tuple[str, str, int]] = []
        self.tokens: set[str] = set()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def endpoint(self) -> str:
        """What AWS_EC2_METADATA_SERVICE_ENDPOINT is set to."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method: str, path: str, headers: Mapping[str, str]) -> tuple[int, str]:
        """Status and text, by the rules of the real service."""
        if path in self.broken:
            return self.broken[path], "broken"
        if headers.get("X-Forwarded-For") is not None:
            return 403, "came through a proxy"
        if path == TOKEN:
            if method != "PUT":
                return 405, ""
            ttl = headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
            if not ttl.isdigit() or not 1 <= int(ttl) <= 21600:
                return 400, "bad ttl"
            token = secrets.token_urlsafe(40)
            self.tokens.add(token)
            return 200, token
        if headers.get("X-aws-ec2-metadata-token") not in self.tokens:
            return 401, ""
        if method != "GET":
            return 405, ""
        fact = self.facts.get(path.removeprefix(FACTS)) if path.startswith(FACTS) else None
        return (404, "") if fact is None else (200, fact)


def _handler(imds: ImdsServer) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _answer(self) -> None:
            if int(self.headers.get("Content-Length", "0")):
                self.close_connection = True
            status, text = imds.answer(self.command, self.path, dict(self.headers.items()))
            imds.calls.append((self.command, self.path, status))
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(body)))
            try:
                self.end_headers()
                self.wfile.write(body)
            except ConnectionError:  # a caller that had waited long enough
                self.close_connection = True

        do_GET = do_PUT = do_POST = do_HEAD = _answer

        def log_message(self, format: str, *args: object) -> None:
            """Quiet: `calls` tells."""

    return Handler
