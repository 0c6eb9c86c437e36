"""How fast a strategy is replayed, and what a live tick costs: `python benchmarks/engine.py`, less than four minutes.

Runs are those of `bt.backtest`: from nothing to a result, with a context, simulation time, and candles read anew, of a
week and of a year of minutes. Three strategies: asked each minute, it does nothing; asked each minute, it reads 60
candles; asked each hour, it opens a position. Three places of candles: memory, files (`files=`), MongoDB, warm: the
worker's role `blocks` has compacted them, and an earlier run of the process has read them. Places take turns; shown are
medians. Then `live.py`. The machine's load stands beside each number.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final, NamedTuple

import live
from pymongo import MongoClient

import backtest_kit as bt
import backtest_kit_mongo as bk
from backtest_kit.context import Context
from backtest_kit.declare import Exchange, Frame, Strategy
from backtest_kit.identity import MINUTE_MS
from backtest_kit.results import Result
from backtest_kit.running import Job, run_backtest
from backtest_kit.signals import Proposal
from backtest_kit_mongo import stores
from backtest_kit_mongo.adapters.registries import REGISTRIES
from backtest_kit_mongo.candles.columns import FIELDS
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.table import CANDLE, DOMAINS
from backtest_kit_mongo.operate.compaction import Compactor, find_ranges
from backtest_kit_mongo.testing.servers import Servers, private_servers
from backtest_kit_verify.made_up import START_MS, random_walk

WARM_UP: Final = 100
DATABASE: Final = "bench"
SPANS: Final = (("a week", 7 * 1440, 7), ("a year", 365 * 1440, 3))
"""Minutes, and how many runs; the first one warms up and does not count."""
RATIO_GOAL: Final = 1.2


def does_nothing(ctx: Context) -> Proposal | None:
    return None


def reads(ctx: Context) -> Proposal | None:
    close = ctx.candles("1m", 60).close
    return None if close[-1] > 0 else bt.long(take_profit=ctx.price, stop_loss=ctx.price)


def opens(ctx: Context) -> Proposal | None:
    return bt.long(take_profit=ctx.price * 1.01, stop_loss=ctx.price * 0.99, minutes=240)


STRATEGIES: Final = (
    (Strategy("does nothing, 1m", does_nothing, "1m"), "goal 250,000 minutes/s"),
    (Strategy("reads 60 candles, 1m", reads, "1m"), "goal 100,000 minutes/s"),
    (Strategy("opens, 1h", opens, "1h"), "goal 1.5 s per year"),
)


class Place(NamedTuple):
    """Where candles are, and what has to be in force for that."""

    name: str
    exchange: Exchange
    entered: Callable[[], AbstractContextManager[Any]]


class Took(NamedTuple):
    """Seconds.

    Attributes:
        whole: with reading candles and making the result.
        replay: without.
        cpu: of the whole.
    """

    whole: float
    replay: float
    cpu: float


@contextmanager
def places(symbol: str, minutes: int, servers: Servers, directory: Path) -> Iterator[tuple[Place, ...]]:
    """The same candles in each of them."""
    table = random_walk(7, minutes, before=WARM_UP, price=42_000.0, volatility=0.0005, wick=0.0002)
    columns = {name: getattr(table, name) for name in ("timestamp", *FIELDS)}
    memory, registry = stores.new_memory_store(), REGISTRIES[DOMAINS.index(CANDLE)]
    bk.write_candles(symbol, "1m", "bench", columns)
    compact(symbol, servers)
    with registry.serving(memory):
        bk.write_candles(symbol, "1m", "bench", columns)
    write_file(directory / f"{symbol}-1m.csv", columns)
    yield (
        Place("memory", Exchange("bench"), lambda: registry.serving(memory)),
        Place("files", Exchange("bench", files=directory), nullcontext),
        Place("MongoDB", Exchange("bench"), nullcontext),
    )


def compact(symbol: str, servers: Servers) -> None:
    """As the worker does by itself."""
    with MongoClient[dict[str, Any]](servers.mongo_connection_string(DATABASE)) as client:
        database = client[DATABASE]
        compactor = Compactor(stores.live_store().truth.series, database)
        for each in find_ranges(database, Key(CANDLE, ("bench", symbol, "1m"))):
            compactor.compact(each)


def write_file(path: Path, columns: dict[str, Any]) -> None:
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    lines = (",".join(map(repr, row)) for row in rows)
    path.write_text("\n".join([",".join(columns), *lines, ""]), encoding="ascii")


def run(strategy: Strategy, place: Place, symbol: str, minutes: int) -> tuple[Took, Result]:
    frame = Frame("bench", START_MS, START_MS + (minutes - 1) * MINUTE_MS)
    job = Job(strategy, place.exchange, (), symbol, "backtest", frame)
    with place.entered():
        began_s, cpu_s = time.perf_counter(), time.process_time()
        result = run_backtest(job)
        whole_s = time.perf_counter() - began_s
        return Took(whole_s, result.elapsed_s, time.process_time() - cpu_s), result


def replays(servers: Servers, directory: Path) -> None:
    for span, minutes, runs in SPANS:
        symbol = span.title().replace(" ", "")
        with places(symbol, minutes, servers, directory) as found:
            for strategy, goal in STRATEGIES:
                took: dict[str, list[Took]] = {place.name: [] for place in found}
                for _ in range(runs):
                    for place in found:
                        once, result = run(strategy, place, symbol, minutes)
                        took[place.name].append(once)
                show(f"{span:6}  {strategy.name:20}", minutes, took, f"{goal}; {len(result.trades):,} trades")


def show(what: str, minutes: int, took: dict[str, list[Took]], goal: str) -> None:
    medians = {name: Took(*map(statistics.median, zip(*each[1:], strict=True))) for name, each in took.items()}
    for name, median in medians.items():
        ratio = median.whole / medians["memory"].whole
        beside = f" = {ratio:.2f}x memory (goal {RATIO_GOAL}x)" if name == "MongoDB" else ""
        print(
            f"{what} {name:8} {minutes / median.replay:>10,.0f} minutes/s replayed; {median.whole:.3f} s with reading"
            f"{beside}, {median.cpu:.3f} s of CPU; {goal}; load {os.getloadavg()[0]:.1f}",
            flush=True,
        )


def main() -> None:
    with tempfile.TemporaryDirectory() as name, private_servers(Path(name) / "servers") as servers:
        directory = Path(name) / "candles"
        directory.mkdir()
        os.chdir(name)
        bk.setup(
            mongo_connection_string=servers.mongo_connection_string(DATABASE),
            redis_host=servers.redis_host,
            redis_port=servers.redis_port,
        )
        replays(servers, directory)
        bk.shutdown()
        os.chdir("/")
    live.main()


if __name__ == "__main__":
    main()
