"""The command line as a whole; each command has tests beside what it does."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from backtest_kit_mongo.cli.main import app
from backtest_kit_mongo.domains.table import DOMAINS

runner = CliRunner()


def test_help_lists_every_command_with_a_sentence() -> None:
    shown = runner.invoke(app, ["--help"]).stdout
    for command in ("up", "down", "status", "demo", "domains", "cache"):
        assert command in shown


def test_domains_lists_the_table() -> None:
    rows = json.loads(runner.invoke(app, ["domains", "--json"]).stdout)
    assert [row["domain"] for row in rows] == [domain.name for domain in DOMAINS]
    assert rows[0]["key"] == ["exchangeName", "symbol", "interval", "timestamp"]
    printed = runner.invoke(app, ["domains"]).stdout
    assert all(domain.collection in printed for domain in DOMAINS)
