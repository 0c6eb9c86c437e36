"""What a strategy file declares: strategies, exchanges, frames, risks. Checked when declared, frozen from then on.

Decorators for those who write Python, `add_*_schema` for those who come from the original; both end in the same
objects.
"""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeVar, overload

from backtest_kit.errors import DeclarationError
from backtest_kit.identity import MINUTE_MS
from backtest_kit.moments import INTERVALS_MS, MomentLike, to_ms
from backtest_kit.risk import RiskRequest, Validation

__all__ = ["CALLBACKS", "Declared", "Exchange", "Frame", "Risk", "Strategy"]
__all__ += ["exchange", "exchanges", "frame", "frames", "risk", "risks", "strategies", "strategy"]

Function = Callable[..., Any]
F = TypeVar("F", bound=Function)

CALLBACKS: Final[Mapping[str, frozenset[str]]] = {
    "on_open": frozenset({"opened"}),
    "on_active": frozenset({"active_ping"}),
    "on_active_ping": frozenset({"active_ping"}),
    "on_idle": frozenset({"idle"}),
    "on_close": frozenset({"closed"}),
    "on_schedule": frozenset({"scheduled"}),
    "on_schedule_ping": frozenset({"schedule_ping"}),
    "on_cancel": frozenset({"cancelled"}),
    "on_write": frozenset({"opened", "scheduled", "cancelled", "closed", "commit"}),
    "on_partial_profit": frozenset({"partial_profit"}),
    "on_partial_loss": frozenset({"partial_loss"}),
    "on_breakeven": frozenset({"breakeven"}),
    "on_reject": frozenset({"rejected", "invalid"}),
}
"""Callbacks of a strategy, and the actions that each is called for."""
KEPT: Final = ("~paper", "~reserved")
"""Ends of names in keys of rows."""


class Named(Protocol):
    @property
    def name(self) -> str: ...


D = TypeVar("D", bound=Named)


class Declared(Generic[D]):
    """All that is declared of one kind, by name, in the order of declaration."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._found: dict[str, D] = {}

    def add(self, one: D) -> D:
        """Raises:
        DeclarationError: the name is taken; `override` replaces. At a prompt or in a notebook, where a cell is run
            again, the newest holds.
        """
        if one.name in self._found and not hasattr(sys, "ps1"):
            raise DeclarationError(
                f"{self.kind} {one.name!r} is declared twice; give one of them another name, or override the first one"
            )
        self._found[one.name] = one
        return one

    def override(self, one: D) -> D:
        """Declare it in place of the one of that name, which must exist."""
        self.get(one.name)
        self._found[one.name] = one
        return one

    def get(self, name: str) -> D:
        """Raises:
        DeclarationError: there is none; the message names what there is.
        """
        if name in self._found:
            return self._found[name]
        near = get_close_matches(str(name), self._found, 1)
        known = f"did you mean {near[0]!r}?" if near else f"declared: {', '.join(self._found) or 'none'}"
        raise DeclarationError(f"no {self.kind} {name!r} is declared; {known}")

    def list(self) -> list[D]:
        return list(self._found.values())

    def clear(self) -> None:
        """Forget all, for tests."""
        self._found.clear()


@dataclass(frozen=True, slots=True, eq=False)
class Strategy:
    """Attributes:
    interval: get_signal is asked once per slot of this length: 1m 3m 5m 15m 30m 1h.
    get_signal: called with the context; returns `bt.long(..)`, `bt.short(..)` or None; may be async.
    risks: names of the risks that must let a position pass.
    callbacks: by name (`CALLBACKS`); called with the context and the event; may be async.
    """

    name: str
    get_signal: Function
    interval: str = "1m"
    risks: tuple[str, ...] = ()
    callbacks: dict[str, Function] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require_name("strategy", self.name)
        what = f"strategy {self.name!r}"
        if self.interval not in INTERVALS_MS:
            raise DeclarationError(f"{what}: interval must be one of {', '.join(INTERVALS_MS)}, not {self.interval!r}")
        _require_callable(f"{what}: get_signal", self.get_signal, 1)
        for name, callback in self.callbacks.items():
            _require_callback(what, name, callback)

    @property
    def interval_ms(self) -> int:
        return INTERVALS_MS[self.interval]

    def on(self, name: str) -> Callable[[F], F]:
        """Declare a callback: `@ema_cross.on("open")`; names as in `CALLBACKS`, with or without `on_`."""
        full = name if name.startswith("on_") else f"on_{name}"

        def declared(callback: F) -> F:
            _require_callback(f"strategy {self.name!r}", full, callback)
            self.callbacks[full] = callback
            return callback

        return declared

    def __call__(self, ctx: Any) -> Any:
        """Ask it as the engine does, for tests of a strategy."""
        return self.get_signal(ctx)


@dataclass(frozen=True, slots=True, eq=False)
class Exchange:
    """Where candles come from when the store lacks them. Without any source the store has to have them.

    Attributes:
        get_candles: (symbol, interval, since_ms, limit) -> rows [open time ms, open, high, low, close, volume], dicts
            or a table with these names; may be async.
        ccxt: name of an exchange that ccxt knows.
        files: a directory or file of candles named like BTCUSDT-1m.csv.gz; they are used as they are and not stored.
        format_price, format_quantity: (symbol, number) -> text.
        get_order_book, get_trades: (symbol, depth or limit); asked by `ctx.order_book()` and `ctx.trades()` in paper
            and live.
        broker: for live: an `orders.broker.Broker`, or a function that makes one when the run starts. An exchange of
            ccxt needs none.
    """

    name: str
    get_candles: Function | None = None
    ccxt: str | None = None
    files: Path | None = None
    format_price: Function | None = None
    format_quantity: Function | None = None
    get_order_book: Function | None = None
    get_trades: Function | None = None
    broker: Any = None

    def __post_init__(self) -> None:
        _require_name("exchange", self.name)
        what = f"exchange {self.name!r}"
        sources = [name for name in ("get_candles", "ccxt", "files") if getattr(self, name) is not None]
        if len(sources) > 1:
            raise DeclarationError(f"{what} has {' and '.join(sources)}; candles have one source besides the store")
        if self.get_candles is not None:
            _require_callable(f"{what}: get_candles", self.get_candles, 4)
        for name in ("format_price", "format_quantity"):
            if (function := getattr(self, name)) is not None:
                _require_callable(f"{what}: {name}", function, 2)


@dataclass(frozen=True, slots=True)
class Frame:
    """A span of a backtest; its first and last minute belong to it.

    Attributes:
        start, end: epoch ms, whole minutes.
    """

    name: str
    start: int
    end: int
    interval: str = "1m"

    def __post_init__(self) -> None:
        _require_name("frame", self.name)
        what = f"frame {self.name!r}"
        if self.interval != "1m":
            raise DeclarationError(f"{what}: a replay lives every minute; interval must be 1m, not {self.interval!r}")
        if self.end < self.start:
            raise DeclarationError(f"{what} ends before it starts")
        if self.end > time.time() * 1000:
            raise DeclarationError(f"{what} ends in the future; a backtest needs candles that have closed")


@dataclass(frozen=True, slots=True, eq=False)
class Risk:
    """Attributes:
    validations: called with a `RiskRequest`; falsy passes, a text rejects and says why, so does a raise.
    """

    name: str
    validations: tuple[Validation, ...]

    def __post_init__(self) -> None:
        _require_name("risk", self.name)
        if not self.validations:
            raise DeclarationError(f"risk {self.name!r} has no validation; it would let everything pass")
        for validation in self.validations:
            _require_callable(f"risk {self.name!r}: validation", validation, 1)


strategies: Final[Declared[Strategy]] = Declared("strategy")
exchanges: Final[Declared[Exchange]] = Declared("exchange")
frames: Final[Declared[Frame]] = Declared("frame")
risks: Final[Declared[Risk]] = Declared("risk")


# -- decorators


@overload
def strategy(get_signal: Function, /) -> Strategy: ...
@overload
def strategy(
    *, name: str | None = None, interval: str = "1m", risk: str | Iterable[str] = (), **callbacks: Function
) -> Callable[[Function], Strategy]: ...


def strategy(
    get_signal: Function | None = None,
    /,
    *,
    name: str | None = None,
    interval: str = "1m",
    risk: str | Iterable[str] = (),
    **callbacks: Function,
) -> Any:
    """Declare a strategy: `@bt.strategy(interval="15m")` over its get_signal, whose name it gets.

    Callbacks are given here (`on_open=..`) or declared after it: `@my_strategy.on("open")`.

    Raises:
        DeclarationError: something is wrong with it, or the name is taken.
    """

    def declared(function: Function) -> Strategy:
        named = name or str(getattr(function, "__name__", ""))
        return strategies.add(Strategy(named, function, interval, _names(risk), dict(callbacks)))

    return declared if get_signal is None else declared(get_signal)


@overload
def exchange(get_candles: Function, /, *, name: str | None = None, **parts: Any) -> Exchange: ...
@overload
def exchange(*, name: str | None = None, **parts: Any) -> Any: ...


def exchange(get_candles: Function | None = None, /, *, name: str | None = None, **parts: Any) -> Any:
    """Declare an exchange: as a decorator of its get_candles, or as a call:
    `bt.exchange(name="binance", ccxt="binance")`.

    Raises:
        DeclarationError: something is wrong with it, or the name is taken.
    """
    if get_candles is None and any(parts.get(source) is not None for source in ("ccxt", "files", "get_candles")):
        return add_exchange_schema(name=name, **parts)

    def declared(function: Function) -> Exchange:
        return add_exchange_schema(name=name or getattr(function, "__name__", ""), get_candles=function, **parts)

    return declared if get_candles is None else declared(get_candles)


def frame(name: str, start: MomentLike, end: MomentLike) -> Frame:
    """Declare a frame; a date alone as `end` means its first minute.

    Raises:
        DeclarationError: it ends before it starts or in the future, or the name is taken.
    """
    return add_frame_schema(name=name, start=start, end=end)


@overload
def risk(validation: Validation, /) -> Risk: ...
@overload
def risk(*, name: str | None = None, note: str = "") -> Callable[[Validation], Risk]: ...


def risk(validation: Validation | None = None, /, *, name: str | None = None, note: str = "") -> Any:
    """Declare a risk: `@bt.risk(name="one-position", note="one is enough")` over its validation.

    The validation gets a `RiskRequest`; falsy passes, a text rejects and says why, True rejects with `note`.
    """

    def declared(function: Validation) -> Risk:
        return add_risk_schema(name=name or str(getattr(function, "__name__", "")), validations=[(function, note)])

    return declared if validation is None else declared(validation)


# -- schemas


def add_strategy_schema(
    *, name: str, interval: str = "1m", get_signal: Function, risk: str | Iterable[str] = (), **callbacks: Function
) -> Strategy:
    """`strategy` as one call."""
    return strategies.add(Strategy(name, get_signal, interval, _names(risk), dict(callbacks)))


def add_exchange_schema(**parts: Any) -> Exchange:
    """`exchange` as one call; parameters as the attributes of `Exchange`."""
    if parts.get("files") is not None:
        parts["files"] = Path(parts["files"])
    try:
        made = Exchange(**parts)
    except TypeError as cause:
        raise DeclarationError(f"exchange {parts.get('name')!r}: {cause}") from cause
    return exchanges.add(made)


def make_frame(name: str, start: MomentLike, end: MomentLike, interval: str = "1m") -> Frame:
    """A frame that is not declared."""
    return Frame(name, to_ms(start) // MINUTE_MS * MINUTE_MS, to_ms(end) // MINUTE_MS * MINUTE_MS, interval)


def add_frame_schema(*, name: str, start: MomentLike, end: MomentLike, interval: str = "1m") -> Frame:
    """`frame` as one call."""
    return frames.add(make_frame(name, start, end, interval))


def add_risk_schema(*, name: str, validations: Iterable[Validation | tuple[Validation, str]]) -> Risk:
    """A risk of several validations, each a function, or a function and the note that its True is reported as."""
    noted = (one if isinstance(one, tuple) else (one, "") for one in validations)
    return risks.add(Risk(name, tuple(_noted(check, note) for check, note in noted)))


def _noted(check: Validation, note: str) -> Validation:
    if not note or not callable(check):
        return check

    def checked(request: RiskRequest) -> object:
        answer = check(request)
        return note if answer is True else answer

    return checked


def _names(names: str | Iterable[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _require_name(kind: str, name: object) -> None:
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise DeclarationError(f"a {kind} needs a name of printable characters, not {name!r:.80}")
    if name.endswith(KEPT):
        raise DeclarationError(f"{kind} {name!r}: names that end with {' or '.join(KEPT)} are the engine's own")


def _require_callback(what: str, name: str, callback: object) -> None:
    if name not in CALLBACKS:
        near = get_close_matches(name, CALLBACKS, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(CALLBACKS)}"
        raise DeclarationError(f"{what} has no callback {name!r}; {hint}")
    _require_callable(f"{what}: {name}", callback, 2)


def _require_callable(what: str, function: object, arguments: int) -> None:
    if not callable(function):
        raise DeclarationError(f"{what} must be a function, not {type(function).__name__}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # Written in C: it cannot be asked.
    try:
        signature.bind(*range(arguments))
    except TypeError as cause:
        raise DeclarationError(
            f"{what} is called with {arguments} argument(s), and {signature} does not fit"
        ) from cause
