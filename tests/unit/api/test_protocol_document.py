"""PROTOCOL.md against the tables it describes."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from unittest.mock import Mock

import dfs.wire.body
from dfs import errors
from dfs.api.app import endpoints
from dfs.node.routes import node_routes

TEXT = (Path(__file__).resolve().parents[3] / "PROTOCOL.md").read_text(encoding="utf-8")
_API, _, _REST = TEXT.partition("\n## 5. Node calls\n")
_NODE, _, _ERRORS = _REST.partition("\n## 6. Errors\n")


def documented(part: str) -> set[tuple[str, str]]:
    headings = "\n".join(line for line in part.splitlines() if line.startswith("### "))
    return set(re.findall(r"`(GET|PUT|POST|DELETE|HEAD|PATCH) (/\S*)`", headings))


def test_every_endpoint_of_the_api_is_described() -> None:
    served = {(method, pattern.replace("+}", "}")) for method, pattern in endpoints()}
    assert documented(_API) == served


def test_every_endpoint_of_a_node_is_described() -> None:
    table = node_routes("n", "c", *[Mock() for _ in range(8)])
    assert documented(_NODE) == {(route.method, route.pattern.replace("+}", "}")) for route in table}


def test_every_error_is_described() -> None:
    assert dfs.wire.body.BodyTruncated in errors._tree(errors.DfsError)
    servers = {
        (str(kind.status), kind.code)
        for kind in errors._tree(errors.DfsError)
        if (inspect.getmodule(kind) in (errors, dfs.wire.body)) and kind is not errors.Forbidden
    }
    assert set(re.findall(r"^\| (\d+) \| `([a-z_]+)` \|", _ERRORS, re.MULTILINE)) == servers
