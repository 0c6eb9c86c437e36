"""What a strategy may do in a callback."""

from __future__ import annotations

from math import isfinite
from typing import Literal

from backtest_kit.held import Held
from backtest_kit.levels import breakeven_price
from backtest_kit.rules import Rules
from backtest_kit.signals import Entry, Partial, Pnl, Proposal, SignalView
from backtest_kit.state import Commit, State
from backtest_kit.validation import is_due, price_faults, shape_faults


class Operations:
    """Each returns whether it was done: a refusal by the rules is False and changes nothing.

    A wrong argument raises ValueError.

    Attributes:
        now_ms: the minute of the callback.
        price: at which these operations fill: the average price that a live tick of this minute sees.
    """

    __slots__ = ("_rules", "_state", "now_ms", "price")

    def __init__(self, state: State, rules: Rules, now_ms: int, price: float) -> None:
        self._state, self._rules = state, rules
        self.now_ms, self.price = now_ms, price

    @property
    def signal(self) -> SignalView | None:
        """The scheduled or open signal as it stands, with everything that was done in this callback."""
        held = self._state.held
        return held.view() if held else None

    @property
    def _free(self) -> Held | None:
        """The open position, unless it is about to be closed."""
        return None if self._state.closing else self._state.signal

    def pnl(self) -> Pnl | None:
        """Of the open position at `price`."""
        held = self._state.signal
        return held.pnl(self.price, self._rules) if held else None

    def close(self, note: str = "") -> bool:
        """Close the position; it closes at the next step's price, with the reason `closed`.

        Until then every other change of the position is refused.
        """
        if self._state.signal is None:
            return False
        self._state.closing = True
        return self._noted(note)

    def cancel(self, note: str = "") -> bool:
        """Cancel the scheduled signal at the next step, with the reason `user`. False: it is about to be activated."""
        if self._state.schedule is None or self._state.activating:
            return False
        self._state.cancelling = True
        return self._noted(note)

    def activate(self, note: str = "") -> bool:
        """Open the scheduled signal at the next step, at its price_open. False: it is about to be cancelled."""
        if self._state.schedule is None or self._state.cancelling:
            return False
        self._state.activating = True
        return self._noted(note)

    def partial_profit(self, percent: float) -> bool:
        """Close `percent` (0..100] of the basis that remains, in profit and short of the take profit."""
        held = self._sold(percent)
        if held is None or held.gain(self.price, held.entry) <= 0 or held.gain(self.price, held.take) >= 0:
            return False
        return self._sell(held, "profit", percent)

    def partial_loss(self, percent: float) -> bool:
        """The same on the losing side, short of the stop."""
        held = self._sold(percent)
        if held is None or held.gain(self.price, held.entry) >= 0 or held.gain(self.price, held.stop) <= 0:
            return False
        return self._sell(held, "loss", percent)

    def _sold(self, percent: float) -> Held | None:
        if not (_is_finite(percent) and 0 < percent <= 100):
            raise ValueError(f"percent must be above 0 and at most 100, not {percent!r}")
        return self._free

    def _sell(self, held: Held, kind: Literal["profit", "loss"], percent: float) -> bool:
        basis = held.remaining()
        held.partials.append(Partial(kind, percent, self.price, basis, len(held.entries), self.now_ms))
        self._done(f"partial-{kind}", percent, self.price, basis * percent / 100)
        self._state.closing = held.remaining() <= 0  # Nothing is left: the next step closes it.
        return True

    def breakeven(self) -> bool:
        """Set the stop to the effective entry, from the threshold on.

        True without a change if the stop lies beyond the entry already; False if it is there.
        """
        held = self._free
        if held is None or held.trailing_stop == held.entry:
            return False
        if held.trailing_stop is not None and held.gain(held.trailing_stop, held.entry) > 0:
            return self._done("breakeven", None, self.price)
        if held.gain(self.price, breakeven_price(held.sign, held.entry, self._rules)) < 0:
            return False
        held.trailing_stop = held.entry
        return self._done("breakeven", None, self.price)

    def trailing_stop(self, shift: float, price: float | None = None) -> bool:
        """Move the stop: its original distance from the entry in percent, plus `shift`. Later calls only tighten.

        Refused if `price` (None: that of these operations) has crossed the new stop already.
        """
        held = self._shifted(shift)
        if held is None:
            return False
        market = self.price if price is None else price
        distance = abs(held.entry - held.stop_loss) / held.entry * 100 + shift
        stop = held.entry * (1 - held.sign * distance / 100)
        if held.gain(market, stop) <= 0 or held.gain(stop, held.take) >= 0:
            return False
        if held.trailing_stop is not None and held.gain(stop, held.trailing_stop) <= 0:
            return False
        held.trailing_stop = stop
        return self._done("trailing-stop", shift, market)

    def trailing_take(self, shift: float, price: float | None = None) -> bool:
        """Move the take profit in the same way. Later calls only bring it nearer."""
        held = self._shifted(shift)
        if held is None:
            return False
        market = self.price if price is None else price
        distance = abs(held.take_profit - held.entry) / held.entry * 100 + shift
        take = held.entry * (1 + held.sign * distance / 100)
        if held.gain(market, take) >= 0 or held.gain(take, held.stop) <= 0:
            return False
        if held.trailing_take is not None and held.gain(take, held.trailing_take) >= 0:
            return False
        held.trailing_take = take
        return self._done("trailing-take", shift, market)

    def _shifted(self, shift: float) -> Held | None:
        if not (_is_finite(shift) and -100 <= shift <= 100 and shift != 0):
            raise ValueError(f"shift must be a percentage from -100 to 100 and not 0, not {shift!r}")
        return self._free

    def average_buy(self, cost: float | None = None) -> bool:
        """Add to the position at a better price than every earlier entry. None: the rules' cost."""
        cost = self._rules.default_cost if cost is None else cost
        if not (_is_finite(cost) and cost > 0):
            raise ValueError(f"cost must be a positive number, not {cost!r}")
        held = self._free
        if held is None or any(held.gain(self.price, entry.price) >= 0 for entry in held.entries):
            return False
        held.add(Entry(self.price, cost, self.now_ms))
        return self._done("average-buy", cost, self.price, cost)

    def create_signal(self, proposal: Proposal) -> bool:
        """Queue a signal: the next minute takes it instead of asking `get_signal`, whatever the interval.

        False: a signal is scheduled, open or queued already, or its prices do not fit the market's.
        """
        if not isinstance(proposal, Proposal):
            raise ValueError(f"create_signal takes bt.long(..) or bt.short(..), not {proposal!r:.80}")
        price = self.price if proposal.price_open is None else proposal.price_open
        if wrong := shape_faults(proposal, price, self._rules):
            raise ValueError("; ".join(wrong))
        if self._state.held is not None or self._state.created is not None:
            return False
        if price_faults(proposal, price, self.price if is_due(proposal, self.price) else None, self._rules):
            return False
        self._state.created = proposal
        return self._noted("")

    def pause(self, is_paused: bool = True) -> bool:
        """Ask for no new signals until `pause(False)`. What is open goes on."""
        self._state.is_paused = is_paused
        return self._noted("")

    def _noted(self, note: str) -> bool:
        self._state.note, self._state.is_changed = note or self._state.note, True
        return True

    def _done(self, kind: str, amount: float | None, price: float, cost: float = 0.0) -> bool:
        held = self._free
        assert held is not None
        self._state.commits.append(Commit(kind, amount, price, self.now_ms, cost, held.order_count))
        held.order_count += 1
        self._state.is_changed = True
        return True


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
