"""Functions that are computed once per interval: `cached` for values, `once` for deeds."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from typing import Any, Final

import backtest_kit_mongo as bk
from backtest_kit.context import Context
from backtest_kit.errors import DeclarationError
from backtest_kit.identity import digest, names_joined
from backtest_kit.moments import CANDLE_MS
from backtest_kit.seeing import AnswerMissing, answer_read, recorded_deeds

__all__ = ["cached", "once"]

KEY_MAX: Final = 120
Function = Callable[..., Any]


def cached(*, interval: str, name: str | None = None) -> Callable[[Function], Function]:
    """Compute a function once per interval, exchange, symbol and arguments; every later call, run and host reads the
    stored value.

        @bt.cached(interval="1h")
        async def opinion(ctx, question): ...

    The function is called with a context at the *beginning* of the interval, so its value does not depend on who asked
    first or at which minute. Values are what JSON knows, dates too; each caller gets them as they were stored. A raise
    stores nothing.

    Args:
        interval: 1m .. 1d.
        name: of the bucket; default: the function's. Give another one when the function changes its meaning.
    """
    return _memo(interval, name, _cached_call)


def once(*, interval: str, name: str | None = None) -> Callable[[Function], Function]:
    """Do something at most once per interval and context: a call that finds it done returns None.

    A function that returns None has not done it, and is called again. In a backtest each run does it anew.
    """
    return _memo(interval, name, _once_call)


Call = tuple[str, str, int, Context]
"""Bucket, key, begin of the interval (ms), the caller's context."""


def _memo(interval: str, name: str | None, kind: Any) -> Callable[[Function], Function]:
    if interval not in CANDLE_MS:
        raise DeclarationError(f"interval must be one of {', '.join(CANDLE_MS)}, not {interval!r}")

    def decorate(function: Function) -> Function:
        bucket = f"{name or function.__name__}_{interval}"

        def call(ctx: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Call:
            if not isinstance(ctx, Context):
                raise DeclarationError(f"{function.__qualname__} is called with ctx first, not {type(ctx).__name__}")
            slot = ctx.now // CANDLE_MS[interval] * CANDLE_MS[interval]
            place = names_joined("_", ctx.identity.exchange, ctx.symbol)
            return bucket, f"{place}_{slot}{_text_of(args, named)}", slot, ctx

        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def asked(ctx: Any, *args: Any, **named: Any) -> Any:
                steps = kind(*call(ctx, args, named))
                inner = next(steps)
                if inner is None:
                    return _end(steps, None)
                with bk.simulation_time(inner.now, guards_threads=False):
                    value = await function(inner, *args, **named)
                return _end(steps, value)

            return asked

        @wraps(function)
        def ask(ctx: Any, *args: Any, **named: Any) -> Any:
            steps = kind(*call(ctx, args, named))
            inner = next(steps)
            if inner is None:
                return _end(steps, None)
            with bk.simulation_time(inner.now, guards_threads=False), ctx.moved(inner.now):
                value = function(inner, *args, **named)
            return _end(steps, value)

        return ask

    return decorate


def _end(steps: Any, value: Any) -> Any:
    """Give the computed value to the steps; what they return is the call's."""
    try:
        steps.send(value)
    except StopIteration as done:
        return done.value
    raise AssertionError("a memo has two steps")


def _cached_call(bucket: str, key: str, slot: int, ctx: Context) -> Any:
    """Yields the context to compute in, or None if there is nothing to compute; returns the value."""
    answer_read(bucket, key)
    with bk.simulation_time(slot, guards_threads=False):
        row = bk.PersistMeasureAdapter.read_measure_data(bucket, key)
    if row is not None:
        yield None
        return row["data"]
    if recorded_deeds() is not None:
        raise AnswerMissing(f"the answer {bucket}/{key} was not recorded; it is not computed again")
    value = yield ctx.at(slot)
    with bk.simulation_time(slot, guards_threads=False):
        bk.PersistMeasureAdapter.write_measure_data({"id": key, "data": value, "removed": False}, bucket, key, slot)
        kept = bk.PersistMeasureAdapter.read_measure_data(bucket, key)
    return value if kept is None else kept["data"]


def _once_call(bucket: str, key: str, slot: int, ctx: Context) -> Any:
    own = f"{key}_{ctx._place.owner}"
    if (deeds := recorded_deeds()) is not None:
        yield None
        return deeds(bucket, own, ctx.now)
    if bk.PersistIntervalAdapter.read_interval_data(bucket, own) is not None:
        yield None
        return None
    value = yield ctx
    if value is not None:
        moment = datetime.fromtimestamp(ctx.now / 1000, UTC)
        row = {"id": own, "data": value, "when": moment, "removed": False}
        bk.PersistIntervalAdapter.write_interval_data(row, bucket, own, ctx.now)
    return value


def _text_of(args: tuple[Any, ...], named: dict[str, Any]) -> str:
    if not args and not named:
        return ""
    text = "_".join([*map(repr, args), *(f"{name}={value!r}" for name, value in sorted(named.items()))])
    return f"_{text}" if len(text) <= KEY_MAX and text.isascii() else f"_{digest(text)}"
