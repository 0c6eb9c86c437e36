"""`bkm simulate` says what it found, and how to see it again."""

from __future__ import annotations

import re

from typer.testing import CliRunner

from backtest_kit_mongo.cli.main import app


def run(*arguments: str) -> tuple[int, str]:
    outcome = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["simulate", *arguments])
    return outcome.exit_code, outcome.stdout + outcome.stderr


def test_a_clean_campaign_says_how_fast_it_was() -> None:
    code, said = run("--schedules", "200", "--seed", "3")
    assert code == 0
    assert re.search(r"200 schedules of seed 3: nothing is broken \([\d,]+ schedules/s\)", said)


def test_a_violation_prints_seed_and_story_and_a_command_that_shows_it_again() -> None:
    code, said = run("--planted", "commit-first-draft")
    assert code == 1
    assert "of seed 1" in said
    assert "I1 (an entry of the current incarnation equals MongoDB) does not hold" in said
    replay = re.search(r"bkm simulate --planted (\S+) --replay '(.*)'", said)
    assert replay is not None
    code, said = run("--planted", replay[1], "--replay", replay[2])
    assert code == 1
    assert "I1 (an entry" in said


def test_a_replay_tells_every_step() -> None:
    code, said = run("--replay", "write@a read@b | vouch 0 1 crash:a tick tick tick 1")
    assert code == 0
    assert "write@a: Lease -> lease 0" in said
    assert "the client dies" in said
    assert "read@b: Find -> rev 0; returns rev 0" in said


def test_every_schedule_of_a_workload_can_be_tried() -> None:
    code, said = run("--every", "write@a read@b", "--faults", "1", "--ticks", "0")
    assert code == 0
    assert "at most 1 faults" in said


def test_quiet_says_nothing_when_nothing_is_broken() -> None:
    assert run("--schedules", "64", "--quiet") == (0, "")


def test_what_cannot_be_read_is_refused() -> None:
    for arguments in (("--replay", "nonsense"), ("--every", "nonsense"), ("--planted", "nonsense")):
        assert run(*arguments)[0] == 2
