"""Claims of runs, with rows in memory: whatever workers do in whatever order, a run has one result."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from backtest_kit.identity import ContextId
from backtest_kit.results import Result
from backtest_kit.rules import DEFAULT
from backtest_kit.runs.code import Source
from backtest_kit.runs.ledger import Claim, ClaimLost, Ledger, Row, root_of
from backtest_kit.runs.plan import Plan, Run

RUN = Run("r" * 32, {"fast": 1}, "AAA", "f", 0, 60_000, "c")
PLAN = Plan("study", Source("s", None, "code"), "e", DEFAULT, False, (RUN,), ())
RESULT = Result(ContextId("AAA", "s", "e"), 0, 60_000)
LEASE_S = 10.0


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def make(memory_rows: Callable[[], Any]) -> Callable[..., Ledger]:
    rows, clock = memory_rows(), Clock()

    def made(pool: str = "", attempts: int = 5) -> Ledger:
        ledger = Ledger(rows, LEASE_S, attempts, pool, clock)
        ledger.clock = clock  # type: ignore[attr-defined]
        return ledger

    return made


def claimed(ledger: Ledger, **how: Any) -> Claim:
    found = ledger.claim(PLAN, RUN, **how)
    assert isinstance(found, Claim)
    return found


def test_a_run_that_somebody_does_is_nobody_elses_and_a_result_is_answered(make: Callable[..., Ledger]) -> None:
    claim = claimed(make())
    assert make().claim(PLAN, RUN) is None
    done = claim.done(RESULT)
    assert make().claim(PLAN, RUN) == done
    assert make().read(RUN.run_id) == done
    assert make("mine").claim(PLAN, RUN, again=True, dead=("",)) == done, "it was done a moment ago"
    assert isinstance(make("mine").claim(PLAN, RUN, again=True), Claim)


def test_a_claim_that_does_not_change_for_its_lease_is_taken_over_and_its_worker_stores_nothing(
    make: Callable[..., Ledger],
) -> None:
    sleeper, watcher = claimed(make()), make()
    clock = watcher._clock
    assert watcher.watch(RUN.run_id) is None
    clock.now = LEASE_S  # type: ignore[attr-defined]
    sleeper.renew()
    clock.now = LEASE_S + 1  # type: ignore[attr-defined]
    assert watcher.watch(RUN.run_id) is None, "it was renewed"
    clock.now = 2 * LEASE_S + 2  # type: ignore[attr-defined]
    over = watcher.watch(RUN.run_id)
    assert isinstance(over, int)
    second = claimed(make(), over=over)
    assert second.row.attempt == 2
    with pytest.raises(ClaimLost, match="taken over"):
        sleeper.done(RESULT)
    done = second.done(RESULT)
    with pytest.raises(ClaimLost):
        sleeper.failed("late")
    assert make().read(RUN.run_id) == done


def test_a_revision_that_was_renewed_after_it_was_watched_is_not_taken(make: Callable[..., Ledger]) -> None:
    first, watcher = claimed(make()), make()
    watcher.watch(RUN.run_id)
    watcher._clock.now = LEASE_S + 1  # type: ignore[attr-defined]
    over = watcher.watch(RUN.run_id)
    first.renew()
    assert isinstance(over, int)
    assert make().claim(PLAN, RUN, over=over) is None


def test_what_a_pool_that_has_ended_held_is_taken_at_once_until_it_has_cost_too_many_workers(
    make: Callable[..., Ledger],
) -> None:
    for attempt in range(3):
        claim = claimed(make(f"pool{attempt}", attempts=3), dead=(f"pool{attempt - 1}",))
        assert claim.row.attempt == attempt + 1
    assert make("pool9", attempts=3).claim(PLAN, RUN, dead=("pool1",)) is None
    found = make("pool9", attempts=3).claim(PLAN, RUN, dead=("pool2",))
    assert isinstance(found, Row)
    assert found.status == "failed"
    assert "3 workers ended" in found.error


def test_in_any_order_of_claims_renewals_sleeps_and_results_one_result_stays(
    memory_rows: Callable[[], Any],
) -> None:
    ended = sum(one_result_stays(random.Random(seed), memory_rows()) for seed in range(200))
    assert ended > 50


def one_result_stays(source: random.Random, rows: Any) -> bool:
    """Three workers do anything in any order; whether there is a result in the end."""
    clock, seen = Clock(), dict[int, int]()
    workers, claims, results = [Ledger(rows, LEASE_S, 99, "", clock) for _ in range(3)], list[Claim](), list[Row]()
    for _ in range(40):
        who = source.randrange(3)
        clock.now += source.choice((0, 1, LEASE_S + 1))
        deed = source.choice(("claim", "watch", "watch", "renew", "done"))
        if deed == "claim" and isinstance(found := workers[who].claim(PLAN, RUN, over=seen.get(who, -1)), Claim):
            claims.append(found)
        elif deed == "watch" and isinstance(over := workers[who].watch(RUN.run_id), int):
            seen[who] = over
        elif deed == "renew" and claims:
            source.choice(claims).renew()
        elif deed == "done" and len(claims) > 1:
            with suppress(ClaimLost):
                results.append(source.choice(claims).done(replace(RESULT, asked=len(results))))
    assert len(results) <= 1
    if results:
        assert workers[0].read(RUN.run_id) == results[0]
    return bool(results)


def test_the_root_depends_on_every_result_and_on_no_order() -> None:
    results = {f"run{index}": f"result{index}" for index in range(7)}
    root = root_of(results)
    assert root_of(dict(reversed(results.items()))) == root
    assert all(root_of({**results, name: "other"}) != root for name in results)
    assert root_of({name: value for name, value in results.items() if name != "run3"}) != root
