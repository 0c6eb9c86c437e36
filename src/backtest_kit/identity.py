"""Who a lifecycle belongs to, and ids that are pure functions: no clock, no random number."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Literal, TypeAlias

Mode: TypeAlias = Literal["backtest", "paper", "live"]

MINUTE_MS: Final = 60_000


@dataclass(frozen=True, slots=True)
class ContextId:
    """One context holds at most one scheduled or open signal.

    Attributes:
        frame: name of the frame in a backtest, "" in paper and live.
    """

    symbol: str
    strategy: str
    exchange: str
    frame: str = ""
    mode: Mode = "backtest"

    @property
    def kept_exchange(self) -> str:
        """The exchange's name in keys of rows: paper and live share none."""
        return f"{self.exchange}~{self.mode}" if self.mode == "paper" else self.exchange

    @property
    def is_durable(self) -> bool:
        """Whether the context's rows are stored, so that it survives its process."""
        return self.mode != "backtest"


def names_joined(separator: str, *parts: str) -> str:
    """Names as one text that other names never give: the separator within a name is written as %xx."""
    return separator.join(part.replace("%", "%25").replace(separator, f"%{ord(separator):02X}") for part in parts)


def digest(*parts: object) -> str:
    """32 hexadecimal characters that depend on the texts of `parts` and their order alone."""
    return sha256("\0".join(map(str, parts)).encode()).hexdigest()[:32]


def signal_id(context: ContextId, at_ms: int) -> str:
    """The id of a signal that came without one: the same whenever the same minute is lived again."""
    return digest(context.symbol, context.strategy, context.exchange, context.frame, context.mode, at_ms)
