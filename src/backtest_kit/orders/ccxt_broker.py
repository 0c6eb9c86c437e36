"""Orders through ccxt (`pip install 'backtest-kit-mongo[ccxt]'`), or through anything with its unified interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from backtest_kit.orders.broker import (
    BrokerOrder,
    BrokerPosition,
    BrokerUnavailable,
    OrderRefused,
    OrderState,
    Status,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

REFUSALS: Final = frozenset({"InsufficientFunds", "InvalidOrder", "BadSymbol", "NotSupported", "MarketClosed"})
"""ccxt's errors after which the order was certainly not executed and would be refused again. Everything else, an
unknown error of the exchange too, may be a lost reply: the order is looked up before anything is sent again."""
STATUSES: Final[Mapping[str, Status]] = {
    "open": "working", "closed": "done", "canceled": "cancelled", "expired": "cancelled", "rejected": "refused",
}  # fmt: skip


class CcxtBroker:
    """Market orders with client order ids.

    Args:
        exchange: a ccxt exchange (the synchronous kind) with its credentials. Its markets are loaded on first use.
    """

    def __init__(self, exchange: Any) -> None:
        self._exchange = exchange

    def __repr__(self) -> str:
        return f"<ccxt broker at {getattr(self._exchange, 'id', '?')}>"

    def submit(self, order: BrokerOrder) -> OrderState:
        with _classified(self._exchange):
            market = self._market(order.symbol)
            amount = float(self._exchange.amount_to_precision(order.symbol, order.quantity))
            self._check_size(market, order, amount)
            params: dict[str, Any] = {"clientOrderId": order.client_order_id}
            if order.reduce_only and not market.get("spot", True):
                params["reduceOnly"] = True
            try:
                answer = self._exchange.create_order(order.symbol, "market", order.side, amount, None, params)
            except Exception as cause:
                if not _is(cause, "DuplicateOrderId"):
                    raise
                found = self.find(order.client_order_id, order.symbol)
                if found is None:
                    raise BrokerUnavailable(
                        f"{self!r} knows the order {order.client_order_id} and does not show it"
                    ) from cause
                return found
        return _state(order.client_order_id, answer)

    def find(self, client_order_id: str, symbol: str) -> OrderState | None:
        with _classified(self._exchange):
            self._market(symbol)
            try:
                answer = self._exchange.fetch_order(None, symbol, {"clientOrderId": client_order_id})
            except Exception as cause:
                if _is(cause, "OrderNotFound"):
                    return None
                raise
        return _state(client_order_id, answer)

    def cancel(self, client_order_id: str, symbol: str) -> OrderState:
        said = ""
        try:
            self._exchange.cancel_order(None, symbol, {"clientOrderId": client_order_id})
        except Exception as cause:
            # Of an order that was filled or ended before, each exchange says something else, and a reply may be lost:
            # the order's state decides.
            said = f" ({_reported(self._exchange, cause)})"
        found = self.find(client_order_id, symbol)
        if found is None or found.status == "working":
            state = "does not show it" if found is None else "shows it as working"
            raise BrokerUnavailable(
                f"{self!r} was told to cancel the order {client_order_id}{said} and {state}; it is looked up again"
            )
        return found

    def positions(self, symbol: str) -> Sequence[BrokerPosition]:
        """The free balance of the base currency on a spot market, the contracts on another."""
        with _classified(self._exchange):
            market = self._market(symbol)
            if market.get("spot", True):
                free = self._exchange.fetch_balance().get("free", {}).get(market["base"])
                return () if free is None else (BrokerPosition(symbol, float(free)),)
            found = self._exchange.fetch_positions([symbol])
            size = float(market.get("contractSize") or 1.0)
        signs = {"long": 1, "short": -1}
        return tuple(
            BrokerPosition(symbol, signs.get(position["side"], 1) * float(position["contracts"] or 0.0) * size)
            for position in found
        )

    def _market(self, symbol: str) -> Mapping[str, Any]:
        self._exchange.load_markets()
        found: Mapping[str, Any] = self._exchange.market(symbol)
        return found

    def _check_size(self, market: Mapping[str, Any], order: BrokerOrder, amount: float) -> None:
        limits = market.get("limits") or {}
        for name, value in (("amount", amount), ("cost", amount * order.price)):
            least = (limits.get(name) or {}).get("min")
            if value <= 0 or (least is not None and value < least):
                raise OrderRefused(f"{name} {value:g} of {order.symbol} is below what {self!r} takes ({least or 0:g})")


def _is(error: BaseException, name: str) -> bool:
    """By the class' name: ccxt is imported by those who use it alone, and an exchange of one's own may have no ccxt."""
    return any(kind.__name__ == name for kind in type(error).__mro__)


@contextmanager
def _classified(exchange: Any) -> Iterator[None]:
    try:
        yield
    except (BrokerUnavailable, OrderRefused):
        raise
    except Exception as cause:
        reported = _reported(exchange, cause)
        if any(_is(cause, name) for name in REFUSALS) and not _is(cause, "OrderNotFound"):
            raise OrderRefused(reported) from cause
        raise BrokerUnavailable(
            f"{reported}. Whether the order was executed is not known; it is looked up before anything is sent again"
        ) from cause


def _reported(exchange: Any, cause: BaseException) -> str:
    return f"{getattr(exchange, 'id', 'exchange')}: {type(cause).__name__}: {cause!s:.200}"


def _state(client_order_id: str, answer: Mapping[str, Any]) -> OrderState:
    """A bare acknowledgement without a status counts as working: the next question tells more."""
    status = STATUSES.get(str(answer.get("status") or "open"), "working")
    filled = float(answer.get("filled") or 0.0)
    average = answer.get("average")
    return OrderState(client_order_id, status, filled, None if average is None else float(average))
