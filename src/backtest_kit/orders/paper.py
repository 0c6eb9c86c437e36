"""A broker for paper: everything is filled at once, at the engine's price worsened by the slippage."""

from __future__ import annotations

from collections.abc import Sequence

from backtest_kit.orders.broker import BrokerOrder, BrokerPosition, OrderState
from backtest_kit.rules import DEFAULT, Rules


class PaperBroker:
    """Knows nothing of earlier orders: nothing real was sent, so nothing can be sent twice."""

    def __init__(self, rules: Rules = DEFAULT) -> None:
        self._slippage = rules.slippage_percent / 100

    def submit(self, order: BrokerOrder) -> OrderState:
        worse = 1 + self._slippage if order.side == "buy" else 1 - self._slippage
        return OrderState(order.client_order_id, "done", order.quantity, order.price * worse)

    def find(self, client_order_id: str, symbol: str) -> OrderState | None:
        return None

    def cancel(self, client_order_id: str, symbol: str) -> OrderState:
        return OrderState(client_order_id, "cancelled", 0.0)

    def positions(self, symbol: str) -> Sequence[BrokerPosition]:
        return ()
