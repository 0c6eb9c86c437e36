"""The examples are run as their readers run them, and none of them looks ahead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from backtest_kit import cli

EXAMPLES = Path(__file__).parents[2] / "examples"
app = typer.Typer()
app.command()(cli.run)


def run_json(path: str) -> dict[str, Any]:
    """What `bkm run PATH --backtest --json` prints."""
    found = CliRunner().invoke(app, [path, "--backtest", "--symbol", "BTCUSDT", "--json"])
    assert found.exit_code == 0, found.stderr
    printed: dict[str, Any] = json.loads(found.stdout)
    return printed


@pytest.mark.parametrize(("name", "trades"), [("crossing_averages", 6), ("asking_a_model", 10), ("pyramid", 5)])
def test_an_example_trades(desk: Path, name: str, trades: int) -> None:
    assert len(run_json(str(EXAMPLES / f"{name}.py"))["trades"]) == trades
