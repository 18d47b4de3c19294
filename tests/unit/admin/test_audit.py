"""The command `audit`: what it asks for, what it says, how it ends."""

from __future__ import annotations

import argparse
import io
import json
from collections import deque
from dataclasses import replace
from typing import Any

import pytest

from dfs.admin.__main__ import build_parser
from dfs.admin.audit import SILENT_SECONDS, Command
from dfs.admin.auditscreen import extras_text, findings_text, moved_text, plan_text, progress_text
from dfs.client.failures import Unreachable
from dfs.errors import Busy, NotFound, Refused, Unavailable, Unknown
from dfs.repair.auditresult import SERVER_STOPPED, AuditResult, Finding, Kind, LostFile, State, Verdict

RUNNING = AuditResult("one", State.RUNNING, 1000, 1000, "api-1", False, phase="comparing", done=5, total=10)
DONE = replace(
    RUNNING, state=State.DONE, ended_at=4000, at=4000, verdict=Verdict.WHOLE, reason="every chunk has its replicas",
    files=3, chunks=4, replicas=8, bytes=4096, never_verified=8,
)  # fmt: skip
BEGUN = {"id": "one", "begun": True}
JOINED = {"id": "one", "begun": False}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Script:
    """A server that plays `answers`: objects, exceptions; an AuditResult is what GET /admin/audit says."""

    def __init__(self, *answers: object) -> None:
        self.answers = deque(answers)
        self.asked: list[tuple[str, str]] = []
        self.bodies: list[dict[str, Any] | None] = []

    def call(self, method: str, path: str, *, body: dict[str, Any] | None = None, timeout: float = 30.0) -> Any:
        self.asked.append((method, path))
        self.bodies.append(body)
        answer = self.answers.popleft()
        if isinstance(answer, BaseException):
            raise answer
        if isinstance(answer, AuditResult):
            return {"audit": answer.to_json(), "last": answer.to_json()}
        return answer


class Ran:
    """The command with `line` after `audit`, over a script; seconds pass as it sleeps."""

    def __init__(self, script: Script, *line: str) -> None:
        self.out, self.err = io.StringIO(), Terminal()
        self.now = 0.0
        arguments = build_parser().parse_args(["audit", *line])
        server: Any = script
        command = Command(server, arguments, self.out, self.err, clock=lambda: self.now, sleep=self._sleep)
        self.code = command.run()
        self.said, self.noise = self.out.getvalue(), self.err.getvalue()

    def _sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(
    ("verdict", "code"), [(Verdict.WHOLE, 0), (Verdict.DEGRADED, 8), (Verdict.DATA_MISSING, 9)]
)
def test_the_exit_code_is_the_verdict(verdict: Verdict, code: int) -> None:
    script = Script(BEGUN, RUNNING, replace(RUNNING, at=2000), replace(DONE, verdict=verdict))
    ran = Ran(script)
    assert ran.code == code and "comparing: 50%, 5 of 10" in ran.noise
    assert script.asked == [("POST", "/admin/audit")] + [("GET", "/admin/audit")] * 3


def test_what_is_asked_for_is_passed_on() -> None:
    script = Script(BEGUN, DONE)
    assert json.loads(Ran(script, "--verify", "--mbps", "7", "--json").said) == {"audit": DONE.to_json()}
    assert script.asked[0] == ("POST", "/admin/audit?verify=1&mbps=7")
    script = Script({"id": "one"})
    assert Ran(script, "--cancel").said == "audit one ends\n" and script.asked == [("DELETE", "/admin/audit")]
    assert Ran(Script(JOINED), "--no-wait").said == "audit one already running\n"
    assert Ran(Script(BEGUN), "--no-wait").said == "audit one begun\n"
    assert Ran(Script(replace(DONE, verdict=Verdict.DEGRADED)), "--last").code == 8


@pytest.mark.parametrize("rate", ["0", "-1", "x", "100001", "1.5"])
def test_a_rate_that_is_none_is_wrong_usage(rate: str) -> None:
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args(["audit", "--mbps", rate])
    assert caught.value.code == 2


def test_without_any_verdict_there_is_nothing_to_show() -> None:
    with pytest.raises(NotFound, match="no audit has come to a verdict"):
        Ran(Script({"audit": None, "last": None}), "--last")
    with pytest.raises(NotFound, match="left no trace"):
        Ran(Script(BEGUN, {"audit": None, "last": None}))


def test_an_audit_that_failed_could_not_be_done() -> None:
    with pytest.raises(Unavailable, match="could not be done: the disk is full"):
        Ran(Script(BEGUN, RUNNING.ended(State.FAILED, 5, reason="the disk is full")))


def test_a_refusal_is_not_repeated() -> None:
    with pytest.raises(Refused):
        Ran(Script(Refused("one runs already")))
    with pytest.raises(Unreachable):
        Ran(Script(Unreachable("nobody there")))


def test_what_passes_is_waited_for() -> None:
    script = Script(Busy("just ending"), Unknown("lost"), BEGUN, Unavailable("away"), Unreachable("away"), RUNNING, DONE)
    ran = Ran(script)
    assert ran.code == 0 and "waiting: away" in ran.noise
    with pytest.raises(Unreachable):
        Ran(Script(BEGUN, *[Unreachable("away")] * 1000))


def test_an_audit_that_falls_silent_is_begun_again() -> None:
    polls = round(SILENT_SECONDS / 0.5) + 1
    again = {"id": "two", "begun": True}
    script = Script(BEGUN, *[RUNNING] * polls, JOINED, RUNNING, again, replace(RUNNING, id="two"), replace(DONE, id="two"))
    ran = Ran(script, "--verify")
    assert ran.code == 0 and script.asked.count(("POST", "/admin/audit?verify=1")) == 3
    assert "silent" in ran.noise


def test_an_audit_that_ended_with_its_server_is_begun_again_at_once() -> None:
    stopped = RUNNING.ended(State.FAILED, 2000, reason=SERVER_STOPPED)
    script = Script(BEGUN, stopped, {"id": "two", "begun": True}, replace(DONE, id="two"))
    assert Ran(script).code == 0


def test_another_that_somebody_else_began_is_followed_or_replaced() -> None:
    other = replace(RUNNING, id="other")
    assert Ran(Script(BEGUN, other, replace(DONE, id="other"))).code == 0
    script = Script(BEGUN, replace(DONE, id="other"), {"id": "three", "begun": True}, replace(DONE, id="three"))
    assert Ran(script).code == 0


def test_another_that_does_not_verify_is_no_answer_to_verify() -> None:
    other = replace(RUNNING, id="other")
    with pytest.raises(Refused):
        Ran(Script(BEGUN, other, Refused("one runs that does not verify")), "--verify")
    verifying = replace(other, verify=True)
    assert Ran(Script(BEGUN, verifying, replace(DONE, id="other", verify=True)), "--verify").code == 0


def test_interrupting_ends_what_this_command_began() -> None:
    script = Script(BEGUN, KeyboardInterrupt(), {"id": "one"})
    ran = Ran(script)
    assert ran.code == 130 and "the audit ends" in ran.noise and script.asked[-1] == ("DELETE", "/admin/audit")
    assert "had ended" in Ran(Script(BEGUN, KeyboardInterrupt(), NotFound("none"))).noise
    assert "may go on (away)" in Ran(Script(BEGUN, KeyboardInterrupt(), Unreachable("away"))).noise
    script = Script(JOINED, KeyboardInterrupt())
    assert "somebody else" in Ran(script).noise and len(script.asked) == 2


# --- moving aside --------------------------------------------------------------------------------------


def record(number: int) -> dict[str, Any]:
    return {"file_id": f"f{number}", "chunk_index": 0, "node_id": "a"}


def test_records_are_only_listed_until_yes_is_said() -> None:
    script = Script(BEGUN, DONE, {"extras": [record(1)]})
    ran = Ran(script, "--set-aside")
    assert ran.code == 0 and "with --yes" in ran.said and "chunk 0 of f1 on a" in ran.said
    assert ("POST", "/admin/audit/set-aside") not in script.asked


def test_records_are_moved_in_parts_and_what_stays_is_told() -> None:
    extras = [record(number) for number in range(60)]
    moved = [each | {"left": ""} for each in extras[:50]], [each | {"left": "it has a row"} for each in extras[50:]]
    script = Script(BEGUN, DONE, {"extras": extras}, {"records": moved[0]}, {"records": moved[1]})
    ran = Ran(script, "--set-aside", "--yes")
    assert ran.code == 0 and "50 of 60 records without a row were moved aside" in ran.said
    assert "chunk 0 of f59 on a stays: it has a row" in ran.said
    assert [len(body["records"]) for body in script.bodies if body] == [50, 10]
    assert "no records" in Ran(Script(BEGUN, DONE, {"extras": []}), "--set-aside", "--yes").said


# --- screens -------------------------------------------------------------------------------------------


def test_a_whole_result_is_short() -> None:
    text = findings_text(DONE)
    assert text.startswith("WHOLE: every chunk has its replicas\n")
    assert "checked   3 files, 4 chunks, 8 replicas, 4.0 KiB" in text and "8 replicas never" in text
    assert "took 3 s" in text and "--verify" in text


def test_a_bad_result_names_files_nodes_and_what_helps() -> None:
    result = replace(
        DONE, verify=True, verified_now=8, verdict=Verdict.DATA_MISSING, reason="2 chunks have no copy left",
        counts={Kind.NO_COPY: 2, Kind.CORRUPT: 9, Kind.EXTRA: 1},
        examples={
            Kind.CORRUPT: tuple(Finding("f1", n, "node1", "b", "p\x1b", "bad CRC") for n in range(9)),
            Kind.EXTRA: (Finding("f3", 0, "node2"),),
            Kind.NO_COPY: (Finding("f2", 0, "", "b", "q"), Finding("f2", 1, "", "b", "q")),
        },
        lost_files=(LostFile("f2", "b", "q", "trashed", 2), LostFile("f4", "b", "r", "committed")),
        lost_files_more=True, unreachable=("node3",), marked_short=1, oldest_verified=1,
    )  # fmt: skip
    text = findings_text(result)
    for line in (
        "DATA MISSING: 2 chunks have no copy left",
        "nodes     without an answer: node3",
        "repair    1 chunk is marked for it",
        "9 replicas are corrupt:",
        "  and 4 more (--json lists some of them)",
        "  no file chunk 0 on node2 (f3)",
        "  b/q  (f2, 2 chunks, in the trash)",
        "  b/r  (f4, 1 chunk)",
        "  and more",
    ):
        assert line in text.split("\n"), line
    assert "8 stored records just now" in text and "\x1b" not in text and "--set-aside" in text


def test_ages_are_told() -> None:
    aged = replace(DONE, oldest_verified=4000 - 3_600_000 * 5, never_verified=0)
    assert "the oldest 5 h ago" in findings_text(aged)
    assert "nothing to verify" in findings_text(replace(DONE, never_verified=0))


def test_progress_and_plans() -> None:
    assert progress_text(replace(RUNNING, total=0, done=1234)) == "comparing: 1,234"
    nodes = [{"node_id": "a", "healthy": True}, {"node_id": "b", "healthy": False}]
    plan = {"verify": True, "mbps": 200, "nodes": nodes, "chunks": 1000, "bytes": 1 << 30, "seconds": 5.4}
    assert plan_text(plan).split("\n") == [
        "would compare the rows of metadata with 1,000 stored records on 2 nodes",
        "and have the nodes re-read 1.0 GiB at 200 MB/s each, about 5 s",
        "without an answer now: b",
    ]
    assert Ran(Script({"plan": plan | {"verify": False, "nodes": nodes[:1]}}), "--plan").said.count("\n") == 1
    many = [record(number) for number in range(150)]
    assert "and 50 more" in extras_text(many) and moved_text([]).strip().startswith("0 of 0")
    assert isinstance(build_parser(), argparse.ArgumentParser)
