"""The original's own acceptance scenarios, to four decimals."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backtest_kit.events import ACTIONS, Event
from backtest_kit.operations import Operations
from backtest_kit.risk import RiskBook, RiskRequest
from backtest_kit.rules import ORIGINAL
from backtest_kit.signals import Proposal, long, short
from tests.engine.support import Planned, at, flat, once, play

VWAP = replace(ORIGINAL, stop_rule="vwap")


def test_a_long_opens_at_the_market_and_closes_at_its_take_profit() -> None:
    port = Planned(once(long(take_profit=101, stop_loss=95, minutes=30)))
    play(flat((0, 100), (10, 102)), port, VWAP)
    assert port.reported("opened", "closed") == [("opened", 0, 100, None), ("closed", 12, 101, "take_profit")]
    assert port.pnls == [0.5974]
    assert port.asked == [0, *range(13, 61)]


@pytest.mark.parametrize(
    ("proposal", "stop_rule", "minute", "price", "reason", "pnl"),
    [
        (long(take_profit=110, stop_loss=98, minutes=30), "vwap", 13, 98, "stop_loss", -2.3936),
        (long(take_profit=110, stop_loss=98, minutes=30), "touch", 10, 98, "stop_loss", -2.3936),
        (short(take_profit=98, stop_loss=105, minutes=30), "vwap", 13, 98, "take_profit", 1.6056),
    ],
)
def test_a_stop_is_hit_by_the_average_or_by_a_touch(
    proposal: Proposal, stop_rule: str, minute: int, price: float, reason: str, pnl: float
) -> None:
    port = Planned(once(proposal))
    play(flat((0, 100), (10, 97)), port, replace(ORIGINAL, stop_rule=stop_rule))  # type: ignore[arg-type]
    assert port.reported("closed") == [("closed", minute, price, reason)]
    assert port.pnls == [pnl]


@pytest.mark.parametrize(
    ("later", "proposal", "closed", "pnl"),
    [
        (102, long(take_profit=101, stop_loss=95, minutes=30, price_open=99), (22, 101, "take_profit"), 1.6145),
        (100, long(take_profit=110, stop_loss=95, minutes=15, price_open=99), (25, 100, "time_expired"), 0.6075),
    ],
)
def test_a_scheduled_signal_opens_at_its_price_and_expires_from_there(
    later: float, proposal: Proposal, closed: tuple[int, float, str], pnl: float
) -> None:
    candles = flat((0, 100), (20, later))
    candles.low[20] = 98.9  # Minute 10.
    port = Planned(once(proposal))
    play(candles, port, replace(VWAP, vwap_candles=5), (0, 200))
    minute, price, reason = closed
    assert port.reported("scheduled", "opened", "closed") == [
        ("scheduled", 0, 100, None),
        ("opened", 10, 99, None),
        ("closed", minute, pytest.approx(price, abs=0.05), reason),
    ]
    assert port.pnls == [pytest.approx(pnl, abs=1e-4)]


def test_a_price_open_that_is_reached_already_opens_at_once_and_at_that_price() -> None:
    port = Planned(once(long(take_profit=103, stop_loss=95, minutes=30, price_open=101)))
    play(flat((0, 100), (10, 104)), port, VWAP)
    assert port.reported("opened", "closed") == [("opened", 0, 101, None), ("closed", 13, 103, "take_profit")]
    assert port.pnls == [1.5747]


def test_the_strategy_is_asked_once_per_slot_and_every_minute_while_a_risk_rejects() -> None:
    port = Planned(lambda minute: None, interval_minutes=5)
    play(flat((0, 100)), port, VWAP, (2, 21))
    assert port.asked == [2, 5, 10, 15, 20]

    def until_minute_5(request: RiskRequest) -> str:
        return "too early" if request.at < 1_704_067_200_000 + 5 * 60_000 else ""

    port = Planned(lambda minute: long(take_profit=101, stop_loss=95, minutes=30), interval_minutes=60)
    play(flat((0, 100)), port, VWAP, (0, 20), [RiskBook("late", [until_minute_5])])
    assert port.asked == [0, 1, 2, 3, 4, 5]
    assert port.reported("opened") == [("opened", 5, 100, None)]


REFUSED = [
    long(take_profit=100.4, stop_loss=95),
    long(take_profit=105, stop_loss=99.6),
    long(take_profit=105, stop_loss=79),
    long(take_profit=99, stop_loss=95),
    short(take_profit=105, stop_loss=95),
    *(long(take_profit=105, stop_loss=95, minutes=minutes) for minutes in (0, 1.5, 1441)),
    long(take_profit=float("nan"), stop_loss=95),
    long(take_profit=105, stop_loss=95, symbol="ETHUSDT"),
]


@pytest.mark.parametrize("proposal", REFUSED)
def test_a_proposal_that_cannot_be_held_is_refused_by_name_and_keeps_its_slot(proposal: Proposal) -> None:
    port = Planned(lambda minute: proposal, interval_minutes=5)
    play(flat((0, 100)), port, VWAP, (0, 9))
    assert port.asked == [0, 5]
    assert {event.action for event in port.events} == {"invalid"}
    assert all(event.reason for event in port.events)


@pytest.mark.parametrize("prices", [(100.5, 95), (105, 99.5)])
def test_a_target_at_exactly_the_smallest_distance_is_accepted(prices: tuple[float, float]) -> None:
    port = Planned(once(long(take_profit=prices[0], stop_loss=prices[1])))
    play(flat((0, 100)), port, VWAP)
    assert port.reported("opened") == [("opened", 0, 100, None)]


def test_a_queued_signal_waits_for_no_slot_and_the_first_one_that_fits_counts() -> None:
    answers: list[bool] = []

    def act(event: Event, ops: Operations) -> None:
        if event.action == "idle" and event.at == at(7):
            with pytest.raises(ValueError, match="minutes must be a whole number"):
                ops.create_signal(long(take_profit=101, stop_loss=95, minutes=1441))
            offers = [long(take_profit=price, stop_loss=95, minutes=10) for price in (100.1, 101, 102)]
            answers.extend(map(ops.create_signal, offers))  # Too near, taken, one is queued already.

    port = Planned(lambda minute: None, 60, ACTIONS, act)
    play(flat((0, 100)), port, ORIGINAL)
    assert answers == [False, True, False]
    assert port.asked == [0, 60]
    assert [row[:2] for row in port.reported("opened", "closed")] == [("opened", 8), ("closed", 18)]
    assert next(event.signal.take_profit for event in port.events if event.signal) == 101


def test_of_cancelling_and_activating_the_first_counts() -> None:
    def act(event: Event, ops: Operations) -> None:
        if event.action == "schedule_ping":
            assert (ops.activate(), ops.cancel(), ops.activate()) == (True, False, True)

    port = Planned(once(long(take_profit=101, stop_loss=95, price_open=99)), 1, ACTIONS, act)
    play(flat((0, 100)), port, ORIGINAL, (0, 5))
    assert [row[0] for row in port.reported("opened", "cancelled")] == ["opened"]
