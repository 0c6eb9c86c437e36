"""A declared strategy as the drivers call it: at its simulated minute, coroutines finished, answers checked."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Final

import backtest_kit_mongo as bk
from backtest_kit.context import Context
from backtest_kit.coroutines import Coroutines, TookTooLong
from backtest_kit.declare import CALLBACKS, Strategy
from backtest_kit.errors import ENDS, StrategyFailed, described
from backtest_kit.events import Event
from backtest_kit.listening import listeners_of
from backtest_kit.moments import minute_text
from backtest_kit.operations import Operations
from backtest_kit.signals import Proposal

__all__ = ["CallingStrategy", "Progress", "ProgressStrategy"]

Progress = Callable[[int], None]
"""Called with the simulated minute (ms) now and then."""
PROGRESS_EACH_S: Final = 0.1

GET_SIGNAL_S: Final = 180.0
"""How long an async get_signal may take. One that is not async cannot be interrupted."""
RECORDED: Final = frozenset({"scheduled", "opened", "closed", "cancelled", "commit", "rejected", "invalid"})
"""What a result is made of."""


class CallingStrategy:
    """A `StrategyPort`.

    Attributes:
        block: the simulation time; the caller has entered it.
        record: called with every event that a result is made of.
    """

    def __init__(
        self,
        strategy: Strategy,
        ctx: Context,
        block: bk.SimulationTime,
        coroutines: Coroutines,
        record: Callable[[Event], None],
    ) -> None:
        self.interval_ms = strategy.interval_ms
        self._strategy, self._ctx, self._block, self._coroutines = strategy, ctx, block, coroutines
        self._ask = strategy.get_signal
        self._record = record
        self._callbacks: dict[str, list[tuple[str, Callable[..., Any]]]] = defaultdict(list)
        for name, callback in strategy.callbacks.items():
            for action in CALLBACKS[name]:
                self._callbacks[action].append((name, callback))
        self._listeners = listeners_of(ctx.identity.mode)
        heard = frozenset().union(*(one.actions for one in self._listeners))
        self.wants = RECORDED | frozenset(self._callbacks) | heard

    def get_signal(self, now_ms: int, price: float) -> Proposal | None:
        """Raises:
        StrategyFailed: it raised, took too long, or answered something else than a proposal or None.
        LookAhead: it read what was not known yet.
        """
        ctx = self._ctx
        ctx._minute = self._block.moment = now_ms
        ctx._price = price
        try:
            answer = self._ask(ctx)
            if answer is None:
                return None
            if type(answer) is not Proposal:
                answer = self._coroutines.finish(answer, GET_SIGNAL_S)
        except ENDS as cause:
            raise self._failure("get_signal", now_ms, cause) from cause
        if answer is not None and type(answer) is not Proposal:
            raise StrategyFailed(
                f"{self._at('get_signal', now_ms)} returned {type(answer).__name__} {answer!r:.80}; it returns "
                "bt.long(..), bt.short(..) or None."
            )
        return answer

    def on_event(self, event: Event, ops: Operations) -> None:
        """Raises:
        StrategyFailed: a callback or listener raised.
        """
        if event.action in RECORDED:
            self._record(event)
        ctx = self._ctx
        ctx._minute = self._block.moment = event.at
        ctx._price = ops.price
        ctx._operations = ops
        try:
            for name, callback in self._callbacks.get(event.action, ()):
                self._call(name, callback, ctx, event)
            for listener in self._listeners:
                if event.action in listener.actions:
                    self._call("a listener", listener.function, event, ctx.identity)
        finally:
            ctx._operations = None

    def _call(self, name: str, function: Callable[..., Any], *arguments: Any) -> None:
        try:
            self._coroutines.finish(function(*arguments))
        except ENDS as cause:
            raise self._failure(name, self._ctx.now, cause) from cause

    def _at(self, name: str, now_ms: int) -> str:
        return f"{name} of strategy {self._strategy.name!r} ({self._ctx.symbol}) at {minute_text(now_ms)}"

    def _failure(self, name: str, now_ms: int, cause: BaseException) -> Exception:
        if isinstance(cause, bk.LookAhead):
            return bk.LookAhead(f"{self._at(name, now_ms)} looked ahead: {cause}")
        if isinstance(cause, TookTooLong):
            return StrategyFailed(f"{self._at(name, now_ms)} took longer than {GET_SIGNAL_S:g} s and was ended.")
        return StrategyFailed(f"{self._at(name, now_ms)} raised {described(cause)}")


class ProgressStrategy(CallingStrategy):
    """One that tells how far it is, at most ten times per second."""

    def __init__(self, progress: Progress, *parts: Any) -> None:
        super().__init__(*parts)
        self._progress, self._next_s = progress, 0.0

    def get_signal(self, now_ms: int, price: float) -> Proposal | None:
        if (now_s := time.monotonic()) >= self._next_s:
            self._next_s = now_s + PROGRESS_EACH_S
            self._progress(now_ms)
        return super().get_signal(now_ms, price)
