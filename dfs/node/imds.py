"""Asking the EC2 instance metadata service (IMDSv2) who this machine is.

Version 2 only: a session token first, then the facts. The service is asked directly, never through
a proxy. Off EC2 nothing answers (or refuses at once), which costs a start at most TOKEN_SECONDS.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from dfs import logs
from dfs.errors import StartError
from dfs.wire.client import HttpClient, TransportError
from dfs.wire.deadline import Deadline

TOKEN_SECONDS = 1.0
"""Longest wait for the token: the first word from the service, and the only one off EC2."""

FACT_SECONDS = 3.0
"""Longest wait for all facts once a token was given (the machine is on EC2 then)."""

_TOKEN_TTL = "60"
_LONGEST_FACT = 1024


@dataclass(frozen=True, slots=True)
class Ec2Facts:
    """What the service said; None for what it does not know."""

    instance_id: str | None
    address: str | None
    zone: str | None


def ask(endpoint: str) -> Ec2Facts | None:
    """The facts, or None when no metadata service answers at `endpoint` (not an EC2 machine).

    Raises StartError when the service gave a token and then failed or answered nonsense: guessing
    another identity on a machine that is on EC2 would register the node under a wrong name.
    """
    parts = urlsplit(endpoint)
    assert parts.hostname is not None  # settings checked it
    http = HttpClient(connect_timeout=TOKEN_SECONDS / 2)
    try:
        return _Service(http, parts.hostname, parts.port or 80).facts()
    finally:
        http.close()


class _Service:
    def __init__(self, http: HttpClient, host: str, port: int) -> None:
        self._http = http
        self._host = host
        self._port = port

    def facts(self) -> Ec2Facts | None:
        token = self._token()
        if token is None:
            return None
        deadline = Deadline(FACT_SECONDS)
        return Ec2Facts(
            instance_id=self._fact("instance-id", r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", token, deadline),
            address=_checked_address(self._fact("local-ipv4", r"[0-9.]{7,15}", token, deadline)),
            zone=self._fact("placement/availability-zone", r"[A-Za-z0-9._-]{1,64}", token, deadline),
        )

    def _token(self) -> str | None:
        header = ("X-aws-ec2-metadata-token-ttl-seconds", _TOKEN_TTL)
        try:
            status, text = self._call("PUT", "/latest/api/token", header, Deadline(TOKEN_SECONDS))
        except TransportError as error:
            logs.event("imds.absent", reason=error)
            return None
        if status != 200 or not re.fullmatch(r"[\x21-\x7e]{1,1024}", text):
            logs.event("imds.absent", reason=f"no token: status {status}")
            return None
        return text

    def _fact(self, name: str, pattern: str, token: str, deadline: Deadline) -> str | None:
        try:
            status, text = self._call(
                "GET", f"/latest/meta-data/{name}", ("X-aws-ec2-metadata-token", token), deadline
            )
        except TransportError as error:
            raise _failed(name, str(error)) from error
        if status == 404:
            return None
        if status != 200:
            raise _failed(name, f"it answered {status}")
        if not re.fullmatch(pattern, text):
            raise _failed(name, f"it answered {text[:80]!r}")
        return text

    def _call(self, method: str, target: str, header: tuple[str, str], deadline: Deadline) -> tuple[int, str]:
        with self._http.request(
            self._host,
            self._port,
            method,
            target,
            headers=[header],
            body=b"" if method == "PUT" else None,
            deadline=deadline,
            stall=deadline.remaining(),
            repeatable=True,
        ) as answer:
            return answer.status, answer.read(_LONGEST_FACT).decode("latin-1").strip()


def _checked_address(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise _failed("local-ipv4", f"it answered {text!r}") from None


def _failed(name: str, what: str) -> StartError:
    return StartError(
        f"the EC2 metadata service gave a token but not {name} ({what}); start again, or set NODE_ID, "
        "NODE_PRIVATE_IP and DFS_ZONE so that it is not needed"
    )
