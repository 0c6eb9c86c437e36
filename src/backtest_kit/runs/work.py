"""What a worker does with a batch of runs. The one function that is sent to processes and hosts: `run_batch`."""

from __future__ import annotations

import os
import time
import traceback
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import backtest_kit_mongo as bk
from backtest_kit import declare, loading
from backtest_kit.declare import Strategy
from backtest_kit.errors import DeclarationError, StrategyFailed, StrategyFileError
from backtest_kit.identity import MINUTE_MS
from backtest_kit.market import History
from backtest_kit.running import RUNS_DIRECTORY, Job, replay_job
from backtest_kit.runs.code import Source, source_of
from backtest_kit.runs.ledger import Claim, Ledger, Row
from backtest_kit.runs.params import with_params
from backtest_kit.runs.plan import Plan, Run, market_of
from backtest_kit.runs.rows import StoredRows
from backtest_kit.runs.series import SeriesFiles

__all__ = ["Batch", "Outcome", "run_batch"]

HISTORIES_MAX: Final = 8
STORE_S: Final = 0.3
"""So long results of short runs wait for others, to be stored together."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Runs for one worker, with all that it needs to know.

    Attributes:
        plan: without its runs.
        are_new: probably nobody has claimed them yet.
        again: do them although there are results.
        over: by run id, the revision of a claim that was seen to end.
        dead: pools that have ended.
        store: where the rows are; the worker must see the same.
    """

    plan: Plan
    runs: Sequence[Run]
    pool: str
    lease_s: float
    attempts: int
    are_new: bool = False
    again: bool = False
    over: Mapping[str, int] = field(default_factory=dict)
    dead: tuple[str, ...] = ()
    store: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run in a batch.

    Attributes:
        row: its row when it has ended; None: another worker does it, or took it over.
        was_run: this worker did it now.
        elapsed_s: what it took, all included.
        lost: why its result was not stored.
    """

    run_id: str
    row: Row | None
    was_run: bool = False
    elapsed_s: float = 0.0
    lost: str = ""


def run_batch(batch: Batch) -> list[Outcome]:
    """Do the runs that have no result yet and that nobody else does, in the order of the batch.

    Raises:
        DeclarationError: this worker does not find the same code, candles or store.
        bk.EnvironmentFault: the store cannot be reached.
    """
    return _worker(batch).do(batch)


class _Worker:
    """One process' share of a study: what it has loaded and read stays for the next batch."""

    def __init__(self, batch: Batch) -> None:
        self._strategy = _find(batch.plan.source)
        _require_store(batch.store)
        self._ledger = Ledger(StoredRows(), batch.lease_s, batch.attempts, batch.pool)
        self._files = SeriesFiles()
        self._histories: OrderedDict[tuple[str, str], History] = OrderedDict()

    def do(self, batch: Batch) -> list[Outcome]:
        found = self._ledger.claim(
            batch.plan, batch.runs, are_new=batch.are_new, again=batch.again, over=batch.over, dead=batch.dead
        )
        claims = {run_id: one for run_id, one in found.items() if isinstance(one, Claim)}
        outcomes = {run_id: Outcome(run_id, one) for run_id, one in found.items() if not isinstance(one, Claim)}
        ended: list[tuple[Claim, Row]] = []
        stored_s = time.monotonic()
        try:
            for run in batch.runs:
                if run.run_id not in claims:
                    continue
                since_s = time.perf_counter()
                row = self._replay(batch.plan, run, claims[run.run_id])
                outcomes[run.run_id] = Outcome(run.run_id, row, was_run=True, elapsed_s=time.perf_counter() - since_s)
                ended.append((claims.pop(run.run_id), row))
                if time.monotonic() - stored_s > STORE_S:
                    self._store(ended, outcomes)
                    stored_s = time.monotonic()
        finally:
            self._store(ended, outcomes)
            self._ledger.give_back(claims.values())
        return [outcomes[run.run_id] for run in batch.runs]

    def _store(self, ended: list[tuple[Claim, Row]], outcomes: dict[str, Outcome]) -> None:
        for (claim, row), is_stored in zip(ended, self._ledger.store(ended), strict=True):
            if not is_stored:
                outcomes[row.run_id] = Outcome(row.run_id, None, lost=str(claim))
        ended.clear()

    def _replay(self, plan: Plan, run: Run, claim: Claim) -> Row:
        strategy = with_params(self._strategy, run.params)
        exchange = _exchange(plan.exchange)
        risks = tuple(declare.risks.get(name) for name in strategy.risks)
        job = Job(strategy, exchange, risks, run.symbol, "backtest", run.framed, plan.rules, plan.fill_gaps)
        directory = RUNS_DIRECTORY / f"{run.run_id}-{claim.row.attempt}"
        try:
            with bk.keeping_blocks(self._files.directory):
                result = replay_job(job, run.run_id, directory, lambda _: self._history(run, job))
        except (StrategyFailed, bk.LookAhead):
            return claim.failed(traceback.format_exc())
        return claim.done(result)

    def _history(self, run: Run, job: Job) -> History:
        key = (run.symbol, run.candles)
        if key not in self._histories:
            market = market_of(job)
            series = self._files.get(
                run.candles, MINUTE_MS, lambda: market.minutes(run.start, run.end, job.rules.vwap_candles)
            )
            keep = partial(self._files.noted, f"{self._ledger.pool} {run.symbol} {run.candles}")
            self._histories[key] = History(market, run.start, run.end, series, keep)
            if len(self._histories) > HISTORIES_MAX:
                self._histories.popitem(last=False)
        self._histories.move_to_end(key)
        return self._histories[key]


_workers: dict[tuple[object, ...], _Worker] = {}


def _worker(batch: Batch) -> _Worker:
    """Of this process and study; a fork starts anew."""
    key = (os.getpid(), batch.pool, batch.plan.source, batch.plan.exchange, batch.plan.rules)
    if key not in _workers:
        _workers.clear()
        _workers[key] = _Worker(batch)
    return _workers[key]


def _find(source: Source) -> Strategy:
    """The strategy, declared here already or by its file."""
    found = {one.name: one for one in declare.strategies.list()}.get(source.strategy)
    if found is None and source.file is None:
        raise DeclarationError(
            f"strategy {source.strategy!r} was written at a prompt, and a worker in another process cannot find it. "
            "Save it in a file, or sweep with executor='serial'. Nothing was run."
        )
    if found is None:
        found = _loaded(source.strategy, _path(Path(str(source.file))))
    if (here := source_of(found).code) != source.code:
        raise DeclarationError(
            f"strategy {source.strategy!r} is another one here than where the study was planned ({here}, not "
            f"{source.code}); bring the same {source.file} to all hosts"
        )
    return found


def _loaded(name: str, path: Path) -> Strategy:
    try:
        loading.prepare_store(path, "backtest")
        loading.load_strategy(path)
        return declare.strategies.get(name)
    except (StrategyFileError, DeclarationError) as cause:
        raise DeclarationError(
            f"a worker in another process does not find strategy {name!r} when it imports {path}: {cause} Declare it "
            "at the top level of its file, not in a function or below `if __name__ == '__main__':`, or sweep with "
            "executor='serial'. Nothing was run."
        ) from cause


def _path(file: Path) -> Path:
    """Of a strategy's file on this host: where it was planned, in `CC_STRATEGY_DIR` (a container's /strategies), or
    here.
    """
    places = (file, Path(os.environ.get("CC_STRATEGY_DIR") or "/strategies") / file.name, Path.cwd() / file.name)
    return next((place for place in places if place.is_file()), file)


def _exchange(name: str) -> declare.Exchange:
    found = {one.name: one for one in declare.exchanges.list()}
    return found[name] if name in found else declare.Exchange(name)


def _require_store(wanted: str) -> None:
    if wanted and (here := StoredRows.place()) != wanted:
        raise DeclarationError(
            f"this worker keeps runs in {here}, and the study is in {wanted}. Give it the same settings "
            "(CC_MONGO_CONNECTION_STRING and the others, or setup_config.py beside the strategy)."
        )
