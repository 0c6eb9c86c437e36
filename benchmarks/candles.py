"""What candles cost: writing, first and warm reads, as NumPy columns and as dicts, from documents alone and from
blocks.

    python benchmarks/candles.py [--sizes 1000,44640,525600] [--single N] [--json FILE]

Floors, in the same run: raw blobs (the bytes of the same blocks, fetched by bare pymongo and not looked at), bare
pymongo's `find` into a list of dicts, bare `insert_many`; and, where they are installed, pymongoarrow on the same
documents and ArcticDB (LMDB, no server) with the same candles. Each read is repeated until a second is over, ours and
its floor in turns; shown are medians, and the ratio of the medians. First reads keep no blocks in the process, warm
ones have them. Ingest: N candles written one by one, with the worker's compaction as it goes along, are read in a ratio
to the same candles written at once; at once, and ten seconds later, when the worker has compacted what is left. Private
servers of the `embedded` extra are used, unless the CC_ variables name others (everything is kept in databases named
bkm-benchmark-*).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from measuring import servers, wide_console
from pymongo import MongoClient
from pymongo.write_concern import WriteConcern
from rich.progress import Progress
from rich.table import Table

import backtest_kit_mongo as bk
from backtest_kit_mongo import stores
from backtest_kit_mongo.adapters.candle_instance import CandleInstance
from backtest_kit_mongo.candles.columns import FIELDS
from backtest_kit_mongo.candles.frame import Candles
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.table import CANDLE
from backtest_kit_mongo.operate.compaction import Compactor, Thresholds, find_ranges
from backtest_kit_mongo.setup import make_store
from backtest_kit_mongo.stored import CANDLE_BLOCKS as BLOCKS

DATABASE = "bkm-benchmark-candles"
EXCHANGE, INTERVAL, STEP_MS = "binance", "1m", 60_000
SINCE = 1_672_531_200_000
"""2023-01-01, so that a year is over."""
SIZES = (1_000, 44_640, 525_600)
"""A usual window, a month, a year of minutes."""
SPELL_S = 1.0
REPEATS_MAX = 200
Action = Callable[[], object]
Columns = dict[str, Any]


class Line(NamedTuple):
    """One measurement. `floor_ms` and `goal` are None where there is nothing to compare with."""

    candles: int
    case: str
    ours_ms: float
    floor: str = ""
    floor_ms: float | None = None
    goal: float | None = None

    @property
    def ratio(self) -> float | None:
        return None if self.floor_ms is None else self.ours_ms / self.floor_ms


def series(count: int) -> Columns:
    """A random walk with two decimals, as prices have."""
    noise = np.random.default_rng(1)
    close = np.round(40_000 + np.cumsum(noise.normal(0, 10, count)), 2)
    opened = np.concatenate(([40_000.0], close[:-1]))
    high = np.maximum(opened, close) + np.round(noise.exponential(5, count), 2)
    low = np.minimum(opened, close) - np.round(noise.exponential(5, count), 2)
    timestamp = SINCE + STEP_MS * np.arange(count, dtype=np.int64)
    return {
        "timestamp": timestamp, "open": opened, "high": high, "low": low, "close": close,
        "volume": np.round(noise.exponential(20, count), 5),
    }  # fmt: skip


def took_ms(action: Action) -> float:
    start_ns = time.perf_counter_ns()
    action()
    return (time.perf_counter_ns() - start_ns) / 1e6


def in_turns(ours: Action, floor: Action) -> tuple[float, float]:
    """Median times of both in ms."""
    mine: list[float] = []
    theirs: list[float] = []
    end_s = time.monotonic() + SPELL_S
    while len(mine) < 5 or (time.monotonic() < end_s and len(mine) < REPEATS_MAX):
        mine.append(took_ms(ours))
        theirs.append(took_ms(floor))
    return statistics.median(mine), statistics.median(theirs)


class Bench:
    """One database, and the candles of each size under a symbol of its own."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.settings = bk.setup(**config)
        uri = self.settings.mongo_connection_string.get_secret_value()
        self.client: MongoClient[dict[str, Any]] = MongoClient(uri)
        self.database = self.client[self.settings.database]
        self.lines: list[Line] = []
        # Of every read the first: it keeps no blocks.
        self.forgetful = make_store(self.settings.model_copy(update={"candle_cache_max_bytes": 0}))

    @property
    def store(self) -> Any:
        return stores.live_store()

    def compact(self, symbol: str) -> None:
        scope = Key(CANDLE, (EXCHANGE, symbol, INTERVAL))
        compactor = Compactor(self.store.truth.series, self.database)
        for each in find_ranges(self.database, scope):
            compactor.compact(each)

    def read(self, symbol: str, count: int) -> Candles:
        return bk.read_candles(symbol, INTERVAL, EXCHANGE, SINCE, SINCE + count * STEP_MS)

    def read_first(self, symbol: str, count: int) -> Candles:
        return CandleInstance(self.forgetful, symbol, INTERVAL, EXCHANGE).read_candles(SINCE, SINCE + count * STEP_MS)

    # -- writing

    def write(self, count: int) -> str:
        symbol, columns = f"S{count}", series(count)
        ours_ms = took_ms(lambda: bk.write_candles(symbol, INTERVAL, EXCHANGE, columns))
        bare = self.database.get_collection("bare-candles", write_concern=WriteConcern("majority", j=True))
        bare.create_index([(name, 1) for name in CANDLE.columns], unique=True)
        documents = list(self.documents(symbol, columns))
        floor_ms = took_ms(lambda: bare.insert_many(documents, ordered=False))
        bare.drop()
        goal_ms = count / 60_000 * 1000
        self.lines.append(Line(count, "write", ours_ms, "insert_many", floor_ms))
        self.lines.append(Line(count, "write, as a rate", ours_ms, "60,000 candles/s", goal_ms, 1.0))
        return symbol

    @staticmethod
    def documents(symbol: str, columns: Columns) -> Iterable[dict[str, Any]]:
        """What a plain program would insert: the same fields."""
        now = datetime.now(UTC)
        shared = {
            "exchangeName": EXCHANGE,
            "symbol": symbol,
            "interval": INTERVAL,
            "createDate": now,
            "updatedDate": now,
        }
        for row in zip(*(columns[name].tolist() for name in ("timestamp", *FIELDS)), strict=True):
            yield {**shared, "__v": 0, "rev": 1, **dict(zip(("timestamp", *FIELDS), row, strict=True))}

    # -- reading

    def documents_only(self, symbol: str, count: int) -> None:
        times = {"$gte": SINCE, "$lt": SINCE + count * STEP_MS}
        query = {"exchangeName": EXCHANGE, "symbol": symbol, "interval": INTERVAL, "timestamp": times}
        fields = {"_id": 0, **dict.fromkeys(("timestamp", *FIELDS), 1)}
        candles = self.database["candle-items"]

        def find() -> list[dict[str, Any]]:
            return list(candles.find(query, fields, sort=[("timestamp", 1)]))

        self._line(count, "documents -> NumPy", lambda: self.read(symbol, count), "find into a list", find)
        self._line(count, "documents -> dicts", lambda: self.read(symbol, count).to_dicts(), "find into a list", find)
        if arrow := _pymongoarrow():
            self._line(
                count,
                "documents -> NumPy",
                lambda: self.read(symbol, count),
                "pymongoarrow",
                lambda: arrow(candles, query),
            )

    def blocks(self, symbol: str, count: int) -> None:
        def blobs() -> list[bytes]:
            found = self.database[BLOCKS].find({"exchangeName": EXCHANGE, "symbol": symbol}, {"_id": 0, "data": 1})
            return [block["data"] for block in found]

        def read() -> Any:
            return self.read(symbol, count)

        goal = 1.5 if count == SIZES[-1] else None
        self._line(count, "blocks, first -> NumPy", lambda: self.read_first(symbol, count), "raw blobs", blobs, goal)
        self._line(count, "blocks, warm -> NumPy", read, "raw blobs", blobs)
        self._line(count, "blocks, warm -> dicts", lambda: read().to_dicts(), "raw blobs", blobs)
        if arctic := _arcticdb(count):
            self._line(
                count, "blocks, first -> NumPy", lambda: self.read_first(symbol, count), "ArcticDB, LMDB", arctic
            )

    def _line(
        self,
        count: int,
        case: str,
        ours: Action,
        floor_name: str,
        floor: Action,
        goal: float | None = None,
    ) -> None:
        ours_ms, floor_ms = in_turns(ours, floor)
        self.lines.append(Line(count, case, ours_ms, floor_name, floor_ms, goal))

    def one_by_one(self, count: int, progress: Progress) -> None:
        """Candles as a live bot writes them, beside the same candles written at once; both with the worker's blocks."""
        columns = series(count)
        rows = list(zip(*(columns[name].tolist() for name in ("timestamp", *FIELDS)), strict=True))
        bar = progress.add_task("writing one by one", total=count)
        for index, row in enumerate(rows, 1):
            candle = dict(zip(("timestamp", *FIELDS), row, strict=True))
            bk.PersistCandleAdapter.write_candles_data([candle], "SINGLE", INTERVAL, EXCHANGE)
            if index % Thresholds().pending_min == 0:
                self.compact("SINGLE")
                progress.update(bar, completed=index)
        progress.remove_task(bar)
        bk.write_candles("BULK", INTERVAL, EXCHANGE, columns)
        self.compact("BULK")
        for case in ("one by one, first read", "one by one, read later"):
            ours_ms, floor_ms = in_turns(
                lambda: self.read_first("SINGLE", count), lambda: self.read_first("BULK", count)
            )
            self.lines.append(Line(count, case, ours_ms, "written at once", floor_ms, 1 / 0.8))
            self.compact("SINGLE")


def _pymongoarrow() -> Callable[[Any, dict[str, Any]], object] | None:
    try:
        from pymongoarrow.api import Schema, find_numpy_all
    except ImportError:
        return None
    schema = Schema({"timestamp": int, **dict.fromkeys(FIELDS, float)})
    return lambda collection, query: find_numpy_all(collection, query, schema=schema, sort=[("timestamp", 1)])


def _arcticdb(count: int) -> Action | None:
    try:
        import arcticdb
        import pandas as pd
    except ImportError:
        return None
    folder = tempfile.TemporaryDirectory()
    library = arcticdb.Arctic(f"lmdb://{folder.name}").create_library("candles")
    columns = series(count)
    index = pd.to_datetime(columns["timestamp"], unit="ms")
    library.write("S", pd.DataFrame({name: columns[name] for name in FIELDS}, index=index))

    def read() -> object:
        assert folder is not None  # Lives as long as this function.
        return library.read("S").data

    return read


def show(lines: Iterable[Line]) -> None:
    table = Table(title="candles: medians")
    for heading in ("candles", "case", "ms", "candles/s", "floor", "floor ms", "ratio", "goal"):
        table.add_column(heading, justify="left" if heading in ("case", "floor") else "right", no_wrap=True)
    for line in lines:
        goal = ""
        if line.goal is not None and line.ratio is not None:
            goal = f"<= {line.goal:g} " + ("[green]met[/]" if line.ratio <= line.goal else "[red]missed[/]")
        table.add_row(
            f"{line.candles:,}",
            line.case,
            f"{line.ours_ms:,.2f}",
            f"{line.candles / line.ours_ms * 1000:,.0f}",
            line.floor,
            "" if line.floor_ms is None else f"{line.floor_ms:,.2f}",
            "" if line.ratio is None else f"{line.ratio:.2f}",
            goal,
        )
    wide_console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="numbers of candles, separated by commas")
    parser.add_argument(
        "--single", type=int, default=10_080, help="candles written one by one (a week); 0 leaves it out"
    )
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    arguments = parser.parse_args()
    with servers(DATABASE) as config, Progress(console=wide_console(), transient=True) as progress:
        bench = Bench(config)
        for count in map(int, arguments.sizes.split(",")):
            bar = progress.add_task(f"{count:,} candles", total=3)
            symbol = bench.write(count)
            progress.advance(bar)
            bench.documents_only(symbol, count)
            bench.compact(symbol)
            progress.advance(bar)
            bench.blocks(symbol, count)
            progress.remove_task(bar)
        if arguments.single:
            bench.one_by_one(arguments.single, progress)
        bench.forgetful.close()
        bk.shutdown()
    show(bench.lines)
    if arguments.json:
        arguments.json.write_text(json.dumps([line._asdict() for line in bench.lines], indent=2))


if __name__ == "__main__":
    main()
