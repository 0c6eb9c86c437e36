"""`bkm hosts` on real namespaces, and its verdict on calls of which one is stale."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from backtest_kit_verify.chaos.history import History, Operation, Value
from backtest_kit_verify.chaos.journal import CallKind, Outcome
from backtest_kit_verify.hosts.network import why_not
from backtest_kit_verify.hosts.run import judge
from backtest_kit_verify.hosts.scenarios import SCENARIOS

BKM = (sys.executable, "-c", "from backtest_kit_mongo.cli.main import main; main()")
HOSTS = {"mongo", "redis", "a", "b", "c"}


def call(process: str, kind: CallKind, began_ns: int, rev: int, *, is_bypass: bool = False) -> Operation:
    return Operation(
        process, began_ns, kind, "state/x", "state/x", began_ns, began_ns + 1_000_000, Outcome.DONE, f"m{rev}", rev,
        Value(f"m{rev}"), is_bypass=is_bypass, decided_ns=began_ns + 1,
    )  # fmt: skip


def test_a_read_is_stale_also_if_the_write_that_it_missed_went_past_redis() -> None:
    first, past = (call("w0.0", CallKind.WRITE, at * 10**9, at, is_bypass=at == 2) for at in (1, 2))
    reads = [call(f"r{n}.0", CallKind.READ, 3 * 10**9, rev) for n, rev in enumerate((1, 2))]
    for read in reads:
        read.wanted = None
    result = judge("two", 1.0, History([first, past, *reads]), [], 0)
    assert (result.stale, result.reads, result.writes, result.passed) == (1, 2, 2, False)
    assert result.longest_stale_ms == pytest.approx(999)
    assert result.longest_gap_ms == pytest.approx(1_000)


def test_scenarios_name_hosts_that_exist_and_end_before_their_turn_does() -> None:
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)
    for scenario in SCENARIOS:
        ends = [cut.to_s for cut in scenario.cuts] + [do.at_s for do in scenario.does]
        assert max(ends, default=0) < scenario.turn_s, scenario
        assert {name for cut in scenario.cuts for name in (cut.who, cut.whom)} <= HOSTS
        assert {do.whom for do in scenario.does} <= HOSTS


@pytest.mark.live
def test_hosts_are_made_cut_and_taken_away_again(tmp_path: Path, servers: object) -> None:
    """With `servers`, which skips or fails where no mongod can run."""
    if reason := why_not():
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    report = tmp_path / "report.json"
    command = [*BKM, "hosts", "brief", "--seconds", "1", "--seed", "smoke", "--json", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = json.loads(report.read_text("utf-8"))
    assert found["passed"]
    assert found["stale"] == 0
    assert found["reads"] > 0
    assert found["longest_gap_ms"] > 900, "nobody was cut off"
    named = done.stderr.partition("Namespaces ")[2].split("\n")[0].split(", ")
    left = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout.split()
    assert len(named) == len(HOSTS)
    assert not {*named} & {*left}
