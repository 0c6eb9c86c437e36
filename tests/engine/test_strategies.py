"""What a strategy sees, remembers and may do, through `bt.backtest`."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import backtest_kit as bt
import backtest_kit_mongo as bk
from backtest_kit.declare import Strategy

from .strategies import MINUTE_MS, START_MS, flat, write_candles

HOUR_MS = 60 * MINUTE_MS
RISING = [(START_MS + i * MINUTE_MS, 100.0 + i, 100.5 + i, 99.5 + i, 100.25 + i, 1.0) for i in range(-65, 130)]


@pytest.fixture
def candles(desk: Path) -> Path:
    bt.exchange(name="files", files=write_candles(desk / "candles", RISING))
    return desk


def run(strategy: Strategy, minutes: int = 60, symbol: str = "BTCUSDT") -> bt.Result:
    return bt.backtest(symbol, strategy=strategy, frame=(START_MS, START_MS + minutes * MINUTE_MS))


def test_a_strategy_sees_closed_candles_and_no_others(candles: Path) -> None:
    seen: dict[int, tuple[Any, ...]] = {}

    @bt.strategy
    def looks(ctx: bt.Context) -> None:
        minutes, hours = ctx.candles("1m", 3), ctx.candles("1h", 2)
        last_hour = (int(hours.timestamp[-1]), hours.open[-1], hours.high[-1], hours.low[-1], hours.close[-1])
        seen[(ctx.now - START_MS) // MINUTE_MS] = (
            len(minutes),
            int(minutes.timestamp[-1]),
            len(hours),
            *last_hour,
            ctx.price,
        )
        assert not minutes.close.flags.writeable

    run(looks, 61)
    for minute, (count, newest, *_) in seen.items():
        assert (count, newest) == (3, START_MS + (minute - 1) * MINUTE_MS)
    assert seen[59][2:] == (1, START_MS - HOUR_MS, 40.0, 99.5, 39.5, 99.25, pytest.approx(100 + 56 + 1 / 12))
    assert seen[60][2:8] == (2, START_MS, 100.0, 159.5, 99.5, 159.25)


def test_fewer_candles_come_only_where_history_begins_and_that_is_said(candles: Path) -> None:
    lengths = []

    @bt.strategy
    def looks(ctx: bt.Context) -> None:
        lengths.append(len(ctx.candles("1m", 70)))

    result = run(looks)
    assert lengths == [*range(65, 70), *[70] * 56]
    assert any("fewer than asked" in note for note in result.notes)


def test_what_it_remembers_is_stored_by_name_and_lost_between_runs(candles: Path) -> None:
    seen: list[Any] = []

    @bt.strategy
    def remembers(ctx: bt.Context) -> None:
        for kept in (ctx.state, ctx.session, ctx.dictionary, ctx.memory):
            kept["n"] = kept.get("n", 0) + 1
            kept["other"] = {"rows": [1.5, None]}
        if ctx.now == START_MS + 3 * MINUTE_MS:
            del ctx.state["other"], ctx.memory["other"]
            seen.append([dict(kept) for kept in (ctx.state, ctx.session, ctx.dictionary, ctx.memory)])

    run(remembers, 3)
    run(remembers, 3)
    with_other = {"n": 4, "other": {"rows": [1.5, None]}}
    assert seen == [[{"n": 4}, with_other, with_other, {"n": 4}]] * 2
    assert len(list((candles / "dump" / "runs").iterdir())) == 2


def test_the_log_is_lines_of_json(candles: Path) -> None:
    @bt.strategy(interval="1h")
    def tells(ctx: bt.Context) -> None:
        ctx.log("asked", {"price": ctx.price})

    run(tells, 60)
    run(tells, 60)
    rows = [json.loads(line) for line in (candles / "dump/log/log.jsonl").read_text().splitlines()]
    assert [(row["topic"], row["timestamp"]) for row in rows] == [
        ("asked", START_MS),
        ("asked", START_MS + HOUR_MS),
    ] * 2
    bk.PersistLogAdapter.use_jsonl()
    assert len(bk.PersistLogAdapter.read_log_data(limit=3)) == 3


def test_a_cached_function_does_not_depend_on_who_asks_first(candles: Path) -> None:
    calls: list[tuple[int, float]] = []

    @bt.cached(interval="15m")
    async def opinion(ctx: bt.Context, question: str) -> dict[str, Any]:
        calls.append((ctx.now, ctx.price))
        return {"last": float(ctx.candles("1m", 1).close[-1]), "asked": question}

    answers: dict[int, Any] = {}

    @bt.strategy
    async def asks(ctx: bt.Context) -> None:
        if ctx.now >= first:
            answers[ctx.now] = await opinion(ctx, "up?")

    first = START_MS + 20 * MINUTE_MS
    run(asks, 40)
    late = dict(answers)
    first = START_MS + 16 * MINUTE_MS
    run(asks, 40)
    assert [at for at, _ in calls] == [START_MS + 15 * MINUTE_MS, START_MS + 30 * MINUTE_MS]
    assert answers[START_MS + 16 * MINUTE_MS] == {"last": 114.25, "asked": "up?"}
    assert all(answers[at] == answer for at, answer in late.items())


def test_once_is_once_per_interval_and_run(candles: Path) -> None:
    done: list[int] = []

    @bt.once(interval="15m")
    def report(ctx: bt.Context) -> bool | None:
        if ctx.now % (15 * MINUTE_MS) == 0:
            return None  # Not done yet.
        done.append(ctx.now)
        return True

    @bt.strategy
    def reports(ctx: bt.Context) -> None:
        report(ctx)

    for _ in range(2):
        run(reports, 29)
    assert [(at - START_MS) // MINUTE_MS for at in done] == [1, 16] * 2


def test_callbacks_and_listeners_hear_of_what_they_name_and_may_trade(candles: Path) -> None:
    heard: list[str] = []

    @bt.strategy
    async def pyramids(ctx: bt.Context) -> bt.Proposal | None:
        await asyncio.sleep(0)
        return bt.long(take_profit=ctx.price * 2, stop_loss=ctx.price * 0.9) if ctx.now == START_MS else None

    @pyramids.on("active")
    async def active(ctx: bt.Context, event: bt.Event) -> None:
        if ctx.now == START_MS + 10 * MINUTE_MS:
            heard.append(f"{ctx.partial_profit(50)} {ctx.breakeven()} {ctx.average_buy(100)}")
        if ctx.now == START_MS + 20 * MINUTE_MS:
            assert ctx.close()

    @pyramids.on("partial_profit")
    def level(ctx: bt.Context, event: bt.Event) -> None:
        heard.append(f"level {event.level}")

    ends = [bt.listen_signal(lambda event, context: heard.append(f"{event.action} {context.symbol}"))]
    ends.append(bt.listen_signal_live(lambda event, context: heard.append("never")))
    result = run(pyramids)
    for end in ends:
        end()
    assert heard == ["opened BTCUSDT", "True True False", "level 10", "closed BTCUSDT"]
    (trade,) = result.trades
    assert (trade.reason, trade.partials, trade.minutes) == ("closed", 1, 21)
    run(pyramids)
    assert heard.count("opened BTCUSDT") == 1


async def _timed_out() -> None:
    raise TimeoutError("the model")


async def _cancelled() -> None:
    raise asyncio.CancelledError


MISUSES = {
    "in callbacks only": lambda ctx: ctx.close(),
    "n must be a whole number from 1 on, not -3": lambda ctx: ctx.candles("1m", -3),
    "n must be a whole number from 1 on, not 1.5": lambda ctx: ctx.candles("1h", 1.5),
    "raised SystemExit": lambda ctx: sys.exit(0),
    "raised CancelledError": lambda ctx: _cancelled(),
    "raised TimeoutError: the model": lambda ctx: _timed_out(),
    r"looked ahead: ctx.at\(": lambda ctx: ctx.at(ctx.now + 1).price,
    "looked ahead: frame .* ends at": lambda ctx: bt.backtest(
        "BTCUSDT", strategy="misuses", frame=(ctx.now, ctx.now + HOUR_MS)
    ),
    "interval must be one of": lambda ctx: ctx.candles("7m", 3),
    "has no setter": lambda ctx: setattr(ctx, "now", ctx.now + HOUR_MS),
    "read-only": lambda ctx: ctx.candles("1m", 3).close.sort(),
    "looked ahead: .*state/elsewhere/b.* written at": lambda ctx: bk.PersistStateAdapter.read_state_data(
        "elsewhere", "b"
    ),
}


@pytest.mark.parametrize("said", MISUSES)
def test_what_a_strategy_may_not_do_is_said(candles: Path, said: str) -> None:
    bk.set_modes({"backtest": {"state": "mongo"}})
    bk.PersistStateAdapter.write_state_data({"data": {}}, "elsewhere", "b", START_MS + HOUR_MS)
    strategy = bt.add_strategy_schema(name="misuses", get_signal=MISUSES[said])
    with pytest.raises((bt.StrategyFailed, bk.LookAhead), match=said):
        run(strategy)


def test_a_strategy_may_look_and_replay_backwards(candles: Path) -> None:
    seen: list[Any] = []

    @bt.strategy
    def looks_back(ctx: bt.Context) -> None:
        if ctx.now == START_MS + 30 * MINUTE_MS and not seen:
            seen.append(bk.read_candle_files(candles / "candles", "BTCUSDT", "1m", "files").timestamp[-1])
            seen.append(ctx.at(START_MS).candles("1m", 10**12).timestamp[-1])
            seen.append(bt.backtest("BTCUSDT", strategy="looks_back", frame=(START_MS, ctx.now)).asked)

    run(looks_back)
    assert seen == [START_MS + 29 * MINUTE_MS, START_MS - MINUTE_MS, 31]


@pytest.mark.parametrize(
    ("said", "chosen"), [("frame", {"frame": "a..b"}), ("fill_gaps", {"fill_gaps": True}), ("files", {})]
)
def test_what_is_for_backtests_alone_is_refused_on_paper(candles: Path, said: str, chosen: dict[str, Any]) -> None:
    bt.add_strategy_schema(name="waits", get_signal=lambda ctx: None)
    with pytest.raises(bt.DeclarationError, match=said):
        bt.paper("BTCUSDT", **chosen)


def test_a_risk_rejects_by_a_text_a_raise_or_its_note(candles: Path) -> None:
    answers = iter(["too early", ValueError("no"), True, None])

    def judge(request: bt.RiskRequest) -> object:
        answer = next(answers, None)
        if isinstance(answer, ValueError):
            raise answer
        return answer

    bt.add_risk_schema(name="judge", validations=[(judge, "by note")])

    @bt.strategy(risk="judge", interval="1h")
    def wants(ctx: bt.Context) -> bt.Proposal:
        return bt.long(take_profit=ctx.price * 1.5, stop_loss=ctx.price * 0.9)

    result = run(wants)
    assert sorted(result.refusals) == ["1 x risk: by note", "1 x risk: no", "1 x risk: too early"]
    assert result.trades[0].opened_at == START_MS + 3 * MINUTE_MS


def test_a_notebook_with_its_running_loop_can_run_async_strategies(candles: Path) -> None:
    @bt.strategy
    async def asks(ctx: bt.Context) -> None:
        await asyncio.sleep(0)
        ctx.state["n"] = ctx.now

    async def cell() -> bt.Result:
        return run(asks, 5)

    assert asyncio.run(cell()).asked == 6


def test_an_exchange_is_asked_once_for_what_the_store_lacks(desk: Path) -> None:
    asked: list[tuple[int, int]] = []
    rows = {row[0]: list(row) for row in flat((0, 100.0), minutes=21)}

    async def remote(symbol: str, interval: str, since: int, limit: int) -> list[list[float]]:
        asked.append((since, limit))
        return [rows[at] for at in range(since, since + limit * MINUTE_MS, MINUTE_MS) if at in rows]

    bt.exchange(remote, name="remote")

    @bt.strategy
    def idles(ctx: bt.Context) -> None:
        return None

    for _ in range(2):
        run(idles, 20)
    assert asked == [(START_MS - 5 * MINUTE_MS, 25)]
    assert len(bk.read_candles("BTCUSDT", "1m", "remote", 0, START_MS + HOUR_MS)) == 25


def test_longer_candles_come_from_the_store_where_it_has_them(desk: Path) -> None:
    bk.PersistCandleAdapter.write_candles_data([_row(row) for row in RISING], "BTCUSDT", "1m", "store")
    hours = [(START_MS + hour * HOUR_MS, 7.0, 9.0, 5.0, 8.0 + hour / 100, 1.0) for hour in range(-40, 2)]
    bk.PersistCandleAdapter.write_candles_data([_row(row) for row in hours], "BTCUSDT", "1h", "store")
    seen = []

    @bt.strategy(interval="1h")
    def looks(ctx: bt.Context) -> None:
        seen.append(ctx.candles("1h", 30).close.tolist())

    run(looks, 90)
    assert seen == [[8.0 + hour / 100 for hour in range(first, first + 30)] for first in (-30, -29)]


def _row(row: tuple[float, ...]) -> dict[str, float]:
    return dict(zip(("timestamp", "open", "high", "low", "close", "volume"), row, strict=True))


def test_modes_are_a_table_that_setup_and_config_change(candles: Path) -> None:
    assert bk.get_modes()["live"]["state"] == "mongo"
    with pytest.raises(bk.InvalidSetting, match="there is no domain 'stat'"):
        bk.set_modes({"backtest": {"stat": "memory"}})
    bk.set_modes({"backtest": {"state": "mongo", "log": "dummy"}})

    @bt.strategy
    def remembers(ctx: bt.Context) -> None:
        ctx.state["now"] = ctx.now
        ctx.log("not kept")

    result = run(remembers, 2)
    row = bk.PersistStateAdapter.read_state_data(
        f"BTCUSDT:remembers:files:{result.identity.frame}:backtest:{result.run_id}", "state"
    )
    assert row is not None
    assert row["data"] == {"now": START_MS + 2 * MINUTE_MS}
    assert not (candles / "dump" / "log").exists()
    assert not (candles / "dump" / "runs").exists()


def test_statistics_are_those_of_the_trades(candles: Path) -> None:
    @bt.strategy(interval="15m")
    def shorts(ctx: bt.Context) -> bt.Proposal:
        return bt.short(take_profit=ctx.price * 0.9, stop_loss=ctx.price * 1.05, minutes=10)

    result = run(shorts)
    stats, pnl = result.stats, np.array([trade.pnl for trade in result.trades])
    assert stats.trades == len(pnl) == 5
    assert (stats.wins, stats.losses) == (0, 5)
    assert stats.pnl == pytest.approx(pnl.sum())
    assert stats.max_drawdown == pytest.approx(pnl.sum())
    assert (stats.profit_factor, stats.win_rate_percent) == (0.0, 0.0)
    assert result.equity.value[-1] == pytest.approx(pnl.sum())
    assert list(result.trades_frame()["pnl"]) == pytest.approx(list(pnl))
    assert result.equity_frame()["drawdown"].iloc[-1] == pytest.approx(pnl.sum())


def test_dumps_are_markdown(candles: Path) -> None:
    @bt.strategy(interval="1h")
    def asks(ctx: bt.Context) -> None:
        bt.dump(ctx, "prompt", [{"role": "user", "content": "up | down?"}])
        bt.dump(ctx, "answer", "no", name="1")

    run(asks, 5)
    (prompt,) = candles.glob(f"dump/agent/*/prompt/{START_MS}.md")
    assert "| user | up &#124; down? |" in prompt.read_text()
    assert list(candles.glob(f"dump/agent/*/answer/{START_MS}-1.md"))


def test_backtests_run_in_the_background_and_can_be_stopped(candles: Path) -> None:
    held, asked = threading.Event(), threading.Event()
    ends: list[str] = []

    @bt.strategy
    def waits(ctx: bt.Context) -> None:
        asked.set()
        held.wait(10)

    frame = (START_MS, START_MS + 120 * MINUTE_MS)
    first = bt.Backtest.background("BTCUSDT", frame=frame, on_end=lambda run: ends.append(run.status))
    assert asked.wait(10)
    assert (first.at, bt.Backtest.get_status("BTCUSDT")) == (START_MS, "running")
    second = bt.Backtest.background("BTCUSDT", frame=frame)
    second.stop()
    held.set()
    assert first.wait(30).asked == 121
    with pytest.raises(bt.DeclarationError, match="was stopped"):
        second.wait(30)
    assert (ends, second.status, bt.Backtest.stop("BTCUSDT")) == (["done"], "stopped", 0)
    with pytest.raises(bt.DeclarationError, match="needs candles as they close"):
        bt.Live.background("BTCUSDT").wait(30)
    assert bt.Live.get_status("BTCUSDT") == "failed"
