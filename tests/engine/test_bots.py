"""L2, L3, L4, L8, L9 on real servers: the campaign of `bkm bots`, as short as it tells anything."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import backtest_kit_mongo as bk
from backtest_kit_mongo.testing.servers import Servers
from backtest_kit_verify.bots.campaign import run_campaign
from backtest_kit_verify.bots.child import Task
from backtest_kit_verify.bots.fleet import Fleet, run_fleet
from backtest_kit_verify.chaos.faulty_servers import settings_of

pytestmark = pytest.mark.live


def test_bots_that_are_killed_and_stopped_trade_as_if_nothing_had_been(servers: Servers, tmp_path: Path) -> None:
    settings = settings_of(servers)
    try:
        outcome = run_campaign(Task(settings, tmp_path, "smoke", 200, 1_200), kills=4, takeovers=1, on_line=print)
    finally:
        bk.shutdown()
    verdict = outcome.verdict
    assert verdict is not None
    assert [*outcome.problems, *verdict.violations] == []
    assert outcome.late_writes == 0
    assert (outcome.kills, outcome.takeovers) == (4, 1)
    assert verdict.positions > 0


def test_a_fleet_asks_the_exchange_once_for_each_candle(servers: Servers, tmp_path: Path) -> None:
    settings = {**settings_of(servers), "lease_ms": 15_000, "mongo_timeout_ms": 10_000}
    settings["mongo_connection_string"] = servers.mongo_connection_string("fleet")
    fleet = Fleet(settings, tmp_path, "smoke", 3, 1, 8, 40.0, time.time() + 3)
    try:
        outcome = run_fleet(fleet, kills=1, on_line=print)
    finally:
        bk.shutdown()
    assert outcome.crashes == ""
    assert outcome.missing == 0
    assert outcome.requests <= outcome.candles + outcome.kills
