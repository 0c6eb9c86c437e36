"""The near cache under its simulator: nothing is broken, and each rule that is dropped is missed."""

from __future__ import annotations

import re
from collections import Counter
from random import Random

import pytest
from typer.testing import CliRunner

from backtest_kit_mongo.cli.main import app
from backtest_kit_verify.simulation.exhaustive import TooMany
from backtest_kit_verify.simulation.near import ACTS, World
from backtest_kit_verify.simulation.near_campaign import (
    FAULTS,
    VERBS,
    Action,
    Campaign,
    Faults,
    parse_schedule,
    parse_workload,
    play,
    random_menu,
    random_run,
    random_workload,
)
from backtest_kit_verify.simulation.near_every import ALL_FAULTS, Limits, explore
from backtest_kit_verify.simulation.near_planted import (
    KNOWN_LOSSES,
    NEAR_PLANTED,
    NONE,
    SEED,
    WITHIN,
    LostIgnored,
    NumberOfHeartbeatIgnored,
)
from backtest_kit_verify.simulation.near_process import Variant
from backtest_kit_verify.simulation.near_report import shrink

STEPS_MAX = 16
"""Actions of a shrunk schedule: what a person can follow."""
MISSED = "read@b write@a | 0 0 0 0 1 1 1 lose:b"
"""A copy, and the invalidation that was lost."""


class TestRandomOrder:
    def test_nothing_is_broken_and_copies_are_served(self) -> None:
        campaign = Campaign(1)
        assert campaign.run(1_200) is None
        # A cache that never serves a copy keeps every promise.
        assert campaign.hit_count > 500

    def test_everything_that_can_happen_happens(self) -> None:
        assert set(ACTS) == set(VERBS)
        happened: Counter[str] = Counter()
        for number in range(400):
            random = Random(number)
            workload, actions = random_workload(random), list[Action]()
            random_run(World(workload), random, random_menu(random, len(workload), FAULTS), actions)
            happened.update(verb for verb, _ in actions)
        assert set(happened) == set(VERBS)

    def test_the_same_seed_finds_the_same(self) -> None:
        bug = NEAR_PLANTED["plain-read-kept"]
        found = Campaign(SEED, bug.variant, bug.faults).run(WITHIN)
        assert found == Campaign(SEED, bug.variant, bug.faults).run(WITHIN)


class TestEveryOrder:
    @pytest.mark.parametrize(
        ("workload", "limits"),
        [
            ("read@b write@a", Limits(faults=0, ticks=2, heartbeats=1)),
            ("read@b write@a read@b", Limits(faults=0, ticks=0, heartbeats=0)),
            ("read@b write@a", Limits(faults=1, ticks=0, heartbeats=1, kinds=("lose", "flush"))),
            ("read@b write@a", Limits(faults=1, ticks=0, heartbeats=0)),
        ],
        ids=("time", "two reads", "losses", "any fault"),
    )
    def test_nothing_is_broken_in_any_order(self, workload: str, limits: Limits) -> None:
        explored = explore(parse_workload(workload), limits)
        assert explored.violation is None
        assert explored.situations > 500

    def test_a_dropped_rule_is_found(self) -> None:
        bug = NEAR_PLANTED["no-placeholder"]
        explored = explore(parse_workload("read@b write@a"), Limits(faults=0, ticks=0, heartbeats=0), bug.variant)
        assert explored.violation is not None
        assert explored.violation.name == "N4"

    def test_too_large_a_search_is_given_up(self) -> None:
        with pytest.raises(TooMany, match="smaller limits"):
            explore(parse_workload("read@b write@a"), Limits(situations=100))

    def test_every_fault_is_something_that_can_happen(self) -> None:
        assert set(ALL_FAULTS) <= set(VERBS)


class TestPlantedBugs:
    @pytest.mark.parametrize("name", NEAR_PLANTED)
    def test_a_planted_bug_is_found_and_shown_in_a_few_steps(self, name: str) -> None:
        bug = NEAR_PLANTED[name]
        found = Campaign(SEED, bug.variant, bug.faults).run(WITHIN)
        assert found is not None, f"not found within {WITHIN} schedules: {bug.rule}"
        assert found.violation.name in bug.breaks

        shortest = shrink(found.violation, bug.variant)
        assert shortest.name == found.violation.name
        assert len(shortest.schedule.actions) <= STEPS_MAX
        assert play(parse_schedule(str(shortest.schedule)), bug.variant) == shortest
        assert play(shortest.schedule) is None, "nothing is broken where no bug is planted"

    @pytest.mark.parametrize(
        ("variant", "faults"),
        [
            (Variant(heartbeats_overtake=True), FAULTS),
            (Variant(copies_type=LostIgnored), FAULTS),
            (Variant(copies_type=NumberOfHeartbeatIgnored), NONE),
            (Variant(copies_type=NumberOfHeartbeatIgnored), KNOWN_LOSSES),
        ],
        ids=("overtaking heartbeats", "ignored loss", "ignored number", "ignored number, known loss"),
    )
    def test_what_is_planted_together_breaks_nothing_alone(self, variant: Variant, faults: Faults) -> None:
        assert Campaign(SEED, variant, faults).run(300) is None


class TestSchedules:
    @pytest.mark.parametrize("then", ["flush", "restart", "lost:b", "hear:b", "tick tick ask:b hear:b"])
    def test_a_lost_invalidation_is_noticed_whatever_happens_next(self, then: str) -> None:
        assert play(parse_schedule(f"{MISSED} {then}")) is None

    def test_a_schedule_is_read_as_it_was_written(self) -> None:
        text = "write@a read@b:y remove@a | 0 timeout:0 hear:b 1 tick crash:a flush"
        assert str(parse_schedule(text)) == text

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "|",
            "read@a",
            "read@c | 0",
            "look@a | 0",
            "read@a:z | 0",
            "read@a | 1",
            "read@a | hear",
            "read@a | sit:a",
        ],
    )
    def test_what_is_no_schedule_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="for example"):
            parse_schedule(text)


class TestCommand:
    @staticmethod
    def run(*arguments: str) -> tuple[int, str]:
        outcome = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["simulate", "--near", *arguments])
        return outcome.exit_code, outcome.stdout + outcome.stderr

    def test_a_clean_campaign_says_how_fast_it_was(self) -> None:
        code, said = self.run("--schedules", "100", "--seed", "3")
        assert code == 0
        assert re.search(r"100 schedules of seed 3: nothing is broken \([\d,]+ schedules/s\)", said)

    def test_a_violation_prints_seed_and_story_and_a_command_that_shows_it_again(self) -> None:
        code, said = self.run("--planted", "own-copy-kept")
        assert code == 1
        assert "of seed 1" in said
        replay = re.search(r"bkm simulate --near --planted (\S+) --replay '(.*)'", said)
        assert replay is not None
        code, said = self.run("--planted", replay[1], "--replay", replay[2])
        assert code == 1
        assert "Broken: N3 (a read of a process that begins after a write" in said

    def test_a_replay_tells_what_is_heard(self) -> None:
        code, said = self.run("--replay", f"{MISSED} ask:b hear:b")
        assert code == 0
        assert "it is lost without a word: invalidation 1 of x" in said
        assert "the process hears what was said next: heartbeat asked at 0, numbers are at 1" in said
        assert "Nothing is broken." in said

    def test_every_schedule_of_a_workload_can_be_tried(self) -> None:
        code, said = self.run("--every", "read@b write@a", "--faults", "0", "--ticks", "0")
        assert code == 0
        assert "at most 0 faults, 0 ticks and 1 heartbeats" in said

    def test_what_cannot_be_read_is_refused(self) -> None:
        for option in ("--replay", "--every", "--planted"):
            assert self.run(option, "nonsense")[0] == 2
