"""The command line as a whole; each command has tests beside what it does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from backtest_kit_mongo.backends.mongo.layout import collection_of
from backtest_kit_mongo.cli.main import app
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.table import CANDLE, DOMAINS
from backtest_kit_mongo.exits import table
from backtest_kit_mongo.terminal import echo, escape

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
    assert all(collection_of(domain) in printed for domain in DOMAINS)


EVIL = "\x1b[2J\x07\x9b31m\u202e"


def test_control_characters_of_names_are_shown_and_not_sent(capsys: pytest.CaptureFixture[str]) -> None:
    echo(f"{EVIL}\tkept\n")
    Console(force_terminal=True, width=200).print(f"[red]Error:[/] {escape(f'[b]{EVIL}')}", highlight=False)
    echo(str(Key(CANDLE, ("e", f"{EVIL}\nB", "x" * 70_000))))
    said = capsys.readouterr().out
    assert not set("\x07\x9b\u202e") & set(said.replace("\x1b[31m", "").replace("\x1b[0m", ""))
    assert said.count("\x1b") == 2  # The console's own colour.
    for text in (r"\u001b[2J\u0007\u009b31m\u202e", "\tkept", "[b]", r"\u000aB", "... (70,000 characters)"):
        assert text in said


@pytest.mark.parametrize("ending", ["ascii", "closed", "unread", "full"])
def test_any_terminal_and_any_pipe_will_do(ending: str) -> None:
    code = "import os, sys; from backtest_kit_mongo import terminal, cli; "
    if ending == "closed":
        code += "sys.stdout = None; "
    if ending == "unread":
        code += "read, write = os.pipe(); os.dup2(write, 1); os.close(write); os.close(read); "
    if ending == "full":
        code += "os.dup2(os.open('/dev/full', os.O_WRONLY), 1); "
    code += (
        "from backtest_kit_mongo.cli.main import app; terminal.run(lambda: (terminal.echo('перелом ✓'), "
        "app(['domains'])))"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "TERM": "dumb", "LANG": "C", "COLUMNS": "40"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=False)
    room = b"Error: what was to be said could not be written: [Errno 28] No space left on device\n"
    assert done.stderr == (room if ending == "full" else b"")
    assert done.returncode == {"ascii": 0, "closed": 0, "unread": 141, "full": 1}[ending]
    assert done.stdout.startswith(rb"\u043f") is (ending == "ascii")


def test_the_page_of_exit_codes_is_the_table_that_all_commands_use() -> None:
    page = (Path(__file__).parents[1] / "docs" / "exit-codes.md").read_text("utf-8")
    assert f"\n{table()}\n" in page


def test_no_command_has_a_table_of_its_own() -> None:
    root = Path(__file__).parents[1]
    of_their_own = [
        path.name
        for room in ("src", "worker")
        for path in (root / room).rglob("*.py")
        if re.search(r"class \w*Exit\w*\(|Exit\([1-9]|sys\.exit\([1-9]", path.read_text("utf-8"))
    ]
    assert of_their_own == ["exits.py"]
