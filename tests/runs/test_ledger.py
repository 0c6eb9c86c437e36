"""Claims of runs, with rows in memory: whatever workers do in whatever order, a run has one result."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from backtest_kit.identity import ContextId
from backtest_kit.results import Result
from backtest_kit.rules import DEFAULT
from backtest_kit.runs.code import Source
from backtest_kit.runs.ledger import Claim, Ledger, Row, root_of
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
    found = asked(ledger, **how)
    assert isinstance(found, Claim)
    return found


def asked(ledger: Ledger, over: int = -1, **how: Any) -> Claim | Row | None:
    return ledger.claim(PLAN, [RUN], over={RUN.run_id: over}, **how)[RUN.run_id]


def test_a_run_that_somebody_does_is_nobody_elses_and_a_result_is_answered(make: Callable[..., Ledger]) -> None:
    first = make()
    claim = claimed(first, are_new=True)
    assert asked(make()) is None
    assert asked(make(), are_new=True) is None
    done = claim.done(RESULT)
    assert first.store([(claim, done)]) == [True]
    assert asked(make(), are_new=True) == done
    assert make().read(RUN.run_id) == done
    assert asked(make("mine"), again=True, dead=("",)) == done, "it was done a moment ago"
    assert isinstance(asked(make("mine"), again=True), Claim)


def test_of_a_batch_each_run_is_claimed_and_stored_for_itself(make: Callable[..., Ledger]) -> None:
    runs = [replace(RUN, run_id=name) for name in "abc"]
    one, other = make(), make()
    assert isinstance(one.claim(PLAN, runs[:1])["a"], Claim)
    found = other.claim(PLAN, runs, are_new=True)
    assert [isinstance(found[name], Claim) for name in "abc"] == [False, True, True]
    claims = [claim for claim in found.values() if isinstance(claim, Claim)]
    assert isinstance(one.claim(PLAN, runs, over={"b": claims[0].revision})["b"], Claim)
    assert other.store([(claim, claim.done(RESULT)) for claim in claims]) == [False, True]
    other.give_back(claims)
    assert asked_status(one, "bc") == ["claimed", "done"], "what is lost or done is not given back"


def asked_status(ledger: Ledger, names: str) -> list[str]:
    return [row.status for name in names if (row := ledger.read(name)) is not None]


def test_what_is_given_back_is_anybodys(make: Callable[..., Ledger]) -> None:
    first, second = make(), make()
    first.give_back([claimed(first)])
    over = second.watch(RUN.run_id)
    assert isinstance(over, int)
    assert claimed(second, over=over).row.attempt == 1


def test_a_claim_that_does_not_change_for_its_lease_is_taken_over_and_its_worker_stores_nothing(
    make: Callable[..., Ledger],
) -> None:
    asleep, watcher, awake = make(), make(), make()
    sleeper, clock = claimed(asleep), watcher._clock
    assert watcher.watch(RUN.run_id) is None
    clock.now = LEASE_S  # type: ignore[attr-defined]
    asleep.renew([sleeper])
    clock.now = LEASE_S + 1  # type: ignore[attr-defined]
    assert watcher.watch(RUN.run_id) is None, "it was renewed"
    clock.now = 2 * LEASE_S + 2  # type: ignore[attr-defined]
    over = watcher.watch(RUN.run_id)
    assert isinstance(over, int)
    second = claimed(awake, over=over)
    assert second.row.attempt == 2
    assert asleep.store([(sleeper, sleeper.done(RESULT))]) == [False]
    done = second.done(RESULT)
    assert awake.store([(second, done)]) == [True]
    assert asleep.store([(sleeper, sleeper.failed("late"))]) == [False]
    assert make().read(RUN.run_id) == done


def test_a_revision_that_was_renewed_after_it_was_watched_is_not_taken(make: Callable[..., Ledger]) -> None:
    holder, watcher = make(), make()
    first = claimed(holder)
    watcher.watch(RUN.run_id)
    watcher._clock.now = LEASE_S + 1  # type: ignore[attr-defined]
    over = watcher.watch(RUN.run_id)
    holder.renew([first])
    assert isinstance(over, int)
    assert asked(make(), over=over) is None


def test_what_a_pool_that_has_ended_held_is_taken_at_once_until_it_has_cost_too_many_workers(
    make: Callable[..., Ledger],
) -> None:
    for attempt in range(3):
        claim = claimed(make(f"pool{attempt}", attempts=3), dead=(f"pool{attempt - 1}",))
        assert claim.row.attempt == attempt + 1
    assert asked(make("pool9", attempts=3), dead=("pool1",)) is None
    found = asked(make("pool9", attempts=3), dead=("pool2",))
    assert isinstance(found, Row)
    assert found.status == "failed"
    assert "3 workers ended" in found.error


def test_in_any_order_of_claims_renewals_sleeps_and_results_one_result_stays(
    memory_rows: Callable[[], Any],
) -> None:
    ended = sum(one_result_stays(random.Random(seed), memory_rows()) for seed in range(200))
    assert ended > 40


def one_result_stays(source: random.Random, rows: Any) -> bool:
    """Three workers do anything in any order; whether there is a result in the end."""
    clock, seen = Clock(), dict[int, int]()
    workers, claims, results = [Ledger(rows, LEASE_S, 99, "", clock) for _ in range(3)], list[Any](), list[Row]()
    for _ in range(40):
        who = source.randrange(3)
        clock.now += source.choice((0, 1, LEASE_S + 1))
        deed = source.choice(("claim", "watch", "watch", "renew", "done"))
        if deed == "claim":
            found = asked(workers[who], seen.get(who, -1), are_new=source.random() < 0.5)
            claims += [(workers[who], found)] if isinstance(found, Claim) else []
        elif deed == "watch" and isinstance(over := workers[who].watch(RUN.run_id), int):
            seen[who] = over
        elif deed == "renew" and claims:
            ledger, claim = source.choice(claims)
            ledger.renew([claim])
        elif deed == "done" and len(claims) > 1:
            ledger, claim = source.choice(claims)
            row = claim.done(replace(RESULT, asked=len(results)))
            results += [row] if ledger.store([(claim, row)]) == [True] else []
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
