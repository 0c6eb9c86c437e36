"""Forty ways in which a strategy could see its future, planted in a backtest. Each is refused, or sees the past."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, Final

import pytest

import backtest_kit as bt
import backtest_kit_mongo as bk
from backtest_kit.declare import Exchange
from backtest_kit_mongo.adapters.registries import REGISTRIES
from backtest_kit_mongo.coherence.record import Shape
from backtest_kit_mongo.domains.table import DOMAINS
from backtest_kit_mongo.testing.calls import calls
from backtest_kit_mongo.testing.examples import example
from backtest_kit_mongo.testing.handles import parts

from .strategies import MINUTE_MS, START_MS, flat, write_candles

NOW: Final = START_MS + 30 * MINUTE_MS
LATER: Final = NOW + 90 * MINUTE_MS
STATE = bk.PersistStateAdapter
REGISTRY: Final = dict(zip(DOMAINS, REGISTRIES, strict=True))
BY_KEY: Final = tuple(domain for domain in DOMAINS if domain.shape in (Shape.SLOT, Shape.KEYED))
LISTS: Final = tuple(domain for domain in DOMAINS if domain.shape is Shape.LIST)
MODES: Final = {"backtest": {domain.name: "mongo" for domain in DOMAINS}}

Ctx = bt.Context
_started: Final[list[ThreadPool]] = []


def read_state(*_: Any) -> Any:
    return STATE.read_state_data("s", "b")


def read_row(domain: Any) -> Callable[[Ctx], Any]:
    return lambda ctx: calls(domain).read(REGISTRY[domain], parts(domain, "planted"), None)


def sees_no_row(domain: Any) -> Callable[[Ctx], Any]:
    def look(ctx: Ctx) -> None:
        assert calls(domain).read(REGISTRY[domain], parts(domain, "planted"), None) is None

    return look


def in_thread(ctx: Ctx) -> None:
    raised: list[BaseException] = []

    def look() -> None:
        try:
            read_state()
        except bk.LookAhead as error:
            raised.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    raise raised[0]


def in_pool(ctx: Ctx) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(read_state).result()


async def in_task(ctx: Ctx) -> Any:
    async def look() -> Any:
        return read_state()

    return await asyncio.create_task(look())


async def in_to_thread(ctx: Ctx) -> Any:
    return await asyncio.to_thread(read_state)


async def gathered(ctx: Ctx) -> Any:
    return await asyncio.gather(asyncio.to_thread(read_state), asyncio.sleep(0))


def in_a_later_block(ctx: Ctx) -> Any:
    with bk.simulation_time(LATER):
        return read_state()


def in_a_block_that_moves(ctx: Ctx) -> Any:
    with bk.simulation_time(ctx.now) as block:
        block.move(LATER)
        return read_state()


def through_an_outer_ctx(ctx: Ctx) -> None:
    slot = ctx.now // (60 * MINUTE_MS) * 60 * MINUTE_MS

    @bt.cached(interval="1h", name="outer")
    def value(inner: Ctx) -> Any:
        return [ctx.now, int(ctx.candles("1m", 1).timestamp[-1])]

    assert value(ctx) == [slot, slot - MINUTE_MS]
    assert ctx.candles("1m", 1).timestamp[-1] == ctx.now - MINUTE_MS


def in_a_cached_function(ctx: Ctx) -> Any:
    return bt.cached(interval="1h", name="looks")(read_state)(ctx)


def in_a_once_function(ctx: Ctx) -> Any:
    return bt.once(interval="1h", name="looks")(read_state)(ctx)


def sees_closed_candles_alone(ctx: Ctx) -> None:
    assert ctx.candles("1m", 10**6).timestamp[-1] == ctx.now - MINUTE_MS
    hours = ctx.candles("1h", 10**6)
    assert len(hours) == 0 or hours.timestamp[-1] + 60 * MINUTE_MS <= ctx.now
    assert ctx.at(START_MS + 5 * MINUTE_MS).candles("5m", 1).timestamp[-1] == START_MS


def sees_no_later_file(ctx: Ctx) -> None:
    found = bk.read_candle_files(Path("candles"), "BTCUSDT", "1m", "files")
    assert found.timestamp[-1] == ctx.now - MINUTE_MS


def sees_no_later_key(ctx: Ctx) -> None:
    assert not list(bk.PersistMemoryAdapter.list_memory_data("signal", "bucket"))


def sees_no_later_price(ctx: Ctx) -> None:
    assert ctx.price == 100.0


def candles(since: int, until: int) -> Callable[[Ctx], Any]:
    return lambda ctx: bk.read_candles("BTCUSDT", "1m", "stored", since, until)


def window(count: int) -> Callable[[Ctx], Any]:
    return lambda ctx: bk.PersistCandleAdapter.read_candles_data("BTCUSDT", "1m", "stored", count, NOW, 0)


def replays(until: int) -> Callable[[Ctx], Any]:
    return lambda ctx: bt.backtest("BTCUSDT", strategy="planted", frame=(START_MS, until))


WAYS: Final[dict[str, Callable[[Ctx], Any]]] = {
    **{f"the row of {domain.name}": read_row(domain) for domain in BY_KEY},
    **{f"the list of {domain.name}": sees_no_row(domain) for domain in LISTS},
    "a risk by a later when": lambda ctx: bk.PersistRiskAdapter.read_position_data("r", "e", LATER),
    "a write in the future": lambda ctx: STATE.write_state_data({"data": {}}, "s", "mine", LATER),
    "a thread": in_thread,
    "a pool of threads": in_pool,
    "a pool that was started before": lambda ctx: _started[0].apply(read_state),
    "a task": in_task,
    "asyncio.to_thread": in_to_thread,
    "asyncio.gather": gathered,
    "a block of a later time": in_a_later_block,
    "a block that is moved on": in_a_block_that_moves,
    "ctx.at of a later moment": lambda ctx: ctx.at(ctx.now + 1).price,
    "candles of a later ctx": lambda ctx: ctx.at(LATER).candles("1m", 5),
    "ctx.now set forward": lambda ctx: setattr(ctx, "now", LATER),
    "candles that open later": candles(LATER, LATER + MINUTE_MS),
    "a window that ends later": window(5),
    "candles and a later when": lambda ctx: bk.PersistCandleAdapter.read_candles(
        "BTCUSDT", "1m", "stored", START_MS, NOW, when=LATER
    ),
    "a backtest of the future": replays(LATER),
    "a backtest to the next minute": replays(NOW + MINUTE_MS),
    "a backtest in the background": lambda ctx: bt.Backtest.background("BTCUSDT", frame=(START_MS, LATER)).wait(30),
    "a cached function": in_a_cached_function,
    "a cached function and the outer ctx": through_an_outer_ctx,
    "a function that is done once": in_a_once_function,
    "the running candle and the open hour": sees_closed_candles_alone,
    "a file of candles": sees_no_later_file,
    "a list of keys": sees_no_later_key,
    "the price of the running minute": sees_no_later_price,
}
SEES_THE_PAST: Final = frozenset(
    {
        "a cached function and the outer ctx", "the running candle and the open hour", "a file of candles",
        "a list of keys", "the price of the running minute", *(f"the list of {domain.name}" for domain in LISTS),
    }
)  # fmt: skip


SAYS: Final = {"ctx.now set forward": "has no setter", "a backtest in the background": "would wait for itself"}


@pytest.fixture(autouse=True)
def future(desk: Path, bkm_store: Any) -> Iterator[None]:
    """What is written later, in every domain."""
    bk.set_modes(MODES)
    rows = flat((0, 100.0), (30, 200.0), minutes=200)
    bt.exchange(name="files", files=write_candles(desk / "candles", rows))
    names = ("timestamp", "open", "high", "low", "close", "volume")
    stored = [dict(zip(names, row, strict=True)) for row in rows]
    bk.PersistCandleAdapter.write_candles_data(stored, "BTCUSDT", "1m", "stored")
    with bk.simulation_time(LATER):
        for domain in (*BY_KEY, *LISTS):
            key = parts(domain, "planted")
            calls(domain).write(REGISTRY[domain], example(domain, key[-1]), key, None)
        STATE.write_state_data({"data": {}}, "s", "b")
        row = {"priority": 0, "data": {}, "removed": False, "index": ""}
        bk.PersistMemoryAdapter.write_memory_data(row, "signal", "bucket", "later")
    _started.append(ThreadPool(1))
    yield
    pool = _started.pop()
    pool.terminate()
    pool.join()


def look(way: Callable[[Ctx], Any], place: str = "get_signal") -> bt.Result:
    def get_signal(ctx: Ctx) -> Any:
        if place == "get_signal":
            return way(ctx)
        return bt.long(take_profit=ctx.price * 1.5, stop_loss=ctx.price * 0.9)

    callbacks: dict[str, Any] = {} if place == "get_signal" else {place: lambda ctx, event: way(ctx)}
    strategy = bt.add_strategy_schema(name="planted", get_signal=get_signal, **callbacks)
    exchange = Exchange("files", files=Path("candles"))
    return bt.backtest("BTCUSDT", strategy=strategy, exchange=exchange, frame=(NOW, NOW))


def test_there_are_forty_ways() -> None:
    assert len(WAYS) >= 40


@pytest.mark.parametrize("way", WAYS)
def test_a_planted_way_to_look_ahead_is_refused_by_name_or_sees_the_past_alone(way: str) -> None:
    if way in SEES_THE_PAST:
        assert look(WAYS[way]).asked == 1
        return
    with pytest.raises((bk.LookAhead, bt.StrategyFailed), match=SAYS.get(way, "looked ahead")):
        look(WAYS[way])


@pytest.mark.parametrize("place", ["on_open", "on_write"])
def test_a_callback_is_refused_too(place: str) -> None:
    with pytest.raises(bk.LookAhead, match=f"{place} of strategy 'planted'.*state/s/b"):
        look(read_state, place)


def test_a_listener_is_refused_too() -> None:
    end = bt.listen_idle(lambda event, context: read_state())
    with pytest.raises(bk.LookAhead, match=r"a listener.*state/s/b"):
        look(lambda ctx: None)
    end()
