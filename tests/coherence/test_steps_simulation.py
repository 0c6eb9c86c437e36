"""Steps under their simulator: nothing is broken, and each rule that is dropped is missed."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from typer.testing import CliRunner

from backtest_kit_mongo.cli.main import app
from backtest_kit_verify.simulation.step_campaign import (
    VERBS,
    Action,
    Campaign,
    parse_schedule,
    play,
    random_menu,
    random_run,
    random_workload,
    shrink,
)
from backtest_kit_verify.simulation.step_faults import ACTS, World
from backtest_kit_verify.simulation.step_planted import SEED, STEP_PLANTED, WITHIN


def test_nothing_is_broken_in_random_orders_and_steps_are_stored() -> None:
    campaign = Campaign(1)
    assert campaign.run(300) is None
    assert campaign.stored_count > 200


def test_everything_that_can_happen_happens() -> None:
    assert set(ACTS) == set(VERBS)
    happened: Counter[str] = Counter()
    for number in range(500):
        random = Random(number)
        workload, actions = random_workload(random), list[Action]()
        random_run(World(workload), random, random_menu(random, len(workload.ops)), actions)
        happened.update(verb for verb, _ in actions)
    assert set(happened) == set(VERBS)


@pytest.mark.parametrize("name", STEP_PLANTED)
def test_a_planted_bug_is_found(name: str) -> None:
    bug = STEP_PLANTED[name]
    found = Campaign(SEED, bug.variant).run(WITHIN)
    assert found is not None, f"not found within {WITHIN} schedules: {bug.rule}"
    assert found.violation.name in bug.breaks
    assert play(found.violation.schedule) is None, "nothing is broken where no bug is planted"


def test_a_found_schedule_is_shrunk_and_reported_by_the_command() -> None:
    bug = STEP_PLANTED["written-one-by-one"]
    found = Campaign(SEED, bug.variant).run(WITHIN)
    assert found is not None
    shortest = shrink(found.violation, bug.variant)
    assert play(parse_schedule(str(shortest.schedule)), bug.variant) == shortest
    reported = CliRunner().invoke(
        app, ["simulate", "--steps", "--planted", "written-one-by-one", "--replay", str(shortest.schedule)]
    )
    assert (reported.exit_code, "A1" in reported.output) == (1, True)
    assert CliRunner().invoke(app, ["simulate", "--steps", "--schedules", "10"]).exit_code == 0
