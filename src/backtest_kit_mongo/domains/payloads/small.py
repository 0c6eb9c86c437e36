"""The small payloads: candles, risk, levels, cache entries, memory, state, session, dictionary and log."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, Strict, model_validator
from pydantic_core import PydanticCustomError

from backtest_kit_mongo.domains.payloads.base import Millis, Minutes, Payload, Position, Price

__all__ = [
    "BreakevenData",
    "BreakevenState",
    "CandleData",
    "DictionaryData",
    "DictionaryEntry",
    "ExecutionContext",
    "IntervalData",
    "LogEntry",
    "MeasureData",
    "MemoryData",
    "MethodContext",
    "PartialData",
    "PartialLevels",
    "RiskActivePosition",
    "RiskData",
    "RunData",
    "SessionData",
    "StateData",
]


class CandleData(Payload):
    """One candle; its timestamp is the open time."""

    timestamp: Annotated[Millis, Field(ge=0)]
    open: Price
    high: Price
    low: Price
    close: Price
    volume: Annotated[Price, Field(ge=0)]

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.high < self.low:
            raise PydanticCustomError(
                "candle_range", "high {high} is below low {low}", {"high": self.high, "low": self.low}
            )
        for name, price in (("open", self.open), ("close", self.close)):
            if not self.low <= price <= self.high:
                reported = {"name": name, "price": price, "low": self.low, "high": self.high}
                raise PydanticCustomError(
                    "candle_range", "{name} {price} lies outside low {low} to high {high}", reported
                )
        return self


class RiskActivePosition(Payload):
    """A position that counts against a risk profile."""

    strategy_name: str | None = None
    exchange_name: str | None = None
    frame_name: str | None = None
    symbol: str | None = None
    position: Position | None = None
    price_open: Price | None = None
    price_stop_loss: Price | None = None
    price_take_profit: Price | None = None
    minute_estimated_time: Minutes | None = None
    open_timestamp: Millis | None = None


RiskData: TypeAlias = list[Annotated[tuple[str, RiskActivePosition], Strict(False)]]
"""The active positions of a risk profile as [key, position] pairs; a pair is a tuple, or a list as decoders give it."""


class PartialLevels(Payload):
    """The profit and loss levels (10..100 percent) that a signal has reached."""

    profit_levels: list[int] | None = None
    loss_levels: list[int] | None = None


PartialData: TypeAlias = dict[str, PartialLevels]
"""Reached levels by signal id."""


class BreakevenState(Payload):
    """Whether a signal has reached its breakeven."""

    reached: bool | None = None


BreakevenData: TypeAlias = dict[str, BreakevenState]
"""Breakeven states by signal id."""


class MeasureData(Payload):
    """A cached result of a function call."""

    id: str | None = Field(default=None, description="the entity key")
    data: Any = None
    removed: bool | None = None


class IntervalData(MeasureData):
    """The marker that a function has fired in its interval."""

    when: datetime | None = None


class MemoryData(Payload):
    """One remembered object of a signal, searchable by its index text."""

    priority: Millis | None = Field(default=None, description="wall clock of the write")
    data: Any = None
    removed: bool | None = None
    index: str | None = None
    when: Millis | None = None


class StateData(Payload):
    """The state object of a signal; `id` is `{signalId}_{bucketName}`."""

    id: str | None = None
    data: Any = None
    when: Millis | None = None


class SessionData(Payload):
    """The session object of a run, null when cleared; `id` is `symbol:strategy:exchange[:frame]:backtest|live`."""

    id: str | None = None
    data: Any = None
    when: Millis | None = None


class RunData(Payload):
    """A row of the list of runs: one run, one study, or the list of all studies."""

    kind: Literal["run", "study", "studies"] | None = None
    data: Any = None


class DictionaryEntry(Payload):
    """One value of a dictionary and when it was set."""

    value: Any = None
    when: Millis | None = None


class DictionaryData(Payload):
    """A whole dictionary of a signal; `id` is `{signalId}_{dictionaryName}`, `when` the last write."""

    id: str | None = None
    data: dict[str, DictionaryEntry] | None = None
    when: Millis | None = None


class MethodContext(Payload):
    """Whose method wrote a log line."""

    exchange_name: str | None = None
    strategy_name: str | None = None
    frame_name: str | None = None


class ExecutionContext(Payload):
    """At which simulated or real moment a log line was written."""

    symbol: str | None = None
    when: datetime | None = None
    backtest: bool | None = None


class LogEntry(Payload):
    """One line of the log."""

    id: str
    type: Literal["log", "debug", "info", "warn", "agent"] | None = None
    priority: Millis | None = Field(default=None, description="wall clock of the write")
    created_at: str | None = Field(default=None, description="ISO 8601, context time")
    timestamp: Millis | None = Field(default=None, description="context time")
    method_context: MethodContext | None = None
    execution_context: ExecutionContext | None = None
    topic: str | None = None
    args: list[Any] | None = None
