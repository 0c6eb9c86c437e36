"""Sweeps: whoever does the runs, in whichever order, killed or not, the answer is one."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import backtest_kit as bt
from backtest_kit import loading
from backtest_kit.errors import DeclarationError
from backtest_kit.runs.rows import StoredRows
from backtest_kit.runs.studies import Studies
from backtest_kit_mongo.cli.main import app
from tests.runs.conftest import forget

GRID = {"fast": [3, 5], "slow": [10, 20]}


def swept(**how: Any) -> bt.Study:
    given: dict[str, Any] = {"params": GRID, "symbols": ["AAA", "BBB"], "executor": "serial", "progress": False, **how}
    return bt.sweep(given.pop("strategy", "cross"), **given)


@pytest.fixture(autouse=True)
def _loaded(strategy: Path) -> None:
    loading.load_strategy(strategy)


def test_serial_threads_and_processes_have_one_digest_and_a_repeated_sweep_runs_nothing() -> None:
    first = swept()
    assert (len(first), first.executed) == (8, 8)
    assert first.title.startswith("cross-"), "named by its code, so that another version is another study"
    assert sum(row.stats["trades"] for row in first) > 0
    again = swept()
    assert (again.executed, again.digest) == (0, first.digest)
    with ThreadPoolExecutor(2) as threads:
        assert swept(executor=threads, again=True).digest == first.digest
    processes = swept(executor=None, workers=2, again=True)
    assert (processes.executed, processes.digest) == (8, first.digest)
    assert bt.load_study(first.title).digest == first.digest


def test_a_run_says_what_one_backtest_says() -> None:
    row = swept(params={"fast": [3]}, symbols="AAA").rows[0]
    alone = bt.backtest(
        "AAA", strategy=bt.Strategy("cross", lambda ctx: bt.strategies.get("cross").get_signal(ctx, fast=3), "5m")
    )
    assert row.stats == alone.to_dict()["stats"]
    assert bt.trades_of(row) == alone.trades
    assert bt.equity_of(row).value.tolist() == alone.equity.value.tolist()


def test_a_strategy_that_raises_fails_its_run_and_the_others_go_on() -> None:
    study = swept(params={"raises": [False, True]}, symbols="AAA")
    assert [row.status for row in study] == ["done", "failed"]
    assert "ValueError: as it was reported" in study.failed[0].error
    assert study.digest
    assert study.best()[0].status == "done"


def test_a_worker_that_is_killed_loses_nothing_and_one_that_kills_workers_is_failed_in_the_end() -> None:
    params = [{"dies": 2}, {"fast": 3}, {"fast": 4}]
    study = swept(params=params, symbols="AAA", executor=None, workers=2)
    assert [row.status for row in study] == ["done"] * 3
    assert study.rows[0].attempt == 3
    deadly = swept(
        params=[{"dies": 99}, {"fast": 5}], symbols="AAA", executor=None, workers=1, attempts=2, study="deadly"
    )
    assert [row.status for row in deadly] == ["failed", "done"]
    assert "2 workers ended" in deadly.failed[0].error


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"params": {"fasst": [1]}}, "did you mean 'fast'"),
        ({"params": {"fast": []}}, "no combination"),
        ({"symbols": []}, "symbols="),
        ({"executor": "threads"}, "executor is"),
        ({"workers": 0, "executor": None}, "workers="),
        ({"study": "bad\nname"}, "a study is named"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(how: dict[str, Any], words: str) -> None:
    with pytest.raises(DeclarationError, match=words):
        swept(**how)
    assert not list(Path("dump").glob("**/*"))


def test_an_executor_that_is_shut_down_a_strategy_no_worker_finds_and_a_study_of_other_code_are_refused(
    strategy: Path,
) -> None:
    threads = ThreadPoolExecutor(1)
    threads.shutdown()
    with pytest.raises(DeclarationError, match="takes no work"):
        swept(executor=threads)
    bt.add_strategy_schema(name="hidden", get_signal=lambda ctx, fast=1: None)
    with pytest.raises(DeclarationError, match=r"does not find strategy 'hidden'.*top level"):
        swept(strategy="hidden", params={"fast": [1]}, executor=None, workers=1)
    assert not list(Path("dump").glob("**/*")), "nothing was written"
    swept(study="mine", symbols="AAA")
    strategy.write_text(strategy.read_text() + "\n# another version\n")
    forget()
    loading.load_strategy(strategy)
    with pytest.raises(DeclarationError, match="another name: study="):
        swept(study="mine", symbols="AAA")


def test_a_page_shows_the_runs_and_texts_stay_texts(tmp_path: Path) -> None:
    study = swept(study="<b>one & two</b>")
    study.report(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "&lt;b&gt;one &amp; two&lt;/b&gt;" in page
    assert "<b>one" not in page
    assert study.digest in page
    assert page.count("<tr>") >= 8


def test_the_command_sweeps_shows_compares_and_forgets(strategy: Path) -> None:
    def said(*arguments: str) -> Any:
        forget()
        return CliRunner().invoke(app, list(arguments))

    swept_once = said(
        "sweep", str(strategy), "--symbol", "AAA", "--param", "fast=3..5", "--study", "s", "--workers", "1"
    )
    assert swept_once.exit_code == 0, swept_once.output
    assert "3 were run now" in swept_once.output
    found = json.loads(said("runs", "show", "s", "--json").stdout)
    ids = [one["run_id"] for one in found["runs"]]
    assert found["digest"] in swept_once.output
    assert "trades open alike" in said("runs", "compare", ids[0][:8], ids[1][:8]).output
    assert json.loads(said("runs", "list", "--json").stdout)[0]["count"] == 3
    asked = said("runs", "delete", "s")
    assert "forget study 's' and 3 runs that no other study has?" in asked.output
    assert asked.exit_code == 1, "nobody said yes"
    assert "no study is older" in said("runs", "prune", "--older", "1d").output
    assert "3 runs would be gone" in said("runs", "prune", "--older", "0d", "--dry-run").output
    assert "3 runs are gone" in said("runs", "delete", "s", "--yes").output
    assert said("runs", "show", "s").exit_code == 2


def test_a_study_that_is_deleted_while_it_runs_is_there_in_the_end() -> None:
    deleted: list[int] = []

    def delete(done: int, total: int, failed: int) -> None:
        if not deleted:
            deleted.append(Studies(StoredRows()).delete("s"))

    first = swept(study="s", progress=delete)
    again = swept(study="s")
    assert (again.executed, again.digest) == (1, first.digest), "that which was done before"
    assert bt.load_study("s").digest == first.digest
