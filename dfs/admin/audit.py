"""`audit`: have every chunk compared with what the nodes really hold, wait for it, say what was found.

Exit codes: 0 whole, 8 degraded, 9 data missing, 1 it could not be done, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Any, TextIO

from dfs.admin.auditscreen import extras_text, findings_text, moved_text, plan_text, progress_text
from dfs.admin.server import Server, add_api_option, connect
from dfs.errors import Busy, DfsError, NotFound, Unavailable, Unknown
from dfs.repair.auditresult import SERVER_STOPPED, AuditResult, State, Verdict
from dfs.settings import AdminSettings

POLL_SECONDS = 0.5
SILENT_SECONDS = 6.0
"""An audit that says nothing for this long may have lost its server: another is asked to begin it."""

PATIENCE_SECONDS = 120.0
"""How long servers that do not answer are waited for."""

_RECORDS_AT_ONCE = 50


class Exit(IntEnum):
    """Exit codes."""

    WHOLE = 0
    FAILED = 1
    DEGRADED = 8
    DATA_MISSING = 9
    INTERRUPTED = 130


_CODES = {
    Verdict.WHOLE: Exit.WHOLE,
    Verdict.DEGRADED: Exit.DEGRADED,
    Verdict.DATA_MISSING: Exit.DATA_MISSING,
}


def register(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the subcommand to argparse's `commands`."""
    parser = commands.add_parser(
        "audit",
        parents=[common],
        help="prove that every chunk has its replicas",
        description="Compare the metadata with what every node really holds. Chunks found bad or short are marked "
        "for repair; nothing else is changed. Exit code: 0 whole, 8 degraded, 9 data missing, 1 it could not be "
        "done, 2 wrong usage.",
    )
    add_api_option(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--plan", action="store_true", help="only say how much would be read")
    what.add_argument("--no-wait", action="store_true", help="begin it and return (`status` shows the result)")
    what.add_argument("--last", action="store_true", help="only show the last result again")
    what.add_argument("--cancel", action="store_true", help="end the audit that is running")
    what.add_argument(
        "--set-aside",
        action="store_true",
        help="then move records that no row leads to into the nodes' set-aside directories (lists them; with --yes)",
    )
    parser.add_argument("--verify", action="store_true", help="have every node re-read all it holds, now")
    parser.add_argument(
        "--mbps", type=_rate, metavar="N", help="with --verify: megabytes a second that each node reads (default 200)"
    )
    parser.add_argument("--yes", action="store_true", help="with --set-aside: do it")
    parser.add_argument("--json", action="store_true", help="the result as JSON")
    parser.set_defaults(run=run)


def _rate(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100_000:
        raise argparse.ArgumentTypeError("a whole number from 1 to 100000")
    return int(text)


def run(settings: AdminSettings, arguments: argparse.Namespace) -> int:
    """Do what the arguments say; the exit code."""
    with connect(settings, arguments) as server:
        return Command(server, arguments, sys.stdout, sys.stderr).run()


class Command:
    """One call of `audit`. `clock` and `sleep` are those of `time`."""

    def __init__(
        self,
        server: Server,
        arguments: argparse.Namespace,
        out: TextIO,
        err: TextIO,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._server = server
        self._arguments = arguments
        self._out = out
        self._err = err
        self._clock = clock
        self._sleep = sleep
        self._drawn = False
        self._begun = False
        self._patient = False  # once there is an audit to follow

    def run(self) -> int:
        """The exit code; raises DfsError."""
        wish = self._arguments
        if wish.plan:
            plan = self._call("POST", self._target(plan="1"))["plan"]
            self._print({"plan": plan}, plan_text(plan))
            return Exit.WHOLE
        if wish.cancel:
            answer = self._call("DELETE", "/admin/audit")
            self._print(answer, f"audit {answer['id']} ends")
            return Exit.WHOLE
        if wish.last:
            return self._show_last()
        try:
            audit_id = self._begin()
            if wish.no_wait:
                what = "begun" if self._begun else "already running"
                self._print({"id": audit_id, "begun": self._begun}, f"audit {audit_id} {what}")
                return Exit.WHOLE
            result = self._follow(audit_id)
        except KeyboardInterrupt:
            return self._interrupted()
        finally:
            self._wipe()
        if result.state is State.FAILED:
            raise Unavailable(f"the audit could not be done: {result.reason}")
        return self._tell(result)

    # --- beginning and following ---

    def _begin(self) -> str:
        answer = self._call("POST", self._target())
        self._begun = self._begun or bool(answer["begun"])
        self._patient = True
        return str(answer["id"])

    def _target(self, **more: str) -> str:
        wish = self._arguments
        query = dict(more)
        if wish.verify:
            query["verify"] = "1"
        if wish.mbps is not None:
            query["mbps"] = str(wish.mbps)
        return "/admin/audit" + ("?" + "&".join(f"{name}={value}" for name, value in query.items()) if query else "")

    def _follow(self, audit_id: str) -> AuditResult:
        """The audit when it has ended. One that has lost its server is begun again."""
        heard, said = self._clock(), ("", -1)
        while True:
            result = self._latest()
            enough = result.verify or not self._arguments.verify
            if result.id != audit_id and result.state is State.RUNNING and enough:
                audit_id = result.id  # somebody was quicker to begin it again
            if result.id == audit_id:
                if result.state is not State.RUNNING and result.reason != SERVER_STOPPED:
                    return result
                if (result.id, result.at) != said:
                    heard, said = self._clock(), (result.id, result.at)
                self._draw(progress_text(result))
            stopped = result.id != audit_id or result.state is not State.RUNNING
            if stopped or self._clock() - heard >= SILENT_SECONDS:
                self._draw("the audit's server is silent: another is to begin anew")
                audit_id = self._begin()
            self._sleep(POLL_SECONDS)

    def _latest(self) -> AuditResult:
        value = self._call("GET", "/admin/audit")["audit"]
        if value is None:
            raise NotFound("the audit has left no trace: was the metadata replaced?")
        return AuditResult.from_json(value)

    def _call(self, method: str, target: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The server's answer. All that is asked here is safe to repeat: servers that do not answer are waited
        for a while."""
        deadline = self._clock() + PATIENCE_SECONDS
        while True:
            try:
                return self._server.call(method, target, body=body)
            except Unavailable as error:
                passes = self._patient or isinstance(error, (Busy, Unknown))
                if not passes or self._clock() >= deadline:
                    raise
                self._draw(f"waiting: {error.message}")
                self._sleep(POLL_SECONDS)

    def _interrupted(self) -> int:
        self._wipe()
        if not self._begun:
            print("dfs.admin: interrupted; an audit that somebody else began goes on", file=self._err)
            return Exit.INTERRUPTED
        try:
            self._server.call("DELETE", "/admin/audit")
            print("dfs.admin: interrupted; the audit ends", file=self._err)
        except NotFound:
            print("dfs.admin: interrupted; the audit had ended", file=self._err)
        except DfsError as error:
            print(f"dfs.admin: interrupted; the audit may go on ({error.message})", file=self._err)
        return Exit.INTERRUPTED

    # --- telling ---

    def _show_last(self) -> int:
        value = self._call("GET", "/admin/audit")["last"]
        if value is None:
            raise NotFound("no audit has come to a verdict yet: `audit` begins one")
        return self._tell(AuditResult.from_json(value))

    def _tell(self, result: AuditResult) -> int:
        told: dict[str, Any] = {"audit": result.to_json()}
        text = findings_text(result)
        if self._arguments.set_aside:
            told["set_aside"], more = self._set_aside()
            text += "\n" + more
        self._print(told, text)
        return _CODES[result.verdict] if result.verdict is not None else Exit.FAILED

    def _set_aside(self) -> tuple[list[dict[str, Any]], str]:
        """The records, moved with --yes, and what to say of them."""
        extras = self._call("GET", "/admin/audit?extras=1")["extras"]
        if not self._arguments.yes or not extras:
            return extras, extras_text(extras)
        moved: list[dict[str, Any]] = []
        for start in range(0, len(extras), _RECORDS_AT_ONCE):
            body = {"records": extras[start : start + _RECORDS_AT_ONCE]}
            moved += self._call("POST", "/admin/audit/set-aside", body)["records"]
        return moved, moved_text(moved)

    def _print(self, value: Mapping[str, Any], text: str) -> None:
        self._wipe()
        print(json.dumps(value) if self._arguments.json else text, file=self._out, flush=True)

    def _draw(self, text: str) -> None:
        if self._err.isatty():
            self._err.write(f"\r\x1b[K{text[:100]}")
            self._err.flush()
            self._drawn = True

    def _wipe(self) -> None:
        if self._drawn:
            self._err.write("\r\x1b[K")
            self._err.flush()
            self._drawn = False
