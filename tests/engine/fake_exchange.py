"""An exchange with ccxt's interface that loses replies, answers late and fills in parts; its clock is the test's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class ExchangeError(Exception): ...


class InvalidOrder(ExchangeError): ...


class OrderNotFound(InvalidOrder): ...


class DuplicateOrderId(InvalidOrder): ...


class CancelPending(InvalidOrder): ...


class BadRequest(ExchangeError): ...


class InsufficientFunds(ExchangeError): ...


class RequestTimeout(Exception): ...


@dataclass
class Clock:
    """Seconds; pausing moves it."""

    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s

    def pause(self, seconds: float) -> None:
        self.now_s += seconds


@dataclass
class FakeExchange:
    """Attributes:
    lost_replies: so many submissions are executed and time out for the caller.
    late_s: so long after a submission that timed out does the exchange learn of it.
    fill_share: of what is ordered, at once; the rest never.
    funds: of the quote currency.
    least_cost: smaller orders are refused.
    is_filled_by_cancel: what is ordered is filled just before it is cancelled.
    forgets: an order is not shown any more once its cancellation was asked for.
    dialect: what is raised where an order that is over is cancelled; after a RequestTimeout one was cancelled.
    received: every order that arrived, in order.
    """

    clock: Clock
    price: float = 100.0
    id: str = "fake"
    least_cost: float = 5.0
    lost_replies: int = 0
    late_s: float = 0.0
    fill_share: float = 1.0
    funds: float = 1e9
    base: float = 0.0
    is_filled_by_cancel: bool = False
    forgets: bool = False
    dialect: type[Exception] = OrderNotFound
    received: list[dict[str, Any]] = field(default_factory=list)
    _late: list[tuple[float, dict[str, Any]]] = field(default_factory=list)

    def load_markets(self) -> None: ...

    def market(self, symbol: str) -> Mapping[str, Any]:
        return {"symbol": symbol, "base": "BTC", "spot": True, "limits": {"cost": {"min": self.least_cost}}}

    def amount_to_precision(self, symbol: str, amount: float) -> str:
        return f"{amount:.8f}"

    def create_order(
        self, symbol: str, kind: str, side: str, amount: float, price: float | None, params: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        order = {"clientOrderId": params["clientOrderId"], "side": side, "amount": amount}
        if self.lost_replies:
            self.lost_replies -= 1
            self._late.append((self.clock() + self.late_s, order))
            raise RequestTimeout("no reply")
        return self._receive(order)

    def _receive(self, order: dict[str, Any]) -> Mapping[str, Any]:
        if any(known["clientOrderId"] == order["clientOrderId"] for known in self.received):
            raise DuplicateOrderId(order["clientOrderId"])
        if order["side"] == "buy" and order["amount"] * self.price > self.funds:
            raise InsufficientFunds("not enough")
        if order["side"] == "sell" and order["amount"] > self.base + 1e-9:
            raise InsufficientFunds("not enough to sell")
        filled = order["amount"] * self.fill_share
        self.base += filled if order["side"] == "buy" else -filled
        order |= {"filled": filled, "average": self.price, "status": "closed" if self.fill_share == 1 else "open"}
        self.received.append(order)
        return order

    def _arrive(self) -> None:
        due = [order for moment, order in self._late if moment <= self.clock()]
        self._late = [(moment, order) for moment, order in self._late if moment > self.clock()]
        for order in due:
            self._receive(order)

    def fetch_order(self, order_id: None, symbol: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        self._arrive()
        for order in self.received:
            if order["clientOrderId"] == params["clientOrderId"] and not order.get("forgotten"):
                return order
        raise OrderNotFound(params["clientOrderId"])

    def cancel_order(self, order_id: None, symbol: str, params: Mapping[str, Any]) -> None:
        order = next(one for one in self.received if one["clientOrderId"] == params["clientOrderId"])
        if self.is_filled_by_cancel:
            self.base += order["amount"] - order["filled"]
            order |= {"filled": order["amount"], "status": "closed"}
        if self.forgets:
            order["forgotten"] = True
        elif order["status"] == "open":
            order["status"] = "canceled"
            if self.dialect is not RequestTimeout:
                return
        raise self.dialect(params["clientOrderId"])

    def fetch_balance(self) -> Mapping[str, Any]:
        self._arrive()
        return {"free": {"BTC": self.base}}
