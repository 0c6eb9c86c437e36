"""A position survives a stop at every instant; a mistake in what is stored when does not go unnoticed."""

from __future__ import annotations

import pytest

from backtest_kit.rules import DEFAULT
from backtest_kit_verify.engine.campaign import Tally, crash_everywhere, refuse_everywhere
from backtest_kit_verify.engine.planted import BUGS, BUGS_OF_REFUSALS
from backtest_kit_verify.engine.process import Process
from tests.engine.recorded import vectors
from tests.engine.support import at

VECTOR = next(vector for vector in vectors() if vector["seed"] == 13)


def test_a_restart_after_any_effect_goes_on_as_if_nothing_had_been() -> None:
    tally = Tally()
    crash_everywhere(VECTOR, DEFAULT, tally, every=11)
    assert tally.violations == []
    assert tally.points > 100
    assert tally.lost < tally.restarts / 4


@pytest.mark.parametrize("process_class", BUGS.values(), ids=BUGS.keys())
def test_a_planted_mistake_is_found(process_class: type[Process]) -> None:
    tally = Tally()
    crash_everywhere(VECTOR, DEFAULT, tally, process_class=process_class, every=5)
    assert tally.violations


def test_what_the_broker_refuses_is_not_held_wherever_the_process_stops() -> None:
    tally = Tally()
    refuse_everywhere(VECTOR, DEFAULT, tally, every=4)
    assert tally.violations == []
    assert tally.refused > 3


def test_an_order_that_is_refused_leaves_those_of_the_same_minute_percents_of_what_is_left() -> None:
    prices = [100.0] * 30 + [99.7] * 120
    acts = [{"minute": 15, "do": "average_buy", "cost": 50}]
    acts += [{"minute": 15, "do": "partial_loss", "percent": percent} for percent in (10, 100)]
    vector = {
        "frame": {"start": at(0), "end": at(130)},
        "candles": [[at(minute - 10), *[price] * 4, 1.0] for minute, price in enumerate(prices)],
        "plan": [{"at": at(10), "position": "long", "tp": 2, "sl": 2, "note": "n", "acts": acts}],
    }
    tally = Tally()
    refuse_everywhere(vector, DEFAULT, tally)
    assert tally.violations == []
    assert tally.refused == 5  # Open, average, two parts, close.


@pytest.mark.parametrize("process_class", BUGS_OF_REFUSALS.values(), ids=BUGS_OF_REFUSALS.keys())
def test_a_planted_mistake_about_refusals_is_found(process_class: type[Process]) -> None:
    tally = Tally()
    refuse_everywhere(VECTOR, DEFAULT, tally, process_class=process_class)
    assert tally.violations
