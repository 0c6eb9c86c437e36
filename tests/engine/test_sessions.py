"""A paper session of processes with the names of several hosts, with kills: what its audit log can tell afterwards."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from bson import Decimal128
from typer.testing import CliRunner

import backtest_kit_mongo as bk
from backtest_kit import declare
from backtest_kit.declare import Exchange, Strategy
from backtest_kit.identity import MINUTE_MS
from backtest_kit.running import Job
from backtest_kit.sessions import rerun
from backtest_kit.sessions.matching import NOT_COMPARED
from backtest_kit_mongo.audit import open_log
from backtest_kit_mongo.audit.market import Market
from backtest_kit_mongo.cli.main import app
from backtest_kit_mongo.testing.servers import Servers
from backtest_kit_verify.bots.hosts import Seat, environment_of, run_seats
from backtest_kit_verify.bots.noted import NAME
from backtest_kit_verify.bots.replayed import CHANGED, again
from backtest_kit_verify.bots.traced import judge
from backtest_kit_verify.chaos.faulty_servers import settings_of

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def seats(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> list[Seat]:
    """Two contexts, each killed once and taken up by another process."""
    directory: Path = tmp_path_factory.mktemp("session")
    settings = {**settings_of(servers), "lease_ms": 15_000, "mongo_timeout_ms": 10_000}
    settings["mongo_connection_string"] = servers.mongo_connection_string("session")
    made = [
        Seat(settings, "session", directory, symbol, 75, "paper", quiet_minutes=60) for symbol in ("AAAUSDT", "BBBUSDT")
    ]
    assert run_seats(made, 1, print) == []
    return made


@pytest.fixture
def reader(seats: list[Seat]) -> Iterator[None]:
    bk.setup(**seats[0].settings)
    yield
    bk.shutdown()


@pytest.fixture
def environment(seats: list[Seat], monkeypatch: pytest.MonkeyPatch, desk: Path) -> None:
    for name, value in environment_of(seats[0]).items():
        monkeypatch.setenv(name, value)


def test_every_trace_is_whole_and_no_record_belongs_to_nothing(seats: list[Seat]) -> None:
    outcome = judge(seats)
    assert outcome.problems == []
    assert outcome.orphans == []
    assert outcome.signals > 1


def test_what_a_strategy_knew_is_read_with_its_adapters_and_nothing_is_written(seats: list[Seat], reader: None) -> None:
    key, now = ("AAAUSDT", NAME, "desk~paper"), seats[0].end_ms + MINUTE_MS
    with bk.as_of(now) as then:
        assert bk.PersistStrategyAdapter.read_strategy_data(*key) is not None
        was = bk.PersistStorageAdapter.read_storage_data(False)
        with pytest.raises(bk.CallerError, match="nothing can be written"):
            bk.PersistSignalAdapter.write_signal_data(None, *key)
        with pytest.raises(bk.CallerError, match="nothing can be written"), bk.step():
            bk.PersistSignalAdapter.write_signal_data(None, *key)
        assert then.missing == []
    assert was == bk.PersistStorageAdapter.read_storage_data(False)
    first = min((row for row in was if row["symbol"] == "AAAUSDT"), key=lambda row: row["scheduledAt"])
    with bk.as_of(first["scheduledAt"] - MINUTE_MS):
        assert bk.PersistStorageAdapter.read_storage_data(False) == []
        candles = bk.read_candles("AAAUSDT", "1m", "desk", seats[0].begin_ms, first["scheduledAt"] - MINUTE_MS)
        assert len(candles) == (first["scheduledAt"] - MINUTE_MS - seats[0].begin_ms) // MINUTE_MS
    with bk.as_of(first["scheduledAt"]) as then:
        (row,) = bk.PersistStorageAdapter.read_storage_data(False)
        assert row["id"] == first["id"]
        assert row["status"] in ("opened", "scheduled")
        known = {document.record.key.domain.name for document in then.documents(strategy=NAME, symbol="AAAUSDT")}
        assert known >= {"strategy", "signal", "schedule", "storage", "notification", "state", "memory"}


def test_what_the_log_no_longer_has_is_named(seats: list[Seat], reader: None) -> None:
    key = ("BBBUSDT", NAME, "desk~paper")
    items = bk.get_mongo()["session"]["audit-items"]
    ours = {"domain": "strategy", "label": "BBBUSDT:noted:desk~paper", "rev": 1}
    removed = items.find_one_and_delete(ours)
    assert removed is not None
    try:
        with bk.as_of(seats[0].begin_ms - MINUTE_MS) as then:
            assert bk.PersistStrategyAdapter.read_strategy_data(*key) is None
        assert "begins with its revision 2" in then.missing[0]
    finally:
        items.insert_one(removed)
    candles, begin = bk.get_mongo()["session"]["candle-items"], seats[0].begin_ms
    odd = {"exchangeName": "desk", "symbol": "AAAUSDT", "open": float("nan")}
    candles.insert_one({**odd, "interval": None, "timestamp": begin})
    candles.insert_one({**odd, "interval": "1h", "timestamp": Decimal128(str(begin))})
    missing: list[str] = []
    market = Market(bk.get_mongo()["session"], "desk", "AAAUSDT", missing.append)
    assert set(market.intervals()) >= {"1m", "1h"}
    assert market.rows("1h", 0, seats[0].end_ms) == []
    assert market.last_before("1h", seats[0].end_ms) is None
    assert ["is no interval" in missing[0], "1 documents" in missing[1], "is no candle" in missing[2]] == [True] * 3
    assert market.rows("1m", begin, begin + 2 * MINUTE_MS)[0][0] == begin


def test_a_day_is_replayed_with_its_restarts_and_a_changed_constant_is_named_where_it_first_matters(
    seats: list[Seat], reader: None, tmp_path: Path
) -> None:
    begin, end = seats[0].begin_ms, seats[0].end_ms + MINUTE_MS
    session = bk.read_session(NAME, "paper", begin, end, 3_600_000)
    session.save(tmp_path / "day.gz")
    kept = bk.load_session(tmp_path / "day.gz")
    assert kept == session
    found = again(kept, seats[0])
    assert found.divergence is None, "\n".join(found.divergence.lines())
    assert found.notes == {}
    assert found.restarts >= 2
    assert found.matched == sum(one.domain not in NOT_COMPARED for one in session.changes)
    changed = again(kept, seats[0], CHANGED).divergence
    assert changed is not None
    asked = [one for one in session.changes if one.step.endswith("/asked") and one.domain == "memory"]
    assert changed.at == min(one.at or 0 for one in asked if one.payload["data"]["proposal"] and changed.symbol)
    assert (
        changed.recorded["data"]["proposal"]["priceTakeProfit"]
        != changed.replayed["data"]["proposal"]["priceTakeProfit"]
    )
    assert any("priceTakeProfit" in text for text in changed.differences)


def test_what_a_replay_lacks_and_where_it_was_silent_is_named(seats: list[Seat], reader: None, tmp_path: Path) -> None:
    begin, end = seats[0].begin_ms, seats[0].end_ms + MINUTE_MS
    with pytest.raises(bk.NotFound, match=r"In mode paper it wrote from 2024-01-01 00:00:00Z to 2024-01-01 01:15"):
        bk.read_session(NAME, "live", begin, end, 0)
    session = bk.read_session(NAME, "paper", begin, end, 3_600_000)
    silent = Strategy(NAME, lambda ctx: None, "1m")
    divergence = rerun(
        session, lambda symbol, exchange: Job(silent, Exchange(exchange), (), symbol, "paper")
    ).divergence
    assert divergence is not None
    answered = [one for one in session.changes if one.step.endswith("/asked") and one.domain == "memory"]
    assert divergence.at == min(one.at or 0 for one in answered)
    assert divergence.recorded_step == f"{divergence.at}/asked"
    assert divergence.replayed is None

    place = next(number for number, one in enumerate(session.changes) if one.domain == "strategy")
    session.changes[place] = replace(session.changes[place], payload=None, lost="the oplog has moved past it")
    found = again(session, seats[0])
    assert (found.divergence, found.lost) == (None, 1)

    session.save(tmp_path / "day.gz")
    lines = gzip.decompress((tmp_path / "day.gz").read_bytes()).splitlines(keepends=True)
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"".join(lines[:-1])))
    with pytest.raises(bk.CallerError, match="was cut off"):
        bk.load_session(tmp_path / "cut.gz")


def test_the_commands_tell_the_same(seats: list[Seat], desk: Path, environment: None) -> None:
    Path("noted.py").write_text(
        "from backtest_kit import declare\nfrom backtest_kit_verify.bots.noted import noted\n"
        f"declare.strategies.add(noted({seats[0].end_ms - seats[0].quiet_minutes * MINUTE_MS}))\n"
    )
    of_day = ["--session", NAME, "--day", "2024-01-01", "--mode", "paper"]

    def said(*words: str, status: int = 0) -> str:
        declare.strategies.clear()
        result = CliRunner().invoke(app, list(words))
        assert result.exit_code == status, result.output
        return result.output

    known = next(json.loads(line) for line in said("knew", NAME, "--at", "2024-01-01T01:00", "--json").splitlines())
    assert known["domain"] in ("signal", "schedule", "strategy")
    with open_log() as log:
        row = next(record.payload for record in log.records(domain="storage"))
        signal = row["id"]
    tree = said("trace", signal)
    assert "candle seen 2024-01-01" in tree
    assert "asked at price" in tree
    assert json.loads(said("trace", signal, "--json"))["signal"] == signal
    assert "stop" in next(line for line in tree.splitlines() if line.startswith("  prices: entry"))
    said("trace", "no-such", status=1)
    when = str(row["scheduledAt"])
    assert f"signal {signal}:" in said("trace", "--at", when, "--symbol", row["symbol"])
    said("trace", signal, "--at", when, status=2)
    said("trace", "--at", "2023-01-01", status=1)
    said("knew", NAME, "--at", "no-moment", status=2)
    assert "are these seconds" in said("knew", NAME, "--at", "1704067200", status=2)
    assert "2 contexts" in said("export", *of_day, "--out", "day.gz")
    assert "every decision is equal" in said("replay", "noted.py", "--from", "day.gz")
    assert "every decision is equal" in said("replay", "noted.py", *of_day)
    said("replay", "noted.py", "--from", "noted.py", status=2)
