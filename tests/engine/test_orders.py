"""L2: an order reaches the broker at most once, whatever gets lost on the way."""

from __future__ import annotations

import pytest

from backtest_kit.effects import Order
from backtest_kit.orders.broker import BrokerUnavailable
from backtest_kit.orders.ccxt_broker import CcxtBroker
from backtest_kit.orders.gate import OrderGate
from backtest_kit.orders.paper import PaperBroker
from backtest_kit.signals import Entry, Extreme, SignalView

from .fake_exchange import (
    BadRequest,
    CancelPending,
    Clock,
    ExchangeError,
    FakeExchange,
    InvalidOrder,
    OrderNotFound,
    RequestTimeout,
)

NOTHING = Extreme(0.0, 0, 0.0)
SIGNAL = SignalView(
    "s1", "long", 100.0, 110.0, 90.0, 100.0, 110.0, 90.0, 60, 100.0, "", 0, 0, (Entry(100.0, 100.0, 0),), (), 0.0,
    NOTHING, NOTHING,
)  # fmt: skip
OPEN = Order("open", SIGNAL, 0, 0, 100.0, 100.0)
CLOSE = Order("close", SIGNAL, 1, 60_000, 101.0, 100.0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def exchange(clock: Clock) -> FakeExchange:
    return FakeExchange(clock)


@pytest.fixture
def gate(exchange: FakeExchange) -> OrderGate:
    return a_gate(exchange)


def a_gate(exchange: FakeExchange) -> OrderGate:
    """As a new process has it."""
    return OrderGate(CcxtBroker(exchange), "BTC/USDT", clock_s=exchange.clock, pause_s=exchange.clock.pause)


def test_what_is_opened_is_closed_whole(gate: OrderGate, exchange: FakeExchange) -> None:
    assert gate.execute(OPEN, is_repeat=False)
    assert exchange.base == 1.0
    assert gate.execute(CLOSE, is_repeat=False)
    assert exchange.base == 0.0
    assert [order["side"] for order in exchange.received] == ["buy", "sell"]


@pytest.mark.parametrize("late_s", [0.0, 3.0])
def test_an_order_whose_reply_was_lost_is_looked_up_and_not_sent_again(
    gate: OrderGate, exchange: FakeExchange, late_s: float
) -> None:
    exchange.lost_replies, exchange.late_s = 1, late_s
    with pytest.raises(BrokerUnavailable, match="looked up before"):
        gate.execute(OPEN, is_repeat=False)
    assert gate.execute(OPEN, is_repeat=False)
    assert len(exchange.received) == 1


def test_a_restarted_process_waits_for_an_order_that_may_be_on_its_way(gate: OrderGate, exchange: FakeExchange) -> None:
    exchange.lost_replies, exchange.late_s = 1, 3.0
    with pytest.raises(BrokerUnavailable):
        gate.execute(OPEN, is_repeat=False)
    assert a_gate(exchange).execute(OPEN, is_repeat=True)
    assert len(exchange.received) == 1


def test_an_order_that_never_arrived_is_sent_again_under_the_same_id(gate: OrderGate, exchange: FakeExchange) -> None:
    exchange.lost_replies, exchange.late_s = 1, 1e9
    with pytest.raises(BrokerUnavailable):
        gate.execute(OPEN, is_repeat=False)
    assert gate.execute(OPEN, is_repeat=False)
    assert len(exchange.received) == 1


def test_an_entry_that_is_filled_in_part_counts_and_its_rest_is_cancelled(
    gate: OrderGate, exchange: FakeExchange
) -> None:
    exchange.fill_share = 0.25
    assert gate.execute(OPEN, is_repeat=False)
    assert [(order["filled"], order["status"]) for order in exchange.received] == [(0.25, "canceled")]


@pytest.mark.parametrize(
    "dialect", [OrderNotFound, InvalidOrder, CancelPending, BadRequest, ExchangeError, RequestTimeout]
)
def test_of_a_cancellation_that_comes_too_late_the_orders_state_decides(
    gate: OrderGate, exchange: FakeExchange, dialect: type[Exception]
) -> None:
    exchange.fill_share, exchange.dialect, exchange.is_filled_by_cancel = 0.25, dialect, True
    assert gate.execute(OPEN, is_repeat=False)
    assert (exchange.base, len(exchange.received)) == (1.0, 1)


def test_an_order_that_was_known_and_is_not_shown_is_never_sent_again(gate: OrderGate, exchange: FakeExchange) -> None:
    exchange.fill_share, exchange.forgets = 0.25, True
    with pytest.raises(BrokerUnavailable, match=r"OrderNotFound.* does not show it"):
        gate.execute(OPEN, is_repeat=False)
    with pytest.raises(BrokerUnavailable, match="not sent again"):
        gate.execute(OPEN, is_repeat=False)
    assert len(exchange.received) == 1


def test_a_close_that_is_filled_in_part_goes_on_with_the_rest(gate: OrderGate, exchange: FakeExchange) -> None:
    gate.execute(OPEN, is_repeat=False)
    exchange.fill_share, exchange.least_cost = 0.5, 0.0
    with pytest.raises(BrokerUnavailable, match="closed after"):
        gate.execute(CLOSE, is_repeat=False)
    assert exchange.base == pytest.approx(2**-10, abs=1e-7)
    exchange.fill_share = 1.0
    # A restart adds up what the parts sold, and sends what is left.
    assert a_gate(exchange).execute(CLOSE, is_repeat=True)
    assert exchange.base == pytest.approx(0.0, abs=1e-7)
    assert len(exchange.received) == 12


def test_a_close_never_sells_more_than_the_account_holds(gate: OrderGate, exchange: FakeExchange) -> None:
    gate.execute(OPEN, is_repeat=False)
    exchange.base = 0.4  # Somebody sold by hand, or fees were taken.
    assert gate.execute(CLOSE, is_repeat=False)
    assert exchange.base == 0.0


def test_a_refusal_is_an_answer_and_nothing_is_held(gate: OrderGate, exchange: FakeExchange) -> None:
    exchange.funds = 10.0
    assert not gate.execute(OPEN, is_repeat=False)
    assert not gate.execute(OPEN._replace(cost=1.0), is_repeat=False)  # Below the least size.
    assert exchange.received == []


def test_a_process_that_was_replaced_sends_nothing(gate: OrderGate, exchange: FakeExchange) -> None:
    def replaced() -> None:
        raise BrokerUnavailable("replaced")

    gate.may_send = replaced
    with pytest.raises(BrokerUnavailable, match="replaced"):
        gate.execute(OPEN, is_repeat=False)
    assert exchange.received == []


def test_paper_fills_at_once_with_slippage() -> None:
    assert OrderGate(PaperBroker(), "BTC/USDT").execute(OPEN, is_repeat=False)
