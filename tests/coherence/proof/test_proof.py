"""The invariants hold for ever, for any number of operations; and each precaution is needed for the ones it should
be.
"""

from __future__ import annotations

from typing import Any

import pytest
import z3
from tests.coherence.proof.model import INVARIANTS, State, any_state, every
from tests.coherence.proof.rules import DROPPED, RULES, Rule

from backtest_kit_mongo.coherence import invariants

PATIENCE_MS = 60_000


def decide(*claims: Any) -> str:
    """`sat`, `unsat` or `unknown`."""
    solver = z3.Solver()
    solver.set("timeout", PATIENCE_MS)
    solver.add(*claims)
    return str(solver.check())


def invariant(s: State) -> list[Any]:
    return [claim(s) for claim in INVARIANTS.values()]


def outcomes(rule: Rule) -> dict[str, str]:
    """For each invariant: whether a state that satisfies all of them can be led by the rule to one that breaks it."""
    before = any_state()
    applies, after = rule(before)
    return {name: decide(*invariant(before), applies, z3.Not(claim(after))) for name, claim in INVARIANTS.items()}


def test_the_proof_is_about_the_named_invariants() -> None:
    assert list(INVARIANTS) == list(invariants.INVARIANTS)


def test_the_initial_state_satisfies_them() -> None:
    s = any_state()
    nobody = every(
        lambda op: z3.Not(z3.Or(*(of(op) for of in (s.leased, s.writing, s.written, s.missed, s.found, s.started))))
    )
    nobody = z3.And(nobody, every(lambda op: z3.Not(z3.Or(s.looked(op), s.flagged(op), s.passes(op), s.owes(op)))))
    nobody = z3.And(nobody, every(lambda op: z3.Not(s.passing(op))))
    empty = [z3.Not(flag) for flag in (s.born, s.is_open, s.has_entry, s.has_right, s.serving)]
    assert decide(nobody, *empty, z3.Not(z3.And(*invariant(s)))) == "unsat"


@pytest.mark.parametrize("name", RULES)
def test_every_rule_preserves_every_invariant(name: str) -> None:
    before = any_state()
    applies, after = RULES[name](before)
    is_any_broken = z3.Not(z3.And(*invariant(after)))
    assert decide(*invariant(before), applies, is_any_broken) == "unsat", outcomes(RULES[name])


@pytest.mark.parametrize("name", RULES)
def test_every_rule_can_apply(name: str) -> None:
    """A rule that never applies would preserve anything."""
    before = any_state()
    applies, _ = RULES[name](before)
    # Some happen beside no valid entry, which is why it can be served.
    beside = (before.entry_is_valid, before.right_is_valid, before.entry_is_ours)
    assert any(decide(*invariant(before), state, applies) == "sat" for state in beside)


@pytest.mark.parametrize("name", DROPPED)
def test_a_dropped_precaution_breaks_what_it_protects(name: str) -> None:
    found = outcomes(DROPPED[name].rule)
    assert {broken for broken, outcome in found.items() if outcome == "sat"} == set(DROPPED[name].breaks.split())
    assert "unknown" not in found.values()


def test_an_entry_that_is_served_is_current() -> None:
    s = any_state()
    is_old = z3.Not(z3.And(s.entry_rev == s.rev, s.is_quiet))
    assert decide(*invariant(s), s.entry_is_ours, s.serving, is_old) == "unsat"
    assert decide(*invariant(s), s.entry_is_ours, is_old) == "sat", (
        "so READ must compare the token, and LEASE, which tells it"
    )


def test_what_lease_returns_is_current_and_nobody_is_about_to_change_it() -> None:
    """So a list's writer may believe what it remembers under its own stamp (`Lease.want_prior`)."""
    s = any_state()
    as_taken = z3.And(s.entry_rev == s.rev, s.is_quiet)
    assert decide(*invariant(s), s.entry_is_valid, z3.Not(as_taken)) == "unsat"
