"""A signal that is scheduled or open."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from backtest_kit.pnl import closed_percent, effective_entry, net_pnl, remaining_basis
from backtest_kit.rules import Rules
from backtest_kit.signals import Entry, Extreme, Partial, Pnl, Position, SignalView

NO_EXTREME: Final = Extreme(0.0, 0, 0.0)
"""Of a signal that is not open yet."""


@dataclass(slots=True)
class Held:
    """A signal, with everything that happened to it.

    Attributes:
        sign: 1 for a long, -1 for a short.
        entry: effective price of all entries.
        scheduled_at, pending_at: ms; pending_at is 0 until it is open.
        was_scheduled: it waited for its price.
        trailing_stop, trailing_take: override the proposed ones.
        profit_levels, loss_levels, has_broken_even: what was reported already.
        order_count: numbers what callbacks do with this signal, its orders among it.
    """

    id: str
    position: Position
    price_open: float
    take_profit: float
    stop_loss: float
    minutes: int
    cost: float
    note: str
    scheduled_at: int
    pending_at: int = 0
    was_scheduled: bool = False
    entries: list[Entry] = field(default_factory=list)
    partials: list[Partial] = field(default_factory=list)
    trailing_stop: float | None = None
    trailing_take: float | None = None
    peak: Extreme = NO_EXTREME
    fall: Extreme = NO_EXTREME
    profit_levels: set[int] = field(default_factory=set)
    loss_levels: set[int] = field(default_factory=set)
    has_broken_even: bool = False
    order_count: int = 0
    sign: int = field(init=False)
    entry: float = field(init=False)

    def __post_init__(self) -> None:
        self.sign = 1 if self.position == "long" else -1
        if not self.entries:
            self.entries.append(Entry(self.price_open, self.cost, self.scheduled_at))
        self.entry = effective_entry(self.entries, self.partials)

    @property
    def stop(self) -> float:
        """The stop in force."""
        return self.stop_loss if self.trailing_stop is None else self.trailing_stop

    @property
    def take(self) -> float:
        """The take profit in force."""
        return self.take_profit if self.trailing_take is None else self.trailing_take

    def gain(self, price: float, than: float) -> float:
        """How much better `price` is than another, in the position's direction."""
        return self.sign * (price - than)

    def end(self, price: float, at: int, rules: Rules) -> None:
        """Fold the price of the close into peak and fall: here the PnL decides, which average buys may have changed."""
        pnl = self.pnl(price, rules)
        moment = Extreme(price, at, pnl.percent, pnl.cost)
        if pnl.percent > max(self.peak.percent, 0.0):
            self.peak = moment
        if pnl.percent < self.fall.percent:
            self.fall = moment

    def add(self, entry: Entry) -> None:
        self.entries.append(entry)
        self.entry = effective_entry(self.entries, self.partials)

    def undo(self, kind: str, later: int) -> None:
        """Take back a partial close or an average buy that the broker refused; what came after it counts from what is
        left.

        Args:
            later: how many of the same sort came after it.
        """
        if kind == "average-buy":
            index = len(self.entries) - 1 - later
            del self.entries[index]
            self.partials = [
                partial._replace(entry_count=partial.entry_count - (partial.entry_count > index))
                for partial in self.partials
            ]
            first = next((n for n, one in enumerate(self.partials) if one.entry_count >= index), len(self.partials))
        else:
            first = len(self.partials) - 1 - later
            del self.partials[first]
        for n in range(first, len(self.partials)):
            bought = self.entries[: self.partials[n].entry_count]
            self.partials[n] = self.partials[n]._replace(cost_basis=remaining_basis(bought, self.partials[:n]))
        self.entry = effective_entry(self.entries, self.partials)

    def remaining(self) -> float:
        return remaining_basis(self.entries, self.partials)

    def pnl(self, price: float, rules: Rules) -> Pnl:
        return net_pnl(self.sign, self.entries, self.partials, price, rules)

    def open(self, at: int, rules: Rules) -> None:
        """It becomes a position at its price_open."""
        self.pending_at = at
        self.entries[0] = self.entries[0]._replace(at=at)
        pnl = self.pnl(self.price_open, rules)
        self.peak = Extreme(self.price_open, at, 0.0)
        self.fall = Extreme(self.price_open, at, pnl.percent, pnl.cost)

    def rise(self, price: float, at: int, rules: Rules) -> bool:
        """Fold a price into the peak: only one that earns money counts."""
        if self.gain(price, self.peak.price) <= 0:
            return False
        pnl = self.pnl(price, rules)
        if pnl.percent <= 0:
            return False
        self.peak = Extreme(price, at, pnl.percent, pnl.cost)
        return True

    def sink(self, price: float, at: int, rules: Rules) -> bool:
        """Fold a price into the fall."""
        if self.gain(price, self.fall.price) >= 0:
            return False
        pnl = self.pnl(price, rules)
        self.fall = Extreme(price, at, pnl.percent, pnl.cost)
        return True

    def view(self) -> SignalView:
        return SignalView(
            self.id,
            self.position,
            self.entry,
            self.take,
            self.stop,
            self.price_open,
            self.take_profit,
            self.stop_loss,
            self.minutes,
            self.cost,
            self.note,
            self.scheduled_at,
            self.pending_at,
            tuple(self.entries),
            tuple(self.partials),
            closed_percent(self.entries, self.partials),
            self.peak,
            self.fall,
        )
