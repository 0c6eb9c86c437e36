"""Hosts that fail because a server was away for too long: a supervisor starts them again, as often as it may."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from backtest_kit_verify.demo import fleet
from backtest_kit_verify.demo.book import Host
from backtest_kit_verify.demo.fleet import Fleet, HostRun
from backtest_kit_verify.demo.trader import Task

BARS = 10
HOST = """
import json, pathlib, sys
left = pathlib.Path(sys.argv[1])
count = int(left.read_text())
left.write_text(str(count - 1))
print(json.dumps({"first": 1, "bars": 4 if count else 10, "writes": 5}))
sys.exit("MongoDB did not answer" if count else 0)
"""


def run_failing(count: int, restarts: int, directory: Path, monkeypatch: pytest.MonkeyPatch) -> HostRun:
    """A host that fails so often before it gets through."""
    left = directory / "left"
    left.write_text(str(count))
    monkeypatch.setattr(fleet, "TRADER", (sys.executable, "-I", "-S", "-c", HOST, str(left)))
    monkeypatch.setattr(fleet, "RESTART_PAUSE_S", 0)
    run = HostRun(Task(Host("run", "medium", "EURUSD", "1h", "demo"), ()), BARS)
    with Fleet([run], os.environ, None, restarts) as all_of_them:
        all_of_them.run(lambda _: None)
    return run


def test_a_host_that_failed_goes_on_and_its_work_before_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_failing(2, 3, tmp_path, monkeypatch)
    assert (run.bars, run.failure) == (BARS, "")
    assert len(run.failures) == 2
    assert "MongoDB did not answer" in run.failures[0]
    assert run.total("writes") == 15


def test_a_host_that_failed_too_often_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_failing(2, 1, tmp_path, monkeypatch)
    assert run.bars < BARS
    assert "MongoDB did not answer" in run.failure
