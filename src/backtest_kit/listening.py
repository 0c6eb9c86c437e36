"""Functions that are called with events, whichever strategy they come from. `def` or `async def`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from backtest_kit.declare import _require_callable
from backtest_kit.events import Event
from backtest_kit.identity import ContextId

__all__ = ["LISTENERS", "Listener", "listeners_of", "listening"]

OnEvent = Callable[[Event, ContextId], Any]


class Listener(NamedTuple):
    """Attributes:
    actions: what it is called with.
    modes: in which modes; empty: in all.
    """

    function: OnEvent
    actions: frozenset[str]
    modes: frozenset[str] = frozenset()


SIGNAL: Final = frozenset({"scheduled", "opened", "closed", "cancelled"})
LISTENERS: Final[dict[str, frozenset[str]]] = {
    "listen_signal": SIGNAL,
    "listen_idle": frozenset({"idle"}),
    "listen_active_ping": frozenset({"active_ping"}),
    "listen_schedule_ping": frozenset({"schedule_ping"}),
    "listen_partial_profit": frozenset({"partial_profit"}),
    "listen_partial_loss": frozenset({"partial_loss"}),
    "listen_breakeven": frozenset({"breakeven"}),
    "listen_commit": frozenset({"commit"}),
    "listen_highest_profit": frozenset({"highest_profit"}),
    "listen_max_drawdown": frozenset({"max_drawdown"}),
    "listen_risk": frozenset({"rejected"}),
    "listen_validation": frozenset({"invalid"}),
    "listen_pause": frozenset({"paused"}),
}
"""What each `listen_..` function reports."""

_listeners: list[Listener] = []


def listening(function: OnEvent, actions: frozenset[str], *modes: str) -> Callable[[], None]:
    """Tell a function of these actions from the next run on; call the answer to end it."""
    _require_callable("a listener", function, 2)
    listener = Listener(function, actions, frozenset(modes))
    _listeners.append(listener)

    def end() -> None:
        if listener in _listeners:
            _listeners.remove(listener)

    return end


def listeners_of(mode: str) -> list[Listener]:
    """Those that are called in a mode."""
    return [one for one in _listeners if not one.modes or mode in one.modes]


def listen_signal(function: OnEvent) -> Callable[[], None]:
    """Signals that are scheduled, opened, closed or cancelled, in every mode."""
    return listening(function, SIGNAL)


def listen_signal_backtest(function: OnEvent) -> Callable[[], None]:
    """The same in backtests only."""
    return listening(function, SIGNAL, "backtest")


def listen_signal_live(function: OnEvent) -> Callable[[], None]:
    """The same in paper and live only."""
    return listening(function, SIGNAL, "paper", "live")


def _listen(name: str) -> Callable[[OnEvent], Callable[[], None]]:
    def listen(function: OnEvent) -> Callable[[], None]:
        return listening(function, LISTENERS[name])

    listen.__name__ = listen.__qualname__ = name
    listen.__doc__ = f"Events {', '.join(sorted(LISTENERS[name]))}, in every mode."
    return listen


listen_idle = _listen("listen_idle")
listen_active_ping = _listen("listen_active_ping")
listen_schedule_ping = _listen("listen_schedule_ping")
listen_partial_profit = _listen("listen_partial_profit")
listen_partial_loss = _listen("listen_partial_loss")
listen_breakeven = _listen("listen_breakeven")
listen_commit = _listen("listen_commit")
listen_highest_profit = _listen("listen_highest_profit")
listen_max_drawdown = _listen("listen_max_drawdown")
listen_risk = _listen("listen_risk")
listen_validation = _listen("listen_validation")
listen_pause = _listen("listen_pause")
