"""backtest-kit-mongo for asyncio: the same adapters, as coroutines.

    import backtest_kit_mongo as bk

    await bk.aio.setup()
    await bk.aio.PersistSignalAdapter.write_signal_data(row, "BTCUSDT", "my-strategy", "binance")
    async with bk.aio.step(): ...
    async with await bk.aio.consume("risk-desk", ["signal"]) as feed:
        async for event in feed: ...

Names, parameters, answers and errors are those of `backtest_kit_mongo`. The work is done by a few threads
(`use_threads`), so the event loop never waits for a server; the simulation time and the step of a task hold for its
calls. A task that is cancelled during a write ends at once, and the write goes on: whether it has happened is unknown,
as after `WriteOutcomeUnknown`. What does not wait for anything is not repeated here: `bk.simulation_time`,
`bk.revisions`, `use_persist_<domain>_adapter(...)` and the errors.
"""

from backtest_kit_mongo.aio import adapters
from backtest_kit_mongo.aio.adapters import *  # noqa: F403
from backtest_kit_mongo.aio.crud import BaseCRUD
from backtest_kit_mongo.aio.feed import AsyncChangeFeed, consume
from backtest_kit_mongo.aio.others import fetch_candles, inventory, list_candles, read_candle_files, setup, shutdown
from backtest_kit_mongo.drivers.offloading import use_threads
from backtest_kit_mongo.drivers.stepping import step

__all__ = [
    "AsyncChangeFeed",
    "BaseCRUD",
    "consume",
    "fetch_candles",
    "inventory",
    "list_candles",
    "read_candle_files",
    "setup",
    "shutdown",
    "step",
    "use_threads",
]
__all__ += adapters.__all__
