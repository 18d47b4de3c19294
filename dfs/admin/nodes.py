"""The life of nodes: `drain`, `activate`, `maintenance`, `decommission`, `ok-to-stop`, `rebalance`, `repair`.

Exit codes: 0 done (or nothing to do), 1 failed, 2 wrong usage, 3 refused, each reason on a line of its own;
with --plan, 3 when it would be refused; 130 broken off with Ctrl-C (the work goes on).
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlencode

from dfs.admin.drainage import follow
from dfs.admin.screen import repair_text
from dfs.admin.server import Server, add_api_option, connect
from dfs.errors import BadRequest
from dfs.notation import format_size, format_span, parse_time
from dfs.settings import AdminSettings

REFUSED = 3

_Run = Callable[[Server, argparse.Namespace], int]

_NODE_COMMANDS = (
    ("drain", "move everything off a node; it takes no new chunks"),
    ("activate", "end maintenance or draining: the node takes part again"),
    ("maintenance", "let a node be away for a stated time without repair"),
    ("decommission", "take an empty (or lost and repaired) node out of the cluster"),
    ("ok-to-stop", "say whether a node can be stopped now without risk"),
)


def register(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the subcommands to argparse's `commands`."""
    for action, meaning in _NODE_COMMANDS:
        parser = _command(commands, common, action, meaning, _change)
        parser.add_argument("node", metavar="NODE", help="the node's id")
        _plan_option(parser)
        if action != "ok-to-stop":
            parser.add_argument("--force", action="store_true", help="do it in spite of the risks, which are printed")
        if action == "maintenance":
            parser.add_argument(
                "--for", dest="length", required=True, type=_length, metavar="TIME", help="how long, such as 15m (at most 24h)"
            )
        if action == "drain":
            parser.add_argument("--wait", action="store_true", help="follow the work until the node is empty")
    parser = _command(commands, common, "rebalance", "move chunks towards new or emptier nodes", _rebalance)
    _plan_option(parser)
    parser.add_argument("--stop", action="store_true", help="stop rebalancing")
    parser = _command(commands, common, "repair", "show what repair does, or make it begin", _repair)
    parser.add_argument("--now", metavar="NODE", help="copy the chunks of this absent node elsewhere without waiting")
    _plan_option(parser)
    parser.add_argument("--force", action="store_true", help="do it in spite of the risks, which are printed")


def _command(
    commands: Any, common: argparse.ArgumentParser, name: str, meaning: str, work: _Run
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        parents=[common],
        help=meaning,
        description=f"{meaning[0].upper()}{meaning[1:]}. Exit code: 0 done, 1 failed, 2 wrong usage, 3 refused, 130 Ctrl-C.",
    )
    add_api_option(parser)
    parser.add_argument("--json", action="store_true", help="the server's answer as it is")
    parser.set_defaults(run=_connected(work))
    return parser


def _connected(work: _Run) -> Callable[[AdminSettings, argparse.Namespace], int]:
    def run(settings: AdminSettings, arguments: argparse.Namespace) -> int:
        with connect(settings, arguments) as server:
            return work(server, arguments)

    return run


def _plan_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--plan", action="store_true", help="change nothing; say what would be done or refused")


# --- one node ---


def _change(server: Server, arguments: argparse.Namespace) -> int:
    action = arguments.command
    query = {"for": f"{arguments.length}"} if action == "maintenance" else {}
    found = server.call("POST", _target(f"/admin/nodes/{quote(arguments.node, safe='')}/{action}", arguments, query))
    if arguments.json:
        print(json.dumps(found))
    elif arguments.plan:
        print("\n".join(planned(found)))
    else:
        print("\n".join(done(found)))
        _tell_risks(found)
    if arguments.plan:
        return REFUSED if found["refused"] else 0
    if getattr(arguments, "wait", False) and found["to"] == "draining":
        return follow(server, arguments.node, sys.stderr, pause=time.sleep)
    return 0


def planned(found: dict[str, Any]) -> list[str]:
    """What a plan says, line by line."""
    node, action = found["node_id"], found["action"]
    lines = [f"plan: {action} {node} (nothing is changed)"]
    if found["state"] is not None:
        becomes = "" if found["to"] == found["state"] else f", would become {found['to']}"
        lines.append(f"  state    {found['state']}{becomes}")
        lines.append(f"  holds    {format_size(found['bytes'])} in {_chunks(found['chunks'])}")
        enough = "enough" if found["fits"] else "not enough for all of that"
        lines.append(f"  others   {_takers(found)}, with room for {format_size(found['room'])}: {enough}")
    if found["seconds"] is not None:
        lines.append(f"  copying  takes about {format_span(found['seconds'])} at DFS_REPAIR_MBPS")
    if found["until"]:
        lines.append(f"  until    {_clock(found['until'])}")
    lines += [f"  would be refused: {reason}" for reason in found["refused"]]
    lines += [f"  risk taken by --force: {risk}" for risk in found["risks"]]
    if not found["refused"]:
        lines.append("  would be granted")
    return lines


def done(found: dict[str, Any]) -> list[str]:
    """What was done, and what comes next."""
    node, action = found["node_id"], found["action"]
    if action == "ok-to-stop":
        return [f"{node} can be stopped now: {_takers(found)}"]
    if not found["changed"]:
        lines = [f"{node} is {found['to']} already: nothing was changed"]
    elif action == "maintenance":
        lines = [f"{node} is in maintenance until {_clock(found['until'])}"]
    else:
        lines = [f"{node} is {found['to']} now"]
    after = {
        "draining": f"{format_size(found['bytes'])} in {_chunks(found['chunks'])} move to {_others(found)}"
        + (f", about {format_span(found['seconds'])}" if found["seconds"] else "")
        + f"; follow it with: python -m dfs.admin drain {node} --wait",
        "maintenance": f"it ends by itself; sooner with: python -m dfs.admin activate {node}",
        "drained": f"take it out with: python -m dfs.admin decommission {node}",
        "decommissioned": "its process can be stopped and its disk reused; the rows that name it are removed",
    }
    return [*lines, *([f"  {after[found['to']]}"] if found["to"] in after else [])]


# --- the whole cluster ---


def _rebalance(server: Server, arguments: argparse.Namespace) -> int:
    query = {"stop": "1"} if arguments.stop else {}
    found = server.call("POST", _target("/admin/rebalance", arguments, query))
    if arguments.json:
        print(json.dumps(found))
    else:
        print("\n".join(rebalanced(found, stop=arguments.stop)))
    return REFUSED if arguments.plan and found["refused"] else 0


def rebalanced(found: dict[str, Any], *, stop: bool) -> list[str]:
    """What rebalancing does, would do, or did."""
    size = f"about {format_size(found['bytes'])}, {format_span(found['seconds'])} at DFS_REPAIR_MBPS"
    if found["planned"]:
        ordered = " (ordered already)" if found["ordered"] else ""
        lines = [f"plan: rebalance{ordered} (nothing is changed): {size}"]
        for node in found["nodes"]:
            lines.append(
                f"  {node['node_id']}  {format_size(node['used_bytes'])}, its share is {format_size(node['share_bytes'])}"
            )
        return lines + [f"  would be refused: {reason}" for reason in found["refused"]]
    if stop:
        return ["rebalancing ends" if found["changed"] else "no rebalancing was ordered: nothing was changed"]
    if not found["changed"]:
        return ["rebalancing is ordered already: nothing was changed"]
    return [f"rebalancing is ordered: {size}", "  `status` shows how far it is; end it with: python -m dfs.admin rebalance --stop"]


def _repair(server: Server, arguments: argparse.Namespace) -> int:
    if arguments.now is None:
        if arguments.plan or arguments.force:
            raise BadRequest("--plan and --force go with --now NODE")
        status = server.call("GET", "/status")
        print(json.dumps(status["repair"]) if arguments.json else "\n".join(repair_text(status)))
        return 0
    found = server.call("POST", _target("/admin/repair", arguments, {"now": arguments.now}))
    if arguments.json:
        print(json.dumps(found))
    elif arguments.plan:
        print("\n".join(planned(found)))
    else:
        eta = "" if found["seconds"] is None else f", about {format_span(found['seconds'])}"
        size = f"{format_size(found['bytes'])} in {_chunks(found['chunks'])}{eta}"
        said = f"the chunks of {arguments.now} are copied elsewhere at once: {size}"
        print(said if found["changed"] else f"{arguments.now} is repaired, or being repaired, already: nothing was changed")
        _tell_risks(found)
    return REFUSED if arguments.plan and found["refused"] else 0


# --- words ---


def _target(path: str, arguments: argparse.Namespace, query: dict[str, str]) -> str:
    flags = {name: "1" for name in ("plan", "force") if getattr(arguments, name, False)}
    pairs = urlencode(query | flags)
    return f"{path}?{pairs}" if pairs else path


def _tell_risks(found: dict[str, Any]) -> None:
    for risk in found["risks"]:
        print(f"dfs.admin: risk taken by --force: {risk}", file=sys.stderr)


def _others(found: dict[str, Any]) -> str:
    return "1 other node" if found["others"] == 1 else f"{found['others']} other nodes"


def _takers(found: dict[str, Any]) -> str:
    return f"{_others(found)} {'takes' if found['others'] == 1 else 'take'} chunks"


def _chunks(count: int) -> str:
    return "1 chunk" if count == 1 else f"{count:,} chunks"


def _clock(at: int) -> str:
    return datetime.datetime.fromtimestamp(at / 1000, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _length(text: str) -> str:
    """A length of time as it was given, if it is one."""
    try:
        parse_time(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"it must be {error}") from None
    return text
