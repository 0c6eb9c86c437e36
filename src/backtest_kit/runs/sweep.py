"""Hands batches of runs to an executor until none is missing."""

from __future__ import annotations

import multiprocessing
import secrets
import time
from collections import Counter, deque
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import Any, Final

from backtest_kit.errors import DeclarationError
from backtest_kit.rules import DEFAULT, Rules
from backtest_kit.runs.ledger import LEASE_S, Ledger, Row
from backtest_kit.runs.plan import Plan, Run, make_plan
from backtest_kit.runs.pools import Kind, Pool
from backtest_kit.runs.rows import StoredRows
from backtest_kit.runs.studies import Studies
from backtest_kit.runs.study import Study
from backtest_kit.runs.telling import Reported, telling
from backtest_kit.runs.work import Batch, Outcome, run_batch

__all__ = ["sweep"]

BATCH_S: Final = 0.7
"""So long a batch shall take: a worker that dies loses little, and handing over costs nothing."""
BATCH_MAX: Final = 200
SUSPECTS_MAX: Final = 14
"""Runs of a batch whose worker died: one of them may have killed it."""
LOOK_S: Final = 0.5
"""How often runs that other workers do are looked after."""
LOOKED_MAX: Final = 200
"""So many of them each time."""


def sweep(
    strategy: Any = None,
    *,
    params: Any = None,
    symbols: str | Iterable[str],
    frame: Any = None,
    exchange: Any = None,
    executor: Executor | Kind | None = None,
    workers: int | None = None,
    study: str | None = None,
    samples: int | None = None,
    rules: Rules = DEFAULT,
    fill_gaps: bool = False,
    again: bool = False,
    attempts: int = 5,
    lease_s: float = LEASE_S,
    progress: Reported | bool | None = None,
) -> Study:
    """Backtest a strategy with every combination of parameters on every symbol. Called again it goes on: what has a
    result is answered from the store, on whichever host it was run.

        study = bt.sweep("ema_cross", params={"fast": [5, 9], "slow": [21, 55]}, symbols=["BTCUSDT"],
        frame="2024-01-01..2024-02-01") study.table()

    Args:
        strategy, exchange: names, or what was declared; may be left out where one is declared.
        params: a dict of lists (every combination), a list of dicts, or a function that draws one from a
            `random.Random`; they become arguments of get_signal after ctx.
        frame: as in `backtest`; a list of frames runs all of them.
        executor: None or "processes": a pool of this host; "serial": this process; or any
            `concurrent.futures.Executor`: threads, loky, Dask's `client.get_executor()`.
        workers: default: as many as there are cores.
        study: what it is called in `bkm runs`; default: the strategy's name and the hash of its code.
        samples: how often a function draws.
        again: do runs that have a result already once more.
        attempts: a run during which so many workers died is failed.
        lease_s: a worker that does not say anything for so long has lost its run.
        progress: informed of each step; True or None: a bar, if this is a terminal; False: nothing.

    Raises:
        DeclarationError: something does not fit; nothing was run.
        CandlesMissing: of a symbol; nothing was run.
        bk.EnvironmentFault: the store went away; what is done stays done.
    """
    _require_parent()
    plan = make_plan(
        strategy, params=params, symbols=symbols, frame=frame, exchange=exchange, study=study, samples=samples,
        rules=rules,
        fill_gaps=fill_gaps,
    )  # fmt: skip
    pool = Pool(executor, workers, has_file=plan.source.file is not None)
    studies = Studies(StoredRows())
    known = studies.known(plan)
    one = Sweep(plan, pool, known, again=again, attempts=attempts, lease_s=lease_s)
    if again or any(run.run_id not in known for run in plan.runs):
        one.prove()
    studies.note(plan)
    with telling(progress) as reported:
        found = one.run(reported)
    if found.executed:
        with suppress(DeclarationError):  # The name was given to other code meanwhile.
            studies.note(plan)  # Somebody may have deleted it while it ran.
    return found


def _require_parent() -> None:
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise DeclarationError(
            "sweep is called while a worker imports this script; put the call below `if __name__ == '__main__':`, or "
            "use `bkm sweep FILE`"
        )


class Sweep:
    """One call.

    Args:
        known: ids of runs that an earlier call of this study has planned.
    """

    def __init__(
        self, plan: Plan, pool: Pool, known: frozenset[str], *, again: bool, attempts: int, lease_s: float
    ) -> None:
        self._plan, self._pool, self._known = plan, pool, known
        self._batch = Batch(replace(plan, runs=()), (), "", lease_s, attempts, again=again, store=StoredRows.place())
        self._ledger = Ledger(StoredRows(), lease_s, attempts)
        self._rows: dict[str, Row] = {}
        self._waiting: deque[Run] = deque()
        self._busy: dict[str, Run] = {}
        self._deaths = Counter[str]()
        self._over: dict[str, int] = {}
        self._futures: dict[Future[list[Outcome]], tuple[Run, ...]] = {}
        self._lost: list[str] = []
        self._executed = self._failed = 0
        self._executed_before_break = 0
        self._run_s = 0.0
        self._next_look_s = 0.0

    def prove(self) -> None:
        """Have a worker do nothing: it finds the strategy, and the store.

        Raises:
            DeclarationError: it does not, or the executor takes no work.
        """
        nothing = replace(self._batch, pool=self._pool.name)
        try:
            while True:
                try:
                    self._pool.submit(run_batch, nothing).result()
                    return
                except BrokenExecutor as cause:
                    self._pool.renew(was_idle=True, cause=cause)
        except BaseException:
            self._pool.close()
            raise

    def run(self, reported: Reported) -> Study:
        """Until every run has ended.

        Raises:
            DeclarationError, bk.EnvironmentFault: it cannot go on; what is done stays done.
        """
        since = time.perf_counter()
        runs = [run for run in self._plan.runs if not self._is_answered(run)]
        self._waiting.extend(sorted(runs, key=lambda run: (run.symbol, run.candles)))
        self._waiting.rotate(secrets.randbelow(len(runs) or 1))  # So that two hosts do not want the same all the time.
        total = len(self._plan.runs)
        try:
            while self._waiting or self._futures or self._busy:
                self._submit()
                self._gather()
                self._look_after_others()
                reported(len(self._rows), total, self._failed)
        finally:
            for future in self._futures:
                future.cancel()
            self._pool.close()
        rows = tuple(self._rows[run.run_id] for run in self._plan.runs)
        return Study(
            self._plan.study, rows, self._executed, time.perf_counter() - since, (*self._plan.notes, *self._lost)
        )

    def _is_answered(self, run: Run) -> bool:
        """What an earlier call has done needs no worker."""
        if self._batch.again or run.run_id not in self._known:
            return False
        row = self._ledger.read(run.run_id)
        if row is None or not row.has_ended:
            return False
        self._answer(row)
        return True

    def _answer(self, row: Row) -> None:
        self._rows[row.run_id] = row
        self._failed += row.status == "failed"

    def _submit(self) -> None:
        while self._waiting and len(self._futures) < self._pool.slots:
            runs = self._next()
            over = {run.run_id: self._over.pop(run.run_id) for run in runs if run.run_id in self._over}
            are_new = not (over or self._batch.again or any(map(self._is_known, runs)))
            batch = replace(
                self._batch, runs=runs, over=over, are_new=are_new, pool=self._pool.name, dead=tuple(self._pool.dead),
            )  # fmt: skip
            try:
                self._futures[self._pool.submit(run_batch, batch)] = runs
            except BrokenExecutor as cause:
                self._waiting.extendleft(runs)
                self._begin_anew(cause)

    def _is_known(self, run: Run) -> bool:
        return run.run_id in self._known or run.run_id in self._deaths

    def _next(self) -> tuple[Run, ...]:
        """Runs of the next batch. Where workers died the batches get smaller, until the one that kills them is alone:
        its attempts are no other run's.
        """
        most, taken = self._size(), list[Run]()
        while self._waiting and len(taken) < most:
            most = min(most, self._bound(self._waiting[0]))
            if len(taken) < most:
                taken.append(self._waiting.popleft())
        return tuple(taken)

    def _bound(self, run: Run) -> int:
        deaths = self._deaths[run.run_id]
        if deaths >= min(2, self._batch.attempts - 1):
            return 1
        return SUSPECTS_MAX if deaths else BATCH_MAX

    def _size(self) -> int:
        """Runs of the next batch, by what a run has taken so far, and fewer towards the end."""
        share = -(-len(self._waiting) // self._pool.slots)
        if not self._executed:
            return 1
        return max(1, min(BATCH_MAX, share, int(BATCH_S / max(1e-4, self._run_s / self._executed))))

    def _gather(self) -> None:
        if not self._futures:
            return
        ended, _ = wait(self._futures, timeout=LOOK_S, return_when=FIRST_COMPLETED)
        for future in ended:
            runs = self._futures.pop(future, ())
            try:
                outcomes = future.result()
            except BrokenExecutor as cause:
                self._futures[future] = runs
                self._begin_anew(cause)
                return
            for run, outcome in zip(runs, outcomes, strict=True):
                self._take(run, outcome)

    def _take(self, run: Run, outcome: Outcome) -> None:
        if outcome.row is None:
            self._busy[run.run_id] = run
            self._lost += [outcome.lost] if outcome.lost else []
            return
        self._answer(outcome.row)
        if outcome.was_run:
            self._executed += 1
            self._run_s += outcome.elapsed_s

    def _begin_anew(self, cause: BaseException) -> None:
        """A worker has died, and its pool with it: all that was handed out is handed out again."""
        for runs in self._futures.values():
            self._waiting.extendleft(runs)
            self._deaths.update(run.run_id for run in runs)
        self._futures.clear()
        self._pool.renew(was_idle=self._executed == self._executed_before_break, cause=cause)
        self._executed_before_break = self._executed

    def _look_after_others(self) -> None:
        now = time.monotonic()
        if not self._busy or now < self._next_look_s:
            return
        self._next_look_s = now + LOOK_S
        for run in list(islice(self._busy.values(), LOOKED_MAX)):
            found = self._ledger.watch(run.run_id)
            del self._busy[run.run_id]
            if found is None:
                self._busy[run.run_id] = run  # Behind the others.
            elif isinstance(found, Row):
                self._answer(found)
            else:
                self._over[run.run_id] = found
                self._deaths[run.run_id] += 1
                self._waiting.append(run)
        if self._busy and not self._futures and not self._waiting:
            time.sleep(LOOK_S)
