"""What operators and background work share through DynamoDB: documents, and the states of nodes.

Documents are rows of the registry with a `#` in their key, which no node has.
"""

from __future__ import annotations

from typing import Any

from dfs.metadata import dynamo_items as items
from dfs.metadata.contract import StepsRefused, document_text
from dfs.metadata.dynamo_calls import Calls, Refused
from dfs.metadata.dynamo_steps import Expression, seen_condition
from dfs.model import AdminState, Document, NodeInfo

FORGET_SECONDS = 30 * 86_400
"""How long the row of a decommissioned node is kept: then the table's TTL may remove it."""


def document_item(name: str, version: int, value: dict[str, Any]) -> items.Item:
    """A document's row."""
    return items.document_key(name) | items.attributes({"version": version, "value": document_text(value)})


def document_condition(expression: Expression, seen: Document | None) -> str:
    """The condition that the document still is `seen`."""
    return seen_condition(expression, "node_id", None if seen is None else {"version": seen.version})


def set_admin_state(
    calls: Calls,
    table: str,
    seen: NodeInfo,
    state: AdminState,
    at: int,
    until: int,
    guard: Document | None,
    guard_name: str,
) -> bool:
    """See MetadataStore.set_admin_state."""
    of_node = Expression()
    condition = of_node.equal({"disk_id": seen.disk_id, "admin_state": seen.admin_state.value})
    for name, value in (("admin_at", seen.admin_at), ("admin_until", seen.admin_until)):
        alias = of_node.name(name)
        equal = f"{alias} = {of_node.value(value)}"
        condition += f" AND ({equal} OR attribute_not_exists({alias}))" if value == 0 else f" AND {equal}"
    new = {"admin_state": state.value, "admin_at": at, "admin_until": until}
    update = "SET " + ", ".join(f"{of_node.name(name)} = {of_node.value(value)}" for name, value in new.items())
    if state is AdminState.DECOMMISSIONED:
        update += f", {of_node.name('ttl')} = {of_node.value(at // 1000 + FORGET_SECONDS)}"
    else:
        update += f" REMOVE {of_node.name('ttl')}"
    of_guard = Expression()
    unchanged = document_condition(of_guard, guard)
    raised = document_item(guard_name, guard.version + 1 if guard else 1, guard.value if guard else {})
    try:
        calls(
            "transact_write_items",
            TransactItems=[
                {
                    "Update": of_node.request(
                        TableName=table,
                        Key=items.node_key(seen.node_id),
                        UpdateExpression=update,
                        ConditionExpression=condition,
                    )
                },
                {"Put": of_guard.request(TableName=table, Item=raised, ConditionExpression=unchanged)},
            ],
        )
    except StepsRefused:
        return False
    return True


def forget_node(calls: Calls, table: str, seen: NodeInfo) -> bool:
    """See MetadataStore.forget_node."""
    expression = Expression()
    condition = expression.equal(
        {
            "disk_id": seen.disk_id,
            "boot_id": seen.boot_id,
            "admin_state": AdminState.DECOMMISSIONED.value,
        }
    )
    try:
        calls(
            "delete_item",
            **expression.request(TableName=table, Key=items.node_key(seen.node_id), ConditionExpression=condition),
        )
    except Refused:
        return False
    return True
