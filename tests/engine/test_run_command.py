"""`bkm run`: a file from the command line to its result, and every way in which that can go wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import backtest_kit_mongo as bk
from backtest_kit import cli

from .conftest import forget
from .strategies import GOES_LONG, START_MS, flat, write_candles

app = typer.Typer()
app.command()(cli.run)
FLAT = flat((0, 100.0), (10, 102.0), minutes=61)


def run(*arguments: str, **environment: str) -> tuple[int, str, str]:
    found = CliRunner().invoke(app, list(arguments), env=environment)
    return found.exit_code, found.stdout, found.stderr


def test_a_file_is_replayed_and_says_what_it_earned(desk: Path) -> None:
    write_candles(desk / "candles", FLAT)
    (desk / "s.py").write_text(GOES_LONG)
    status, out, _ = run("s.py", "--backtest", "--symbol", "BTCUSDT", "--json", "--report", "page.html")
    assert status == 0
    found = json.loads(out)
    (trade,) = found["trades"]
    assert (trade["opened_at"], trade["closed_at"] - START_MS) == (START_MS, 13 * 60_000)
    assert (trade["reason"], round(trade["pnl_percent"], 4), trade["note"]) == ("take_profit", 0.5974, "first")
    assert found["stats"]["trades"] == 1
    page = (desk / "page.html").read_text()
    assert "goes_long" in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")


def test_the_environment_says_the_same_as_options(desk: Path) -> None:
    write_candles(desk / "candles", FLAT)
    (desk / "s.py").write_text(GOES_LONG)
    frame = f"{START_MS}..{START_MS + 5 * 60_000}"
    status, out, _ = run(MODE="backtest", STRATEGY_FILE="s.py", SYMBOL="BTCUSDT", FRAME=frame)
    assert status == 0
    assert "time_expired" in out
    assert "2024-01-01 00:05Z" in out


def replaced(old: str, new: str) -> str:
    assert old in GOES_LONG
    return GOES_LONG.replace(old, new)


IN_2024 = ["--frame", "2024-01-01..2024-01-02"]


def answering(expression: str) -> str:
    """The strategy at an exchange whose get_candles answers this; `a` are its arguments."""
    return replaced(', files="candles"', f", get_candles=lambda *a: {expression}")


FAULTS: dict[str, tuple[str | None, list[str], int, str]] = {
    "no file": (None, [], 2, "there is no strategy file s.py"),
    "raises on import": ("import backtest_kit\n1 / 0\n", [], 2, "s.py, line 2 raises ZeroDivisionError"),
    "is not Python": ("def :\n", [], 2, "s.py, line 1 raises SyntaxError"),
    "ends the process": ("raise SystemExit(0)\n", [], 2, "raises SystemExit"),
    "declares nothing": ("x = 1\n", [], 2, "declares no strategy"),
    "declares two": ((f"{GOES_LONG}\n@bt.strategy\ndef "
        "other(ctx): ...\n"), [], 2, "(goes_long, other); choose one with --strategy"),
    "the same twice": (f"{GOES_LONG}\n@bt.strategy\ndef goes_long(ctx): ...\n", [], 2, "declared twice"),
    "wrong interval": (replaced("@bt.strategy", "@bt.strategy(interval='2m')"), [], 2, "not '2m'"),
    "takes nothing": (replaced("goes_long(ctx)", "goes_long()"), [], 2, "does not fit"),
    "unknown callback": (replaced("@bt.strategy", "@bt.strategy(on_opne=print)"), [], 2, "did you mean on_open"),
    "unknown risk": (replaced("@bt.strategy", "@bt.strategy(risk='one')"), [], 2, "no risk 'one'"),
    "unknown strategy": (GOES_LONG, ["--strategy", "goes_lnog"], 2, "did you mean 'goes_long'"),
    "frame of the future": (GOES_LONG, ["--frame", "2024-01-01..2199-01-01"], 2, "ends in the future"),
    "frame that is no moment": (GOES_LONG, ["--frame", "soon..later"], 2, "not a moment: 'soon'"),
    "half a frame": (GOES_LONG, ["--frame", "2024-02-08.."], 2, "lacks a moment"),
    "frame backwards": (GOES_LONG, ["--frame", "2024-01-02..2024-01-01"], 2, "ends before it starts"),
    "two modes": (GOES_LONG, ["--paper"], 2, "not backtest, paper"),
    "no place for the report": (GOES_LONG, ["--report", "nowhere/page.html"], 2, "no such directory"),
    "symbol without a file": (GOES_LONG, ["--symbol", "ETHUSDT"], 1, "has no file of ETHUSDT 1m"),
    ("frame without "
        "candles"): (GOES_LONG, ["--frame", "2023-01-01..2023-01-02"], 1, "there are candles from 2023-12-31 23:55Z"),
    "store without candles": (answering("[]"), IN_2024, 1, "No 1m candles of BTCUSDT"),
    "exchange of nonsense": (answering("[['x'] * 6]"), IN_2024, 1, "no candle: ['x'"),
    "exchange of NaN": (answering("[[a[2], 1, 1, 1, float('nan'), 1]]"), IN_2024, 1, "not a finite number"),
    "exchange that raises": (answering("1 / 0"), IN_2024, 1, "raised ZeroDivisionError"),
    "exchange of half milliseconds": (answering("[[a[2] + 0.5, 1, 1, 1, 1, 1]]"), IN_2024, 1, "no candle"),
    "exchange of every second minute": (
        answering("[[a[2] + i * 60000, 1, 1, 1, 1, 1] for i in range(0, 60, 2)]"), IN_2024, 1, "candles of 2 minutes",
    ),
    "exchange that ends the process": (answering("exit(0)"), IN_2024, 1, "raised SystemExit"),
    ("ends the process "
        "when asked"): (replaced("return bt.long(", "exit(0)\n        return bt.long("), [], 3, "raised SystemExit"),
    "returns a dict": (replaced("return bt.long(", "return dict("), [], 3, "returned dict"),
    "raises": (replaced("return bt.long(", "return bt.longr("), [], 3, "Did you mean long?"),
    "stores a set": (replaced("if ctx.now", "ctx.state['a'] = {1}\n    if ctx.now"), [], 3, "s.py, line"),
    "a directory that is not there": (replaced('files="candles"', 'files="candels"'), [], 1, "candels does not exist"),
    "looks ahead": (
        "import backtest_kit_mongo as bk\n"
        + replaced("if ctx.now", ("bk.read_candles('B', '1m', 'x', 0, ctx.now "
            "+ 60000)\n    if ctx.now")), [], 3, "looked ahead: candle/x/B/1m",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_wrong_is_said_and_nothing_is_written(desk: Path, name: str) -> None:
    source, options, status, text = FAULTS[name]
    write_candles(desk / "candles", FLAT)
    if source is not None:
        (desk / "s.py").write_text(source)
    before = sorted(desk.rglob("*"))
    symbol = [] if "--symbol" in options else ["--symbol", "BTCUSDT"]
    found, out, err = run("s.py", "--backtest", *symbol, *options)
    assert (found, out) == (status, ""), err
    assert text in err
    assert sorted(path for path in desk.rglob("*") if "__pycache__" not in str(path)) == before


def test_prices_that_are_no_numbers_are_refused_and_reported(desk: Path) -> None:
    write_candles(desk / "candles", FLAT)
    (desk / "s.py").write_text(replaced("take_profit=101", "take_profit=float('nan')"))
    status, out, _ = run("s.py", "--backtest", "--symbol", "BTCUSDT")
    assert status == 0
    assert "1 x invalid: take_profit" in out


def test_gaps_are_named_and_counted_as_minutes_without_trade_if_wanted(desk: Path) -> None:
    write_candles(desk / "candles", [FLAT[0], *(row for row in FLAT if not 20 <= (row[0] - START_MS) / 60_000 < 23)])
    (desk / "s.py").write_text(GOES_LONG)
    status, _, err = run("s.py", "--backtest", "--symbol", "BTCUSDT")
    assert status == 1
    assert "3 of 66 1m candles of BTCUSDT" in err
    assert "2024-01-01 00:20Z to 2024-01-01 00:22Z" in err
    forget()
    status, out, _ = run("s.py", "--backtest", "--symbol", "BTCUSDT", "--fill-gaps")
    assert status == 0
    assert "note 3 missing minutes in 1 gap(s) count as minutes without trade" in out
    assert "note BTCUSDT-1m.csv: 1 candle(s) stand there twice and count once" in out


def test_what_is_declared_wrongly_is_said_before_servers_are_waited_for(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bk, "setup", lambda: pytest.fail("servers were asked"))
    (desk / "s.py").write_text(answering("[]"))
    status, _, err = run("s.py", "--paper", "--symbol", "BTCUSDT", "--strategy", "goes_lnog")
    assert (status, "did you mean 'goes_long'" in err) == (2, True)
    forget()
    status, _, err = run("s.py", "--live", "--symbol", "BTCUSDT")
    assert (status, "has no broker" in err) == (2, True)


def test_a_configuration_runs_first_and_chooses_the_places(desk: Path) -> None:
    write_candles(desk / "candles", FLAT)
    remembers = "        ctx.state['n'] = 1\n        return bt.long("
    (desk / "s.py").write_text(replaced("        return bt.long(", remembers))
    (desk / "config").mkdir()
    config = desk / "config" / "setup_config.py"
    config.write_text(
        "import backtest_kit_mongo as bk\nbk.PersistStateAdapter.use_memory()\nbk.PersistLogAdapter.use_dummy()\n"
    )
    assert run("s.py", "--backtest", "--symbol", "BTCUSDT")[0] == 0
    assert not (desk / "dump").exists()
    forget()
    config.write_text("import backtest_kit_mongo as bk\nbk.set_modes({'backtest': {'state': 'somewhere'}})\n")
    status, _, err = run("s.py", "--backtest", "--symbol", "BTCUSDT")
    assert status == 2
    assert "setup_config.py, line 2: modes['backtest']['state']" in err


def test_ctrl_c_ends_a_backtest(desk: Path) -> None:
    write_candles(desk / "candles", FLAT)
    (desk / "s.py").write_text(replaced("return bt.long(", "raise KeyboardInterrupt or bt.long("))
    status, _, err = run("s.py", "--backtest", "--symbol", "BTCUSDT")
    assert (status, "stopped by Ctrl-C" in err) == (130, True)


def test_the_modes_are_printed() -> None:
    printed = typer.Typer()
    printed.command()(cli.modes)
    found = json.loads(CliRunner().invoke(printed, ["--json"]).stdout)
    assert (found["live"]["state"], found["backtest"]["state"], found["paper"]["log"]) == ("mongo", "files", "jsonl")
    assert "backtest" in CliRunner().invoke(printed, []).stdout
