"""Forty runs on a Dask cluster.

Start it with `docker compose --profile cluster up -d`, then

    python examples/sweep_dask.py tcp://localhost:8786

Without an address it starts two workers on this host. It needs Dask: pip install 'backtest-kit-mongo[dask]'.
"""

import sys
from pathlib import Path

import backtest_kit as bt

bt.exchange(name="binance", files=Path(__file__).parent / "data")


@bt.strategy(interval="5m")
def averages(ctx: bt.Context, fast: int = 9, slow: int = 36, target: float = 1.2) -> bt.Proposal | None:
    close = ctx.candles("5m", slow).close
    if len(close) == slow and close[-fast:].mean() > close.mean():
        return bt.long(take_profit=ctx.price * (1 + target / 100), stop_loss=ctx.price * 0.994, minutes=360)
    return None


def main(address: str | None = None) -> None:
    from distributed import Client

    with Client(address) if address else Client(n_workers=2, threads_per_worker=1, dashboard_address=None) as client:
        study = bt.sweep(
            "averages",
            params={"fast": range(3, 13, 2), "slow": range(20, 60, 10), "target": [0.8, 1.6]},
            symbols="BTCUSDT",
            executor=client.get_executor(),
            workers=len(client.nthreads()),
        )
    print(study)
    for row in study.best("pnl", 5):
        print(row.params, round(row.stats["pnl"], 2))
    print("digest", study.digest)


if __name__ == "__main__":
    main(*sys.argv[1:2])
