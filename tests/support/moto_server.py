"""moto's DynamoDB (and the rest of AWS) in a process of its own, made fit for tests of concurrency.

Stock moto checks a condition and writes in two steps on a threaded server, so it loses updates and
declares two winners; its Query sorts the whole table; its transactions copy whole tables. Here one
lock stands around its DynamoDB handler, a Query reads its own partition, and a transaction saves
and restores the items it names.

In tests: `with MotoServer() as moto: ... moto.environment("mine")`. By hand:
`python tests/support/moto_server.py [--port N]` prints its port and ends when its stdin closes.
"""

from __future__ import annotations

import argparse
import copy
import inspect
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Sequence
from typing import Any

REGION = "us-east-1"

WITHIN: dict[str, Callable[..., bool]] = {
    "BETWEEN": lambda key, low, high: low <= key <= high,
    "BEGINS_WITH": str.startswith,
    "=": str.__eq__,
    "EQ": str.__eq__,
    "<": str.__lt__,
    "<=": str.__le__,
    ">": str.__gt__,
    ">=": str.__ge__,
}
"""Comparisons of sort keys, by the names under which moto passes them on."""


class MotoServer:
    """A running server; `url` is its endpoint. Ends with the context, or with this process."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self.port = 0

    def __enter__(self) -> MotoServer:
        self._process = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.strip().isdigit(), f"the moto server did not start: {line!r}"
        self.port = int(line)
        return self

    def __exit__(self, *unused: object) -> None:
        process = self._process
        if process is not None and process.stdin is not None and process.stdout is not None:
            process.stdin.close()
            process.wait(30)
            process.stdout.close()

    @property
    def url(self) -> str:
        """The endpoint, by address: a host name makes S3 ask for BUCKET.localhost."""
        return f"http://127.0.0.1:{self.port}"

    def environment(self, prefix: str | None = None) -> dict[str, str]:
        """Environment variables of a process that uses this server, with tables of its own."""
        prefix = prefix or f"t{uuid.uuid4().hex[:12]}"
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "DFS_METADATA_URL": "dynamodb://",
            "CHUNK_METADATA_TABLE": f"{prefix}-chunk-metadata",
            "NODE_REGISTRY_TABLE": f"{prefix}-node-registry",
            "DFS_PATHS_TABLE": f"{prefix}-paths",
        }


def mend_moto() -> None:
    """The lock and the two patches; call once before serving."""
    from moto.dynamodb import models
    from moto.dynamodb.models.table import Table
    from moto.dynamodb.responses import DynamoHandler

    lock = threading.RLock()
    signature = inspect.signature(Table.query)
    call_action, query = DynamoHandler.call_action, Table.query
    transact = models.DynamoDBBackend.transact_write_items

    def locked(self: Any) -> Any:
        with lock:
            return call_action(self)

    def in_range(rows: dict[Any, Any], comparison: str | None, bounds: Sequence[Any]) -> list[Any]:
        """Items of a partition by their sort keys; `query` itself compares properly, but slowly."""
        within = WITHIN.get((comparison or "").upper())
        if within is None or any(bound.type != "S" for bound in bounds):
            return list(rows.values())
        values = [bound.value for bound in bounds]
        return [item for key, item in rows.items() if within(key.value, *values)]

    def query_partition(self: Any, hash_key: Any, *arguments: Any, **named: Any) -> Any:
        """Query with `all_items` narrowed to the partition (of the table or of the index asked), and
        of the table to the sort keys asked for: of a file's thousands of rows often one is."""
        given = signature.bind(self, hash_key, *arguments, **named).arguments
        if given.get("index_name") is None:
            rows = self.items.get(hash_key, {})
            inside = list(rows.values()) if self.range_key_attr else [rows] if rows else []
            if self.range_key_attr:
                inside = in_range(rows, given.get("range_comparison"), given.get("range_objs") or ())
        else:
            wanted = dict(given.get("hash_key_conditions") or ())
            every = (
                item
                for rows in self.items.values()
                for item in (rows.values() if self.range_key_attr else [rows])
            )
            inside = [
                item
                for item in every
                if all(n in item.attrs and item.attrs[n] == v for n, v in wanted.items())
            ]
        self.all_items = lambda: inside
        try:
            return query(self, hash_key, *arguments, **named)
        finally:
            del self.all_items

    class CopyNoTables:
        """Stands for the module `copy`: moto copies the tables it is about to restore."""

        copy = staticmethod(copy.copy)

        @staticmethod
        def deepcopy(value: Any, *memo: Any) -> Any:
            return value if isinstance(value, Table) else copy.deepcopy(value, *memo)

    def place_of(backend: Any, request: dict[str, Any]) -> tuple[Any, Any, Any]:
        from moto.dynamodb.models.dynamo_type import DynamoType

        table = backend.tables[request["TableName"]]
        names = request.get("Key") or request["Item"]
        sort = DynamoType(names[table.range_key_attr]) if table.range_key_attr else None
        return table, DynamoType(names[table.hash_key_attr]), sort

    def transact_items(self: Any, transact_items: list[dict[str, Any]]) -> None:
        saved = []
        for entry in transact_items:
            (request,) = entry.values()
            if request["TableName"] in self.tables:
                table, partition, sort = place_of(self, request)
                saved.append((table, partition, sort, copy.deepcopy(table.get_item(partition, sort))))
        try:
            transact(self, transact_items)
        except BaseException:
            for table, partition, sort, item in saved:
                rows = table.items[partition] if table.range_key_attr else table.items
                key = sort if table.range_key_attr else partition
                if item is None:
                    rows.pop(key, None)
                else:
                    rows[key] = item
            raise

    DynamoHandler.call_action = locked  # type: ignore[method-assign]
    Table.query = query_partition  # type: ignore[method-assign]
    models.copy = CopyNoTables  # type: ignore[attr-defined]
    models.DynamoDBBackend.transact_write_items = transact_items  # type: ignore[method-assign]


def serve(port: int) -> None:
    """Serve until stdin closes."""
    import logging

    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    mend_moto()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", port, application, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="moto for dfs, ending when stdin closes")
    parser.add_argument("--port", type=int, default=0)
    serve(parser.parse_args().port)
