"""What else waits, for event loops."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from backtest_kit_mongo import candle_sources
from backtest_kit_mongo.adapters.inventory import inventory as sync_inventory
from backtest_kit_mongo.drivers.offloading import offload
from backtest_kit_mongo.setup import setup as sync_setup
from backtest_kit_mongo.setup import shutdown as sync_shutdown

P = ParamSpec("P")
R = TypeVar("R")


def _offloaded(call: Callable[P, R]) -> Callable[P, Coroutine[Any, Any, R]]:
    @wraps(call)
    async def offloaded(*args: P.args, **named: P.kwargs) -> R:
        return await offload(call, *args, **named)

    return offloaded


setup = _offloaded(sync_setup)
shutdown = _offloaded(sync_shutdown)
inventory = _offloaded(sync_inventory)
fetch_candles = _offloaded(candle_sources.fetch_candles)
list_candles = _offloaded(candle_sources.list_candles)
read_candle_files = _offloaded(candle_sources.read_candle_files)
