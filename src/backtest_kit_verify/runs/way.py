"""One way to do the study: a process of its own, with its own store or the one that all hosts share.

    python -m backtest_kit_verify.runs.way '{"file": .., "runs": .., "workers": .., ..}'

Does the study, does it again, and prints what the ledger says as one line of JSON.
"""

from __future__ import annotations

import json
import logging
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["Seen", "Task", "main"]


@dataclass(frozen=True, slots=True)
class Task:
    """Attributes:
    file: the strategy's.
    frame: FROM..TO.
    kind: "processes", "serial" or "dask".
    kill: share of the workers that are killed.
    """

    file: str
    frame: str
    runs: int
    kind: str = "processes"
    workers: int = 1
    kill: float = 0.0
    lease_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of it.

    Attributes:
        executed, again: runs that the first and the second call did.
        lost: runs without a result.
        twice: runs of which more was written than one claim for each attempt, and one result.
        attempts: claims of all runs.
    """

    digest: str
    digest_again: str
    executed: int
    again: int
    lost: int
    failed: int
    twice: int
    attempts: int
    killed: int
    workers_seen: int
    elapsed_s: float


def main() -> None:
    task = Task(**json.loads(sys.argv[1]))
    logging.basicConfig(level=logging.ERROR)
    import backtest_kit as bt
    from backtest_kit import loading
    from backtest_kit_verify.runs.killing import Killer

    loading.prepare_store(Path(task.file), "backtest")
    loading.load_strategy(Path(task.file))
    killer = Killer(task.kill, task.runs, seed=task.workers)

    def swept(executor: Any, progress: Any) -> bt.Study:
        return bt.sweep(
            "cross", params={"number": range(task.runs)}, symbols="AAA", frame=task.frame, study="numbers",
            executor=executor, workers=task.workers, lease_s=task.lease_s, attempts=20, progress=progress,
        )  # fmt: skip

    with ExitStack() as stack:
        executor = _dask(stack, task.workers) if task.kind == "dask" else task.kind
        first = swept(executor, killer if task.kill else False)
    second = swept("serial", False)
    sys.stdout.write(json.dumps(asdict(_seen(first, second, killer))) + "\n")


def _dask(stack: ExitStack, workers: int) -> Any:
    from distributed import Client, LocalCluster

    made: Any = LocalCluster  # It has no types.
    client: Any = Client
    cluster = stack.enter_context(
        made(n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=40)
    )
    return stack.enter_context(client(cluster)).get_executor()


def _seen(first: Any, second: Any, killer: Any) -> Seen:
    from backtest_kit.runs.rows import StoredRows

    rows = StoredRows()
    found = [(row, *rows.read(row.run_id)) for row in first]
    return Seen(
        digest=first.digest, digest_again=second.digest, executed=first.executed, again=second.executed,
        lost=sum(stored is None or not stored.get("result") for _, stored, _ in found), failed=len(first.failed),
        twice=sum(revision != (stored or {}).get("attempt", 0) + 1 for _, stored, revision in found),
        attempts=sum((stored or {}).get("attempt", 0) for _, stored, _ in found),
        killed=len(killer.killed), workers_seen=len(killer.seen), elapsed_s=first.elapsed_s,
    )  # fmt: skip


if __name__ == "__main__":
    main()
