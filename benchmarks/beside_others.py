"""One study beside other libraries: 8 symbols x 20 parameter sets of crossing averages, timed in one run.

    python benchmarks/beside_others.py DIRECTORY [--other PYTHON] [--workers 2]

DIRECTORY holds candles named like ETHBTC-5m.csv.gz or BTCUSDT-1m.csv.gz (timestamp, open, high, low, close, volume).
PYTHON is the interpreter of another virtual environment that has vectorbt and backtesting; without it only this package
is timed.

The engine lives every minute, so each five-minute candle is walked in five: its open, its low and high (in the order of
its direction), its close. The others see the five-minute candles. So trades are alike and not equal; what is compared
is time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

FAST, SLOW = range(4, 12, 2), range(20, 45, 5)
STRATEGY = """
from pathlib import Path
import backtest_kit as bt

bt.exchange(name="files", files=Path(__file__).parent / "minutes")


@bt.strategy(interval="5m")
def crossing(ctx, fast=4, slow=20):
    close = ctx.candles("5m", slow + 1).close
    if len(close) <= slow:
        return None
    if close[-fast - 1:-1].mean() <= close[:-1].mean() and close[-fast:].mean() > close[1:].mean():
        return bt.long(take_profit=ctx.price * 1.012, stop_loss=ctx.price * 0.994, minutes=1440)
"""
OTHERS = """
import json, sys, time, warnings
from pathlib import Path
import pandas as pd
warnings.filterwarnings("ignore")
files, fasts, slows = json.loads(sys.argv[1])
HOW = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}
frames = []
for file in files:
    frame = pd.read_csv(file, index_col=0)
    frame.index = pd.to_datetime(frame.index, unit="ms")
    frames.append(frame.resample("5min").agg(HOW).dropna() if "-1m." in file else frame)


def vectorbt():
    import vectorbt as vbt
    count = 0
    for frame in frames:
        fast, slow = vbt.MA.run_combs(frame["close"], window=[*fasts, *slows], r=2, short_names=["fast", "slow"])
        found = vbt.Portfolio.from_signals(
            frame["close"], fast.ma_crossed_above(slow), high=frame["high"], low=frame["low"], open=frame["open"],
            sl_stop=0.006, tp_stop=0.012, fees=0.001, freq="5min",
        )
        found.total_return()
        count += len(found.wrapper.columns)
    return count


def backtesting():
    from backtesting import Backtest, Strategy
    from backtesting.lib import crossover
    from backtesting.test import SMA

    class Crossing(Strategy):
        fast, slow = 4, 20

        def init(self):
            self.a, self.b = self.I(SMA, self.data.Close, self.fast), self.I(SMA, self.data.Close, self.slow)

        def next(self):
            if not self.position and crossover(self.a, self.b):
                price = self.data.Close[-1]
                self.buy(sl=price * 0.994, tp=price * 1.012)

    count = 0
    for frame in frames:
        table = frame.rename(columns=str.title)
        for fast in fasts:
            for slow in slows:
                Backtest(table, Crossing, cash=1_000_000, commission=0.001).run(fast=fast, slow=slow)
                count += 1
    return count


for function in (vectorbt, backtesting):
    try:
        function()
        since, cpu = time.perf_counter(), time.process_time()
        count = function()
        took = [time.perf_counter() - since, time.process_time() - cpu]
        print(json.dumps([function.__name__, count, took]), flush=True)
    except ModuleNotFoundError as error:
        print(json.dumps([function.__name__, 0, str(error)]), flush=True)
"""


def minutes_of(file: Path) -> pd.DataFrame:
    """Five candles for each of five minutes; minutes as they are."""
    wide = pd.read_csv(file)
    if "-1m." in file.name:
        return wide
    rises = wide["close"] >= wide["open"]
    first, second = np.where(rises, wide["low"], wide["high"]), np.where(rises, wide["high"], wide["low"])
    corners = np.column_stack([wide["open"], wide["open"], first, second, wide["close"], wide["close"]])
    start, end = corners[:, :5].ravel(), corners[:, 1:].ravel()
    times = (wide["timestamp"].to_numpy()[:, None] + np.arange(5) * 60_000).ravel()
    volume = np.repeat(wide["volume"].to_numpy() / 5, 5)
    table = {"timestamp": times, "open": start, "high": np.maximum(start, end), "low": np.minimum(start, end)}
    return pd.DataFrame({**table, "close": end, "volume": volume})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--other", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    found = arguments.directory.resolve()
    files = sorted([*found.glob("*-5m.csv*"), *found.glob("*-1m.csv*")])
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        os.environ["CC_CANDLE_CACHE_DIR"] = f"{name}/cache"
        root = Path(name)
        (root / "minutes").mkdir()
        (root / "crossing.py").write_text(STRATEGY)
        symbols = [file.name.partition("-")[0] for file in files]
        for file, symbol in zip(files, symbols, strict=True):
            minutes_of(file).to_csv(root / "minutes" / f"{symbol}-1m.csv", index=False)
        print(f"{len(files)} symbols x {len(FAST) * len(SLOW)} parameter sets; load {os.getloadavg()[0]:.1f}")
        ours(symbols, arguments.workers)
        if arguments.other:
            given = json.dumps([[str(file) for file in files], list(FAST), list(SLOW)])
            quiet = os.environ | {"TQDM_DISABLE": "1"}
            done = subprocess.run(
                [arguments.other, "-c", OTHERS, given], stdout=subprocess.PIPE, text=True, check=True, env=quiet
            )
            for line in done.stdout.splitlines():
                who, count, took = json.loads(line)
                print(said(who, count, *took) if count else f"{who}: {took}")
    print(f"load {os.getloadavg()[0]:.1f}")


def said(who: str, count: int, took_s: float, cpu_s: float | None, more: str = "") -> str:
    cpu = "" if cpu_s is None else f", {cpu_s:7.2f} s of CPU"
    return f"{who:<32} {count:5} runs {took_s:8.2f} s{cpu}{more}"


def ours(symbols: list[str], workers: int) -> None:
    import backtest_kit as bt
    from backtest_kit import loading

    loading.load_strategy(Path("crossing.py"))
    for title, how in (("serial", {"executor": "serial"}), (f"{workers} processes", {"workers": workers})):
        since, cpu_s = time.perf_counter(), time.process_time()
        study = bt.sweep(
            "crossing",
            params={"fast": FAST, "slow": SLOW},
            symbols=symbols,
            fill_gaps=True,
            again=True,
            progress=False,
            **how,
        )
        took_s = time.perf_counter() - since
        minutes = sum((row.end - row.start) // 60_000 + 1 for row in study)
        trades = sum(row.stats["trades"] for row in study)
        more = f"; {minutes / took_s:,.0f} minutes/s, {trades:,} trades"
        used_s = time.process_time() - cpu_s if title == "serial" else None  # Workers are not its children.
        print(said(f"backtest-kit-mongo, {title}", len(study), took_s, used_s, more), flush=True)


if __name__ == "__main__":
    main()
