"""The report says what happened, and shows the shortest proof of each kind of violation."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from tests.chaos.past import KEY, LIST, ROW, Past, ns

from backtest_kit_verify.chaos.feed_checks import Cause
from backtest_kit_verify.chaos.history import Revision
from backtest_kit_verify.chaos.journal import CallKind
from backtest_kit_verify.chaos.journal import Outcome as CallOutcome
from backtest_kit_verify.chaos.report import as_json, show
from backtest_kit_verify.chaos.run import Options, Outcome


def report(past: Past, stopped_ns: Mapping[str, Sequence[tuple[int, float]]] | None = None) -> dict[str, Any]:
    violations = past.check()
    feed = past.feed()
    outcome = Outcome(
        options=Options(seed="s"),
        history=past.history,
        stopped_ns=stopped_ns or {},
        faults=Counter({"FLUSHALL": 2}),
        evicted_count=3,
        cached_count=1,
        document_count=1,
        violations=[*violations, *feed.violations],
        feed=feed,
    )
    return as_json(outcome)


def printed(found: dict[str, Any]) -> str:
    target = io.StringIO()
    show(Console(file=target, width=200), found)
    return target.getvalue()


def test_a_run_without_violations_has_passed() -> None:
    past = Past()
    past.write("w0.0", 1, "a", (0, 10))
    found = report(past)
    assert found["passed"]
    assert found["operations"]["write"]["done"] == 1
    assert found["faults"]["FLUSHALL"] == 2
    assert "✗" not in printed(found)


def test_a_call_on_a_list_counts_once_however_many_rows_it_has() -> None:
    past = Past()
    for key in (ROW, f"{LIST}/other"):
        op = past.write("w0.0", 1, key, (0, 10), key=key, kind=CallKind.MERGE)
        op.number = 1
    assert report(past)["operations"]["merge"]["done"] == 1


def test_the_proof_that_takes_the_shortest_time_is_shown_with_the_faults_in_it() -> None:
    past = Past()
    past.write("w0.0", 1, "a", (0, 10))
    past.write("w0.0", 2, "b", (100, 110))
    past.read("r0.0", 1, "a", (120, 121))
    past.read("r1.0", 1, "a", (9_000, 9_001))
    past.redis_killed(115, 116)
    past.redis_killed(8_000, 8_001)
    found = report(past)
    assert not found["passed"]
    assert found["violations"]["a stale read"] == 2
    (excerpt,) = found["excerpts"]
    shown = [line.split("  ", 1)[1] for line in (line.strip() for line in excerpt["history"])]
    assert ["w0.0" in shown[0], "w0.0" in shown[1], "redis-server was killed" in shown[2], "r0.0" in shown[3]] == [
        True
    ] * 4
    assert excerpt["text"] in printed(found)


def test_what_awaits_recovery_is_counted_and_never_silent() -> None:
    past = Past()
    past.write("w1.0", 1, "a", (0, 10))
    past.bypass("w0.0", None, "b", (20, None))
    past.killed("w0.0", 25)
    past.read("r0.0", 2, "b", (30, 31))
    found = report(past)
    assert found["passed"]
    assert found["bypass_writes"] == 1
    assert found["events"]["awaiting_recovery"][Cause.WRITER_KILLED.value] == 1
    assert f"events awaiting recovery: {Cause.WRITER_KILLED.value}" in printed(found)


def test_a_missing_event_is_a_violation_with_its_change() -> None:
    past = Past()
    past.write("w0.0", 1, "a", (0, 10))
    del past.events[Revision(KEY, 1)]
    assert report(past)["violations"]["a missing event"] == 1


def test_the_longest_wait_is_from_the_first_failure_to_the_next_success_of_a_client_that_ran() -> None:
    past = Past()
    past.write("w0.0", 1, "a", (0, 10))
    past.write("w0.0", None, "b", (100, 150), outcome=CallOutcome.REFUSED)
    past.write("w0.0", None, "c", (160, 190), outcome=CallOutcome.REFUSED)
    past.write("w0.0", 2, "d", (200, 230))
    past.write("w1.0", 3, "e", (1_000, 5_000))
    past.read("r0.0", 3, "e", (6_000, 6_020))
    stopped_ns = {"w1.0": [(ns(1_100), ns(4_900))]}
    assert report(past, stopped_ns)["longest_unavailable_ms"] == {"reads": 20.0, "writes": 130.0}
    assert report(past)["longest_unavailable_ms"]["writes"] == 4_000.0
