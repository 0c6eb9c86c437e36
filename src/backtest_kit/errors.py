"""What can go wrong before and while a strategy runs. All are `backtest_kit_mongo.BacktestKitError`."""

from __future__ import annotations

import traceback
from asyncio import CancelledError
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

import backtest_kit_mongo as bk

__all__ = [
    "ENDS",
    "AlreadyRunning",
    "CandlesMissing",
    "DeclarationError",
    "StrategyFailed",
    "StrategyFileError",
    "WrongCandles",
    "described",
]

ENDS: Final = (Exception, SystemExit, CancelledError, GeneratorExit)
"""What the user's code can end with. KeyboardInterrupt is not its own: somebody pressed Ctrl-C."""


def described(error: BaseException) -> str:
    """What somebody's code raised, and the name that may have been meant."""
    known: Iterable[str] = ()
    if isinstance(error, AttributeError) and error.obj is not None:
        known = (name for name in dir(error.obj) if not name.startswith("_"))
    elif isinstance(error, NameError) and (frames := list(traceback.walk_tb(error.__traceback__))):
        frame = frames[-1][0]
        known = {**frame.f_builtins, **frame.f_globals, **frame.f_locals}
    near = get_close_matches(str(getattr(error, "name", "")), known, 1)
    return f"{type(error).__name__}: {error}" + (f". Did you mean {near[0]}?" if near else "")


class DeclarationError(bk.CallerError, ValueError):
    """A strategy, exchange, frame or risk is declared wrongly, twice or not at all. Nothing was run or written."""


class StrategyFileError(bk.CallerError):
    """The strategy's file cannot be used: it is missing, raises on import, or declares no strategy. Nothing was run."""


class CandlesMissing(bk.EnvironmentFault, LookupError):
    """There are no candles, or not all that the run needs. The run did not start."""


class WrongCandles(bk.EnvironmentFault, ValueError):
    """An exchange answered something that is no candle. Nothing of that answer was stored or used."""


class AlreadyRunning(bk.EnvironmentFault):
    """Another process runs this context in paper or live. Nothing was started."""


class StrategyFailed(bk.BacktestKitError):
    """The strategy's own code raised or returned something that is no proposal; the cause is chained.

    The message names the function and the simulated minute. What the run had stored before stays stored.
    """
