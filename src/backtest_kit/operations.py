"""What a strategy may do in a callback."""

from __future__ import annotations

from typing import Protocol

from backtest_kit.signals import Pnl, Proposal, SignalView


class Operations(Protocol):
    """Each returns whether it was done: a refusal by the rules is False and changes nothing.

    A wrong argument raises ValueError. Prices are those of the minute of the callback.
    """

    @property
    def now_ms(self) -> int: ...

    @property
    def price(self) -> float:
        """At which these operations fill: the average price that a live tick of this minute sees."""

    @property
    def signal(self) -> SignalView | None:
        """The scheduled or open signal as it stands, with everything that was done in this callback."""

    def pnl(self) -> Pnl | None:
        """Of the open position at `price`."""

    def close(self, note: str = "") -> bool:
        """Close the position; it closes at the next step's price, with the reason `closed`."""

    def cancel(self, note: str = "") -> bool:
        """Cancel the scheduled signal at the next step, with the reason `user`."""

    def activate(self, note: str = "") -> bool:
        """Open the scheduled signal at the next step, at its price_open."""

    def partial_profit(self, percent: float) -> bool:
        """Close `percent` (0..100] of the basis that remains, in profit and short of the take profit."""

    def partial_loss(self, percent: float) -> bool:
        """The same on the losing side, short of the stop."""

    def breakeven(self) -> bool:
        """Set the stop to the effective entry, from the threshold on. True as well if a stop lies beyond it already."""

    def trailing_stop(self, shift: float, price: float | None = None) -> bool:
        """Move the stop: its original distance from the entry in percent, plus `shift`. Later calls only tighten.

        Refused if `price` (None: that of these operations) has crossed the new stop already.
        """

    def trailing_take(self, shift: float, price: float | None = None) -> bool:
        """Move the take profit in the same way. Later calls only bring it nearer."""

    def average_buy(self, cost: float | None = None) -> bool:
        """Add to the position at a better price than every earlier entry. None: the rules' cost."""

    def create_signal(self, proposal: Proposal) -> bool:
        """Queue a signal: it is taken as soon as the context is idle. The last one wins."""

    def pause(self, is_paused: bool = True) -> bool:
        """Ask for no new signals until `pause(False)`. What is open goes on."""
