"""One client as a process: `python -m backtest_kit_verify.chaos.client`, its task as JSON on standard input.

SIGTERM: finish the call at hand, deliver what is kept for Redis, exit with 0. SIGUSR1 cuts the link to Redis, SIGUSR2
    mends
it. SIGINT is ignored: Ctrl-C reaches the whole process group, and the parent decides.
"""

import ctypes
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Self

from backtest_kit_mongo.coherence.plans import CERTAINLY_NOT_WRITTEN
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.errors import EnvironmentFault, ReadFailed, UnsafeServer, WriteOutcomeUnknown
from backtest_kit_mongo.settings import load
from backtest_kit_mongo.testing.calls import calls
from backtest_kit_mongo.testing.examples import BASE_MS
from backtest_kit_verify.chaos.journal import CallKind, Journal, Outcome
from backtest_kit_verify.chaos.observed import ObservedStore, observe
from backtest_kit_verify.chaos.workload import LIST, Workload, mark_of, payload_of, row_of

__all__ = ["READY", "Task", "main"]

READY = "ready"
PR_SET_PDEATHSIG = 1
REPORT_EVERY_S = 0.5
AFTER_FAILURE_S = 0.05
WITHOUT_PAUSE = 0.4
"""Share of calls that follow the one before at once: races need bursts, and the machine needs pauses."""
REMOVALS = 0.25
ROW_WRITES = 0.5
"""Share of writes of a list that write one row alone."""
SKEW = 1.5
"""Hot documents for writes that overlap, cold ones whose entry survives until something else makes it wrong."""
LOSES_REPLY = 0.5
"""Share of cuts whose first command is executed before the connection breaks."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a client is to do.

    Attributes:
        slot: `w0`, `r1` or `auditor`; `turn` counts the processes of a slot.
        role: `writer`, `reader`, or `auditor`, which reads everything twice and exits.
        settings: all that `settings.load` needs, so that the environment plays no part.
        pause_ms: mean of the pauses between calls.
    """

    slot: str
    turn: int
    role: str
    seed: str
    settings: dict[str, Any]
    document_count: int
    writer_count: int
    pause_ms: float
    journal: str

    @property
    def name(self) -> str:
        return f"{self.slot}.{self.turn}"

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls(**json.loads(text))


class Client:
    """Calls through the public registries, each between two lines of the journal."""

    def __init__(self, task: Task) -> None:
        workload = Workload(task.document_count, task.writer_count)
        self._task = task
        self._documents, self._lists = workload.documents, workload.ledgers
        self._rng = random.Random(f"{task.seed}/{task.name}")
        self._journal = Journal(Path(task.journal))
        self._store, self._link = observe(load(**task.settings), self._journal)
        self._registries = {
            domain: calls(domain).over(self._store) for domain in (*{key.domain for key in self._documents}, LIST)
        }
        self._weights = [(1 + rank) ** -SKEW for rank in range(len(self._documents))]
        self._rows = {scope: {item: self._mark() for item in workload.items(task.slot)} for scope in self._lists}
        self._counts = {"reads": 0, "writes": 0, "failures": 0}
        self._reported_s = 0.0
        self.is_stopping = False

    @property
    def store(self) -> ObservedStore:
        return self._store

    def cut(self, is_cut: bool) -> None:
        self._link.loses_next_reply = is_cut and self._rng.random() < LOSES_REPLY
        self._link.is_cut = is_cut

    def _mark(self) -> str:
        """Never used before, by this process or another."""
        return f"{self._task.name}.{self._rng.getrandbits(64):016x}"

    # -- one call

    def _call(
        self, kind: CallKind, key: Key, wanted: Any, call: Callable[[], Any], result: Callable[[Any], Any]
    ) -> None:
        number = self._journal.begin(kind, str(key), wanted)
        self._store.begin(number)
        is_read = kind in (CallKind.READ, CallKind.SCAN)
        try:
            answer = call()
        except Exception as error:
            text = f"{type(error).__name__}: {error!s:.160}"
            self._journal.raised(number, _outcome(error, is_read=is_read), text)
            self._counts["failures"] += 1
            time.sleep(AFTER_FAILURE_S)
            return
        self._journal.done(number, result(answer), self._store.is_deferred, number in self._link.left)
        self._counts["reads" if is_read else "writes"] += 1

    def read(self, key: Key) -> None:
        def result(answer: Any) -> Sequence[Any]:
            record = self._store.record
            assert record is not None
            # The value is what the caller got; a removed one is hidden from it, and only its revision is of interest.
            value = record.payload if record.removed else answer
            return record.rev, mark_of(key.domain, value), int(record.removed), int(self._store.is_hit)

        registry = self._registries[key.domain]
        self._call(CallKind.READ, key, None, lambda: calls(key.domain).read(registry, key.parts, None), result)

    def scan(self, scope: Key) -> None:
        registry = self._registries[scope.domain]
        self._call(
            CallKind.SCAN, scope, None, lambda: registry.read_storage_data(*scope.parts), lambda _: self._store.scanned
        )

    def write(self, key: Key) -> None:
        mark = self._mark()
        payload = payload_of(key, mark)
        registry = self._registries[key.domain]
        write = calls(key.domain).write
        self._call(CallKind.WRITE, key, mark, lambda: write(registry, payload, key.parts, BASE_MS), self._revision)

    def remove(self, key: Key) -> None:
        remove = getattr(self._registries[key.domain], f"remove_{key.domain.name}_data")
        self._call(CallKind.REMOVE, key, None, lambda: remove(*key.parts), self._revision)

    def _revision(self, _: Any) -> Sequence[Any]:
        record = self._store.record
        return () if record is None else (record.rev,)

    def merge(self, scope: Key) -> None:
        """Revision one row: give the whole list, as callers do, or that row alone."""
        rows = self._rows[scope]
        item = self._rng.choice(list(rows))
        rows[item] = mark = self._mark()
        registry = self._registries[scope.domain]
        if self._rng.random() < ROW_WRITES:
            self._call(
                CallKind.MERGE, scope, {item: mark}, lambda: registry.upsert_storage_data(row_of(item, mark),
                    *scope.parts),
                lambda _: self._store.merged,
            )  # fmt: skip
            return
        given = [row_of(item, mark) for item, mark in rows.items()]
        self._call(
            CallKind.MERGE, scope, dict(rows), lambda: registry.write_storage_data(given, *scope.parts),
            lambda _: self._store.merged,
        )  # fmt: skip

    # -- many calls

    def run(self) -> None:
        """Go on until asked to stop."""
        step = self._writer_step if self._task.role == "writer" else self._reader_step
        parent = os.getppid()
        while not self.is_stopping and os.getppid() == parent:
            step()
            self._report()
            if self._rng.random() > WITHOUT_PAUSE:
                time.sleep(self._rng.expovariate(1000 / self._task.pause_ms) if self._task.pause_ms else 0)

    def audit(self) -> None:
        """Read everything twice: what is not cached, and then what is."""
        for _ in range(2):
            for key in self._documents:
                self.read(key)
        for scope in self._lists:
            self.scan(scope)

    def _document(self) -> Key:
        return self._rng.choices(self._documents, self._weights)[0]

    def _writer_step(self) -> None:
        draw = self._rng.random()
        if draw < 0.15:
            return self.merge(self._rng.choice(self._lists))
        key = self._document()
        if draw < 0.3:
            return self.read(key)
        if key.domain.has_removed and self._rng.random() < REMOVALS:
            return self.remove(key)
        return self.write(key)

    def _reader_step(self) -> None:
        if self._rng.random() < 0.1:
            return self.scan(self._rng.choice(self._lists))
        return self.read(self._document())

    def _report(self) -> None:
        """For the progress bar only; what counts is in the journal."""
        now_s = time.monotonic()
        if now_s - self._reported_s >= REPORT_EVERY_S:
            self._reported_s = now_s
            print(json.dumps(self._counts), flush=True)  # noqa: T201


def _outcome(error: Exception, *, is_read: bool) -> Outcome:
    """What the error allows its caller to believe, by its documentation."""
    if is_read:
        return Outcome.REFUSED if isinstance(error, EnvironmentFault) else Outcome.UNDOCUMENTED
    if isinstance(error, (*CERTAINLY_NOT_WRITTEN, ReadFailed, UnsafeServer)):
        return Outcome.REFUSED
    return Outcome.UNKNOWN if isinstance(error, WriteOutcomeUnknown) else Outcome.UNDOCUMENTED


def _listen(client: Client) -> None:
    def on_signal(number: int, _: FrameType | None) -> None:
        if number == signal.SIGTERM:
            client.is_stopping = True
        else:
            client.cut(number == signal.SIGUSR1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, on_signal)


def main() -> None:
    """Entry point of the process."""
    # A stopped client cannot see that its parent died, so the kernel has to end it.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    task = Task.from_json(sys.stdin.read())
    client = Client(task)
    _listen(client)
    print(READY, flush=True)  # noqa: T201
    if task.role == "auditor":
        client.audit()
    else:
        client.run()
    client.store.close()


if __name__ == "__main__":
    main()
