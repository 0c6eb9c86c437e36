"""The examples are run as their readers run them, and none of them looks ahead."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from backtest_kit import cli

EXAMPLES = Path(__file__).parents[2] / "examples"
app = typer.Typer()
app.command()(cli.run)


@pytest.mark.parametrize(("name", "trades"), [("crossing_averages", 6), ("asking_a_model", 10), ("pyramid", 5)])
def test_an_example_trades(desk: Path, name: str, trades: int) -> None:
    arguments = [str(EXAMPLES / f"{name}.py"), "--backtest", "--symbol", "BTCUSDT", "--json"]
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 0, found.stderr
    assert len(json.loads(found.stdout)["trades"]) == trades
