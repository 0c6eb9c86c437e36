"""`bkm demo`: what its checks find, in memory. The whole, with killed processes, runs in tests/security/test_tls.py."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import backtest_kit_mongo as bk
from backtest_kit.events import Event
from backtest_kit.identity import MINUTE_MS
from backtest_kit.signals import Extreme, Pnl, SignalView
from backtest_kit_mongo.operate.cache_check import Report
from backtest_kit_verify.demo import DemoError
from backtest_kit_verify.demo.candles import load_series
from backtest_kit_verify.demo.checks import Outcome, run_checks
from backtest_kit_verify.demo.connection import in_database
from backtest_kit_verify.demo.evidence import Evidence
from backtest_kit_verify.demo.fleet import HostRun, Killed
from backtest_kit_verify.demo.host import Task
from backtest_kit_verify.demo.swept import Swept

HEADER = "timestamp,open,high,low,close,volume\n"


def test_the_sample_ships_with_the_package_and_its_end_is_traded() -> None:
    (series,) = load_series(None, 10)
    assert (series.symbol, len(series.candles)) == ("BTCUSDT", 1980)
    assert series.end_ms - series.start_ms == 9 * MINUTE_MS


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("X-1h.csv", "", "named like BTCUSDT-1m"),
        ("X-1m.csv", "time,open\n", "timestamp"),
        ("X-1m.csv", HEADER + "0,1,1,1,1,0\n", "more than 5 are needed"),
        ("X-1m.csv", HEADER + "".join(f"{m * 60_000},1,1,1,1,0\n" for m in (*range(7), 8)), "lacks 1 minutes"),
    ],
)
def test_an_unusable_file_is_refused_by_name(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises((DemoError, bk.CallerError), match=message):
        load_series(tmp_path, None)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("mongodb://h:1,i:2/a?replicaSet=rs0", "mongodb://h:1,i:2/demo?replicaSet=rs0"),
        ("mongodb://h", "mongodb://h/demo"),
        ("mongodb://u:p@h/a", "mongodb://u:p@h/demo?authSource=a"),
        ("mongodb://u:p@h", "mongodb://u:p@h/demo?authSource=admin"),
        ("mongodb://u:p@h/a?authsource=b", "mongodb://u:p@h/demo?authsource=b"),
    ],
)
def test_another_database_keeps_the_user_where_it_is(uri: str, expected: str) -> None:
    assert in_database(uri, "demo") == expected


# -- checks


def outcome() -> Outcome:
    """One host that was killed at minute 4, went on, and closed one trade; everything as it has to be."""
    task = Task("run", "fast", "BTCUSDT", "sample", 0, 9 * MINUTE_MS)
    killed = Killed(7, 4 * MINUTE_MS, "long", -signal.SIGKILL, 5 * MINUTE_MS)
    run = HostRun(task, last={"now_ms": task.end_ms}, killed=killed)
    extreme = Extreme(0.0, 0, 0.0)
    view = SignalView(
        "a", "long", 100.0, 101.0, 99.0, 100.0, 101.0, 99.0, 30, 100.0, "", MINUTE_MS, MINUTE_MS, (), (), 0.0, extreme,
        extreme
    )  # fmt: skip
    closed = Event("closed", 6 * MINUTE_MS, 101.0, view, "take_profit", pnl=Pnl(0.6, 0.6, 100.0, 100.0, 101.0))
    row = {
        "status": "closed", "scheduledAt": MINUTE_MS, "closeReason": "take_profit", "closeTimestamp": 6 * MINUTE_MS,
        "pnl": {"pnlPercentage": 0.6},
    }  # fmt: skip
    (series,) = load_series(None, 10)
    evidence = Evidence(
        documents={("state", "d"): 2},
        audited={("state", "d"): [1, 2]},
        cache=Report(checked=1),
        history={task.strategy: [row]},
        risks={task.strategy: 0},
        batches=[1],
        candles=[1980],
        is_consumed=True,
    )
    return Outcome([run], [series], evidence, {task.strategy: [closed]}, 0, 0, Swept(9, 9, 0, 0, "d", False, "AAA"))


def test_every_check_passes_when_all_is_as_it_has_to_be() -> None:
    assert [check.name for check in run_checks(outcome()) if not check.passed] == []


Spoil = Callable[[Outcome], Outcome]


def _spoiled(**parts: Any) -> Spoil:
    return lambda one: one._replace(evidence=replace(one.evidence, **parts))


def _killed(**parts: Any) -> Spoil:
    def spoil(one: Outcome) -> Outcome:
        assert one.runs[0].killed is not None
        one.runs[0].killed = replace(one.runs[0].killed, **parts)
        return one

    return spoil


def _ended_early(one: Outcome) -> Outcome:
    one.runs[0].last["now_ms"] = 3 * MINUTE_MS
    return one


OPEN = {"status": "opened", "scheduledAt": 8 * MINUTE_MS}
SPOILED: dict[str, tuple[str, Spoil]] = {
    "a host that ended early": ("lived all", _ended_early),
    "a kill that was none": ("was killed", _killed(exit_code=0)),
    "a host that began again": ("was killed", _killed(resumed_ms=0)),
    "a trade that nobody made": ("backtest of the same", lambda one: one._replace(replayed={"run.fast": []})),
    "a trade that is missing": ("backtest of the same", _spoiled(history={"run.fast": []})),
    "an open row without a place": (
        "left over",
        lambda one: _spoiled(history={"run.fast": [OPEN]})(one._replace(replayed={"run.fast": []})),
    ),
    "a place without an open row": ("left over", _spoiled(risks={"run.fast": 1})),
    "a cache that was not looked at": ("entry in Redis", _spoiled(cache=Report())),
    "a run that is done twice": ("done once", lambda one: one._replace(swept=one.swept._replace(again=1))),
    "a change without a record": ("audit record", _spoiled(audited={("state", "d"): [2]})),
    "a change with two records": ("audit record", _spoiled(audited={("state", "d"): [1, 2, 2]})),
    "a candle in two batches": ("every candle", _spoiled(candles=[1981])),
    "entries that nobody took": ("the worker", _spoiled(is_consumed=False)),
    "a worker that failed": ("the worker", lambda one: one._replace(worker_exit=1)),
}


@pytest.mark.parametrize("what", SPOILED)
def test_a_check_finds(what: str) -> None:
    name, spoil = SPOILED[what]
    failed = [check.name for check in run_checks(spoil(outcome())) if not check.passed]
    assert failed
    assert name in failed[0]
