"""The simulator is itself tested: each rule of the protocol is dropped in turn, and the simulator must notice."""

from __future__ import annotations

import pytest

from backtest_kit_verify.simulation.campaign import Campaign
from backtest_kit_verify.simulation.exhaustive import Limits, explore
from backtest_kit_verify.simulation.planted import SEED
from backtest_kit_verify.simulation.planted_deletions import EVERY_PLANTED as PLANTED
from backtest_kit_verify.simulation.schedules import parse_schedule, play
from backtest_kit_verify.simulation.shrink import shrink
from backtest_kit_verify.simulation.workload import DOCUMENT, Rig, parse_workload
from backtest_kit_verify.simulation.world import World

STEPS_MAX = 18
"""Actions of a shrunk schedule: what a person can follow."""


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_found_and_shown_in_a_few_steps(name: str) -> None:
    bug = PLANTED[name]
    found = Campaign(SEED, bug.variant, key=bug.key, faults=bug.faults).run(bug.within)
    assert found is not None, f"not found within {bug.within} schedules: {bug.rule}"
    assert found.violation.name in bug.breaks

    rig = Rig(bug.key, bug.variant)
    shortest = shrink(rig, found.violation)
    assert shortest.name == found.violation.name
    assert len(shortest.schedule.actions) <= STEPS_MAX

    world = World(rig, shortest.schedule.workload)
    assert play(world, parse_schedule(str(shortest.schedule))) == shortest
    if "evict-leases" not in bug.variant.extra_faults:
        shipped = World(Rig(bug.key), shortest.schedule.workload)
        assert play(shipped, shortest.schedule) is None, "nothing is broken where no bug is planted"


def test_the_first_draft_fails_without_any_fault_in_six_steps() -> None:
    bug = PLANTED["commit-first-draft"]
    explored = explore(Rig(DOCUMENT, bug.variant), parse_workload("write@a write@b"), Limits(faults=0, ticks=0))
    assert explored.violation is not None
    assert explored.violation.name == "I1"
    assert len(explored.violation.schedule.actions) == 6
