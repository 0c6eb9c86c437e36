"""Steps: at each key the invariants hold, and over all keys a step is stored whole or not at all."""

from __future__ import annotations

from typing import Any

import pytest
import z3
from tests.coherence.proof.keys import ALL, DROPPED_OF_STEPS, PART, STEPS, Key, KeysRule, any_keys
from tests.coherence.proof.rules import ME
from tests.coherence.proof.test_proof import decide


def outcomes(rule: KeysRule) -> dict[str, str]:
    """For each invariant: whether a state that satisfies all of them can be led by the rule to one that breaks it."""
    before = any_keys()
    applies, after = rule(before)
    held = [claim(before) for claim in ALL.values()]
    return {name: decide(*held, applies, z3.Not(claim(after))) for name, claim in ALL.items()}


@pytest.mark.parametrize("name", STEPS)
def test_every_rule_of_steps_preserves_every_invariant_and_can_apply_to_two_keys(name: str) -> None:
    assert set(outcomes(STEPS[name]).values()) == {"unsat"}
    before = any_keys()
    applies, _ = STEPS[name](before)
    one, other = z3.Consts("one another", Key)
    both: list[Any] = [one != other, *(z3.And(before.wants(ME, key), PART(key)) for key in (one, other))]
    held = [claim(before) for claim in ALL.values()]
    assert decide(*held, *both, applies) == "sat"


@pytest.mark.parametrize("name", DROPPED_OF_STEPS)
def test_a_dropped_precaution_of_steps_breaks_what_it_protects(name: str) -> None:
    found = outcomes(DROPPED_OF_STEPS[name].rule)
    assert {broken for broken, outcome in found.items() if outcome == "sat"} == set(
        DROPPED_OF_STEPS[name].breaks.split()
    )
    assert "unknown" not in found.values()
