"""The steps of a transaction as DynamoDB actions. Pure.

Attribute names are always aliased: many of ours (`state`, `path`, `size`) are reserved words.
"""

from __future__ import annotations

from typing import Any

from dfs.metadata import dynamo_items as items
from dfs.metadata import keys
from dfs.metadata.steps import (
    ChangeFile,
    CheckFile,
    CheckReplica,
    PutFile,
    PutHead,
    PutOperation,
    PutReplica,
    PutShort,
    RemoveFile,
    RemoveHead,
    RemoveReplica,
    RemoveShort,
    Step,
)
from dfs.metadata.tables import Tables
from dfs.model import FileState, Head

Action = dict[str, dict[str, Any]]


class Expression:
    """Collects the names and values of a request's expressions."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.values: items.Item = {}

    def name(self, attribute: str) -> str:
        """The alias of an attribute."""
        self.names[f"#{attribute}"] = attribute
        return f"#{attribute}"

    def value(self, value: str | int) -> str:
        """The placeholder of a value."""
        key = f":v{len(self.values)}"
        self.values[key] = items.encode(value)
        return key

    def equal(self, pairs: dict[str, str | int]) -> str:
        """A condition: every attribute has the value given."""
        return " AND ".join(f"{self.name(name)} = {self.value(value)}" for name, value in pairs.items())

    def within(self, states: frozenset[FileState]) -> str:
        """A condition: the record is there, in one of the states."""
        return f"{self.name('state')} IN ({', '.join(self.value(state) for state in sorted(states))})"

    def request(self, **more: Any) -> dict[str, Any]:
        """Request parameters: the aliases and values used, and `more` (what is None is left out)."""
        request = {name: value for name, value in more.items() if value is not None}
        if self.names:
            request["ExpressionAttributeNames"] = self.names
        if self.values:
            request["ExpressionAttributeValues"] = self.values
        return request


def seen_condition(expression: Expression, key: str, seen: dict[str, str | int] | None) -> str:
    """The item is absent (seen None), or still has the values seen."""
    if seen is None:
        return f"attribute_not_exists({expression.name(key)})"
    return expression.equal(seen)


def _change(expression: Expression, step: ChangeFile) -> tuple[str, str]:
    """(update expression, condition) of a ChangeFile."""
    pairs: dict[str, Any] = dict(step.changes)
    place = keys.change_place(step)
    if place is None or isinstance(place, tuple):
        pairs["gc"], pairs["gc_key"] = place or (None, None)
    sets = [f"{expression.name(n)} = {expression.value(v)}" for n, v in pairs.items() if v is not None]
    removes = [expression.name(name) for name, value in pairs.items() if value is None]
    update = (f"SET {', '.join(sets)}" if sets else "") + (f" REMOVE {', '.join(removes)}" if removes else "")
    condition = expression.within(step.states)
    wanted = {"version": step.version, "touched_at": step.touched_at}
    equal = expression.equal({name: value for name, value in wanted.items() if value is not None})
    return update.strip(), f"{condition} AND {equal}" if equal else condition


def _seen(head: Head) -> dict[str, str | int]:
    return {"file_id": head.file_id, "version": head.version}


def action(tables: Tables, step: Step) -> Action:
    """The action of a step."""
    expression = Expression()
    chunks, paths = tables.chunks.name, tables.paths.name

    def make(kind: str, table: str, **more: Any) -> Action:
        return {kind: expression.request(TableName=table, **more)}

    match step:
        case PutFile(record):
            absent = seen_condition(expression, "file_id", None)
            return make("Put", chunks, Item=items.file_item(record), ConditionExpression=absent)
        case ChangeFile():
            update, condition = _change(expression, step)
            key = items.file_key(step.file_id)
            return make("Update", chunks, Key=key, UpdateExpression=update, ConditionExpression=condition)
        case CheckFile(file_id, states):
            condition = expression.within(states)
            return make("ConditionCheck", chunks, Key=items.file_key(file_id), ConditionExpression=condition)
        case RemoveFile(file_id, states):
            condition = expression.within(states)
            return make("Delete", chunks, Key=items.file_key(file_id), ConditionExpression=condition)
        case PutHead(head, seen):
            condition = seen_condition(expression, "path", _seen(seen) if seen else None)
            return make("Put", paths, Item=items.head_item(head), ConditionExpression=condition)
        case RemoveHead(seen):
            condition = seen_condition(expression, "path", _seen(seen))
            return make(
                "Delete", paths, Key=items.path_key(seen.bucket, seen.path), ConditionExpression=condition
            )
        case PutReplica(replica):
            return make("Put", chunks, Item=items.replica_item(replica))
        case RemoveReplica(file_id, index, node_id):
            return make("Delete", chunks, Key=items.replica_key(file_id, index, node_id))
        case CheckReplica(file_id, index, node_id):
            condition = f"attribute_exists({expression.name('file_id')})"
            key = items.replica_key(file_id, index, node_id)
            return make("ConditionCheck", chunks, Key=key, ConditionExpression=condition)
        case PutShort(file_id, index, at):
            return make("Put", chunks, Item=items.short_item(file_id, index, at))
        case RemoveShort(file_id, index, at):
            key = items.short_key(file_id, index)
            if at is None:
                return make("Delete", chunks, Key=key)
            condition = expression.equal({"created_at": at})
            return make("Delete", chunks, Key=key, ConditionExpression=condition)
        case PutOperation(op_id, result, at):
            absent = seen_condition(expression, "file_id", None)
            return make(
                "Put", chunks, Item=items.operation_item(op_id, result, at), ConditionExpression=absent
            )
