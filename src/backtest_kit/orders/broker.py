"""What a broker must offer, and the order as it sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeAlias

import backtest_kit_mongo as bk
from backtest_kit.effects import Order
from backtest_kit.identity import digest

Side: TypeAlias = Literal["buy", "sell"]
Status: TypeAlias = Literal["working", "done", "cancelled", "refused"]


class BrokerUnavailable(bk.EnvironmentFault):
    """The broker could not be asked, or did not answer. The order may have been executed; it is looked up before
    anything is sent again."""


class OrderRefused(bk.BacktestKitError):
    """The broker refuses the order for good (funds, size, symbol). It was not executed and is not sent again."""


@dataclass(frozen=True, slots=True)
class BrokerOrder:
    """A market order.

    Attributes:
        client_order_id: 32 hexadecimal characters, the same whenever the same order is sent.
        quantity: of the base currency.
        price: at which the engine reckons it, for brokers that turn market orders into limits.
        reduce_only: it may close a position and never open one.
    """

    client_order_id: str
    symbol: str
    side: Side
    quantity: float
    price: float
    reduce_only: bool


class OrderState(NamedTuple):
    """What a broker knows of an order.

    Attributes:
        filled: of the base currency.
        average: price of what is filled; None if nothing is.
        reason: of a refusal or a cancellation, in the broker's words.
    """

    client_order_id: str
    status: Status
    filled: float
    average: float | None = None
    reason: str = ""


class BrokerPosition(NamedTuple):
    """What an account holds of a symbol: `quantity` of the base currency, negative if it is short."""

    symbol: str
    quantity: float


class Broker(Protocol):
    """Every method may raise `BrokerUnavailable`."""

    def submit(self, order: BrokerOrder) -> OrderState:
        """Send an order.

        Raises:
            OrderRefused: it is refused for good.
        """

    def find(self, client_order_id: str, symbol: str) -> OrderState | None:
        """The order of that id; None: the broker has none."""

    def cancel(self, client_order_id: str, symbol: str) -> OrderState:
        """End a working order; what is filled stays filled. An order that is not working any more is answered as it
        is.
        """

    def positions(self, symbol: str) -> Sequence[BrokerPosition]:
        """What the account holds of the symbol; empty: nothing, or the broker does not tell."""


def client_order_id(order: Order, part: int = 0, owner: str = "") -> str:
    """L2: a pure function of signal, action and number, so that a restarted process asks for the very same order.

    `part` numbers what is sent after an earlier part was only filled in part. A strategy may give its signals ids of
    its own, the same one to several: the signal's minute and `owner`, the context, keep their orders apart.
    """
    signal = order.signal
    return digest(owner, signal.id, signal.scheduled_at, order.action, order.number, part)


def side_of(order: Order) -> Side:
    is_buying = (order.signal.position == "long") == (order.action in ("open", "average"))
    return "buy" if is_buying else "sell"
