"""The synchronous driver: runs a plan, step by step, against who performs its effects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from backtest_kit_mongo.coherence import effects as fx

R = TypeVar("R")
Perform = Callable[[Any], Any]


class Performers(Protocol):
    """Who performs which kind of effect."""

    def __getitem__(self, kind: type[fx.Effect[Any]], /) -> Perform: ...


class OneForAll:
    """A function that performs effects of every kind."""

    def __init__(self, perform: Perform) -> None:
        self._perform = perform

    def __getitem__(self, kind: type[fx.Effect[Any]]) -> Perform:
        return self._perform


def drive(plan: fx.Plan[R], performers: Performers) -> R:
    """Run a plan to its end. Any exception, KeyboardInterrupt too, is thrown into the plan, which owns the clean-up."""
    step: Callable[[Any], fx.Effect[Any]] = plan.send
    argument: Any = None
    while True:
        try:
            effect = step(argument)
        except StopIteration as done:
            answer: R = done.value
            return answer
        try:
            step, argument = plan.send, performers[type(effect)](effect)
        except BaseException as error:
            step, argument = plan.throw, error
