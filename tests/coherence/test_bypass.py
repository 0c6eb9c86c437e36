"""The door: when a client may write past a cache that it cannot reach, and when its flag may go. By hand-set clocks."""

from __future__ import annotations

import pytest

from backtest_kit_mongo.coherence.bypass import Door, Flag, Watch, concerns, serve_ms_of
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.table import STATE

ONE, OTHER = (Key(STATE, ("signal", name)) for name in "ab")
SERVE_S, LEASE_S = 1.0, 15.0


def raised(at_s: float = 100.0) -> Door:
    door = Door(SERVE_S)
    door.needs(LEASE_S)
    door.raised(at_s, at_s + 0.5, was_there=False)
    return door


def test_d_is_waited_once_after_the_acknowledgement_and_again_only_if_the_flag_was_gone() -> None:
    door = raised()
    assert door.wait_s(100.5) == pytest.approx(1.01)
    door.raised(101.0, 101.1, was_there=True)
    assert door.wait_s(101.1) == pytest.approx(0.41)
    door.raised(105.0, 105.1, was_there=False)
    assert door.wait_s(105.1) == pytest.approx(1.01)


def test_who_stood_still_finds_the_door_closed_before_anybody_takes_him_for_dead() -> None:
    door, watch = raised(), Watch()
    flag = Flag("me", "*/0", 1, round(door.rest_s * 1000))
    assert watch.dead([flag], 100.0) == []
    last_s = max(at for at in range(100, 200) if door.is_valid(at, LEASE_S))
    assert watch.dead([flag], last_s + LEASE_S) == [], "its last write is over by then"
    assert not door.is_valid(100.0, 4 * LEASE_S), "a longer write needs another beat, which may rest for longer"
    door.needs(4 * LEASE_S)
    door.raised(140.0, 140.5, was_there=True)
    assert door.is_valid(140.5, 4 * LEASE_S)
    flag = flag._replace(beat=2)
    assert watch.dead([flag], 140.0) == []
    assert watch.dead([flag], 172.0) == []
    assert watch.dead([flag], 173.0) == [flag]


def test_a_flag_stays_while_a_write_may_still_be_stored() -> None:
    door = raised()
    door.passes([ONE, OTHER], 102.0, LEASE_S)
    door.passes([ONE], 104.0, LEASE_S)
    assert door.settled([ONE])
    assert door.is_passing
    assert door.overdue(118.9) == (OTHER,), "of two writes of one key the later end counts"
    assert not door.settled([OTHER]), "it is acknowledged too late: others may have been served since"
    assert door.overdue(119.0) == (ONE,)
    assert not door.is_passing


def test_a_flag_closes_its_scope_and_that_of_whoever_counts_partitions_otherwise() -> None:
    assert concerns(Flag("a", "3/8", 1), "3/8")
    assert not concerns(Flag("a", "3/8", 1), "4/8")
    assert concerns(Flag("a", "3/4", 1), "7/8")
    assert [serve_ms_of(lease_ms) for lease_ms in (50, 3_000, 15_000, 600_000)] == [20, 200, 1_000, 1_000]
