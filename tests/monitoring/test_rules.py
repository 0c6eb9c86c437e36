"""The shipped rules, board and runbook: valid, about metrics that exist, and complete in both directions."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from prometheus_client.core import Metric
from tests.monitoring.rig import OPS, RULES, Alert, alerts, find, metrics_in, queries

from backtest_kit_mongo.backends.redis.counts import CacheCounts
from backtest_kit_mongo.cli.main import app as bkm
from backtest_kit_mongo.drivers.counts import READS, WRITES, Counts
from backtest_kit_mongo.metrics import collector as store_metrics
from backtest_kit_worker import roles
from backtest_kit_worker.cli import app as worker
from backtest_kit_worker.health import FeedStatus
from backtest_kit_worker.metrics import WorkerCollector

RUNBOOK = (OPS / "RUNBOOK.md").read_text("utf-8")
TESTS_OF_RULES = RULES.with_name("alerts.test.yml")
SUFFIXES = ("_total", "_bucket", "_sum", "_count")


def promtool(*arguments: str) -> str:
    """What promtool says; it must be content."""
    program = find("promtool")
    if program is None:
        assert not os.environ.get("CI"), "CI must have promtool on PATH: apt-get install prometheus"
        pytest.skip("promtool is not on PATH")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", str(RULES)),
        ("check", "config", str(RULES.with_name("prometheus.yml"))),
        ("test", "rules", str(TESTS_OF_RULES)),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_promtool_accepts_the_rules_and_their_own_tests_pass(arguments: tuple[str, ...]) -> None:
    assert "SUCCESS" in promtool(*arguments)


def test_every_alert_has_a_test_of_its_own() -> None:
    tested = TESTS_OF_RULES.read_text("utf-8")
    assert [each.name for each in alerts() if each.name not in tested] == []


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert.name)
def test_an_alert_says_what_it_guards_how_urgent_it_is_and_where_help_is(alert: Alert) -> None:
    assert re.search(r"severity: (page|ticket)\b", alert.text)
    assert "summary: " in alert.text
    assert "guards: " in alert.text
    assert f"runbook: ops/RUNBOOK.md#{alert.name.lower()}\n" in alert.text


def test_the_runbook_has_a_section_for_each_alert_and_for_nothing_else() -> None:
    sections = re.findall(r"^### (\w+)$", RUNBOOK, re.MULTILINE)
    assert sorted(sections) == sorted(each.name for each in alerts())


def test_each_section_of_the_runbook_says_all_four_things() -> None:
    for section in RUNBOOK.split("\n### ")[1:]:
        name = section.split("\n", 1)[0]
        found = re.findall(r"^\*\*(Symptom|Look|Expect|Act)\.\*\*", section, re.MULTILINE)
        assert found == ["Symptom", "Look", "Expect", "Act"], name


class QuietMonitor:
    """What `WorkerCollector` asks of a monitor; there is one replica and one group."""

    loops = ()
    services = ()

    def snapshot(self) -> FeedStatus:
        return FeedStatus(replica_lag_s={"mongo": 0.0})

    def why_unhealthy(self) -> list[str]:
        return []


def exported() -> set[str]:
    """Names of the metrics that package and worker export, as the code makes them."""
    families: list[Metric] = list(WorkerCollector(QuietMonitor()).collect())  # type: ignore[arg-type]
    counts = Counts()
    families += [
        store_metrics._outcomes("reads", "", READS, counts.reads),
        store_metrics._outcomes("writes", "", WRITES, counts.writes),
        store_metrics._durations("read", "", counts.reads),
        store_metrics._durations("write", "", counts.writes),
        *store_metrics._of_cache(CacheCounts(lambda: 0.0).figures()),
    ]
    names = {family.name for family in families} | {"bkm_store_candles"}
    return {f"{name}{suffix}" for name in names for suffix in ("", *SUFFIXES)}


def test_rules_and_board_name_only_metrics_that_the_code_exports() -> None:
    named = metrics_in(RULES.read_text("utf-8")).union(*(metrics_in(each.expr) for each in queries()))
    assert len(named) > 20
    assert named - exported() == set()


def test_the_lag_of_every_role_that_a_worker_can_have_is_judged() -> None:
    (lag,) = (each for each in alerts() if each.name == "BkmRoleBehind")
    judged = re.search(r'role=~"([a-z|]+)"', lag.expr)
    assert judged is not None
    assert {name for name, work in roles.TABLE.items() if work.role} <= set(judged[1].split("|"))


def test_the_board_is_what_its_script_makes() -> None:
    script = str(OPS / "grafana" / "board.py")
    assert subprocess.run([sys.executable, script, "--check"], check=False).returncode == 0


def commands_of_the_runbook() -> Iterator[list[str]]:
    """Every line of its shell blocks that runs one of our programs."""
    for block in re.findall(r"^```sh\n(.*?)^```", RUNBOOK, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words and words[0] in ("bkm", "backtest-kit-worker"):
                yield words


@pytest.mark.parametrize("words", list(commands_of_the_runbook()), ids=" ".join)
def test_every_command_of_the_runbook_exists_with_its_options(words: list[str]) -> None:
    command: Any = typer.main.get_command(bkm if words[0] == "bkm" else worker)
    rest = words[1:]
    while rest and not rest[0].startswith("-") and hasattr(command, "commands"):
        found = command.commands.get(rest[0])
        assert found is not None, f"{words[0]} has no command {rest[0]}"
        command, rest = found, rest[1:]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word.split("=")[0] for word in rest if word.startswith("-")} <= known


def test_no_file_of_the_monitoring_names_a_default_password() -> None:
    for file in Path(OPS / "grafana").rglob("*.*"):
        assert "password" not in file.read_text("utf-8").lower(), file
