"""The whole run: servers, clients, faults, calm, checks."""

import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.database import Database
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from backtest_kit_mongo.coherence.keys import streams
from backtest_kit_verify.chaos.audit_checks import (
    AuditState,
    AuditVerdict,
    check_audit,
    check_records,
    differing_copies,
)
from backtest_kit_verify.chaos.checks import Evidence, Story, Violation, check_history, stories
from backtest_kit_verify.chaos.client import Task
from backtest_kit_verify.chaos.epochs import split
from backtest_kit_verify.chaos.errors import ChaosError
from backtest_kit_verify.chaos.evidence import counted, direct, gather, held
from backtest_kit_verify.chaos.faults import OF_WORKERS, TABLE, Fault, Injector
from backtest_kit_verify.chaos.faulty_servers import DATABASE, LEASE_MS, REDIS_ERRORS, Servers, settings_of
from backtest_kit_verify.chaos.feed_checks import FeedVerdict, check_feed
from backtest_kit_verify.chaos.feed_evidence import Feed
from backtest_kit_verify.chaos.fleet import CLIENT, Fleet
from backtest_kit_verify.chaos.history import History, load_history
from backtest_kit_verify.chaos.journal import CallKind
from backtest_kit_verify.chaos.strangers import Strangers
from backtest_kit_verify.chaos.wire import Wire
from backtest_kit_verify.chaos.workers import WORKER, Workers, owed_by_group
from backtest_kit_verify.chaos.workload import Workload

__all__ = ["Options", "Outcome", "run_chaos"]

TICK_S = 0.02
COLLECT_S = 0.5
CALM_S = 1.5 * LEASE_MS / 1000
READY_S = 120.0
OVERTIME_S = 60.0
"""How much longer a run goes on at most in which a fault has not happened yet."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for; see the command's help.

    Attributes:
        client: the command that runs one client.
        faults: what happens.
        workers: how many worker processes consume the feed and are killed too. With any, the audit log and a replica
            are checked at the end instead of the feed.
        worker: the command that runs one worker.
        worker_faults: what happens besides if there are workers.
        settle_s: how long the workers may get no further at the end before that counts as standing still.
        memory_max: of Redis, in bytes, all the time; 0: no limit.
    """

    minutes: float = 1.0
    seed: str = ""
    writers: int = 3
    readers: int = 3
    keys: int = 24
    pause_ms: float = 8.0
    client: Sequence[str] = CLIENT
    faults: Sequence[Fault] = TABLE
    workers: int = 0
    worker: Sequence[str] = WORKER
    worker_faults: Sequence[Fault] = OF_WORKERS
    settle_s: float = 300.0
    memory_max: int = 0

    @property
    def all_faults(self) -> tuple[Fault, ...]:
        return (*self.faults, *self.worker_faults) if self.workers else tuple(self.faults)


@dataclass(slots=True)
class Outcome:
    """What happened.

    Attributes:
        faults: how often each happened.
        stopped_ns: when each process was stopped and resumed.
        cached_count: cache entries that were compared with MongoDB.
        unjudged_count: reads of clients that could not know of a restore yet.
        recorded_count: audit records that were compared with what clients were informed.
        kept: where the journals are, if there is a violation.
    """

    options: Options
    history: History
    stopped_ns: Mapping[str, Sequence[tuple[int, float]]]
    faults: Counter[str]
    evicted_count: int
    cached_count: int
    document_count: int
    violations: list[Violation]
    feed: FeedVerdict
    audit: AuditVerdict | None = None
    unjudged_count: int = 0
    recorded_count: int = 0
    kept: Path | None = None


def run_chaos(options: Options, console: Console) -> Outcome:
    """Run it; `console` gets the progress.

    Raises:
        ChaosError: a server does not come back, a process hangs, or nothing was done.
        EmbeddedError: the private servers cannot be started.
    """
    directory = Path(tempfile.mkdtemp(prefix="bkm-chaos-"))
    try:
        outcome = _run(options, directory, console)
        if outcome.violations:
            outcome.kept = Path(tempfile.mkdtemp(prefix="bkm-chaos-journals-"))
            shutil.copytree(directory / "journals", outcome.kept, dirs_exist_ok=True)
        return outcome
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class _Record:
    """What a run leaves behind, beside the journals."""

    fleet: Fleet
    injector: Injector
    evidence: Evidence
    audit: AuditVerdict | None
    worker_crashes: Sequence[str]


def _run(options: Options, directory: Path, console: Console) -> Outcome:
    journals = directory / "journals"
    journals.mkdir()
    workload = Workload(options.keys, options.writers)
    with closing(Servers(directory, options.memory_max)) as servers:
        record = _on_servers(options, servers, workload, journals, console)
    console.print("Checking ...")
    rows = {str(scope): [str(row) for row in workload.rows if row.scope == scope] for scope in workload.ledgers}
    history = load_history(journals, rows)
    history.killed_ns = record.fleet.killed_ns
    history.redis_kills, history.flushes = record.injector.redis_kills, record.injector.flushes
    history.mongo_bound_ms = servers.settings.mongo_bound_ms + round(servers.settings.mongo_arrival_ms)
    if not any(op.is_hit for op in history.operations) or not any(op.has_written for op in history.operations):
        said = " ".join(record.fleet.crashes)
        raise ChaosError(f"The clients did not get to read and write, so nothing can be said. {said}")
    return _judge(options, history, record)


def _on_servers(options: Options, servers: Servers, workload: Workload, journals: Path, console: Console) -> _Record:
    settings = servers.settings
    feed = Feed(servers.redis, streams(settings.database, settings.partitions), trims=not options.workers)
    # What this shell configures for a strategy is not for these clients.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CC_")}
    with ExitStack() as stack:
        wires = {slot: stack.enter_context(servers.wire()) for slot, _ in _slots(options)}
        tasks = [_task(options, servers, journals, slot, role, wires[slot]) for slot, role in _slots(options)]
        workers = stack.enter_context(
            closing(Workers(options.workers, options.worker, servers, environment, options.seed))
        )
        fleet = stack.enter_context(Fleet(tasks, options.seed, options.client, environment))
        client = stack.enter_context(MongoClient[dict[str, Any]](direct(servers), tz_aware=True))
        strangers = Strangers(client, servers.redis, settings.database, list(feed.streams), workload.documents)
        injector = Injector(
            servers, fleet, feed, workload.documents, options.seed, wires, workers, strangers,
            lambda: held(client[settings.database], workload, CallKind.RESTORED),
            lambda: counted(client[settings.database]),
        )  # fmt: skip
        with _progress(console) as progress:
            drive = _Drive(options, fleet, injector, feed, progress, workers)
            drive.run()
            fleet.audit(_task(options, servers, journals, "auditor", "auditor"))
            audit = _audit(options, servers, workload, injector, workers, drive) if options.workers else None
        return _Record(fleet, injector, gather(servers, feed, workload), audit, workers.crashes)


def _audit(
    options: Options, servers: Servers, workload: Workload, injector: Injector, workers: Workers, drive: "_Drive"
) -> AuditVerdict:
    """Let the workers finish, and see what they have made of it."""
    settings = servers.settings
    names = streams(settings.database, settings.partitions)
    keys = (*workload.documents, *workload.rows)
    with MongoClient[dict[str, Any]](direct(servers), tz_aware=True) as client:
        database: Database[dict[str, Any]] = client[settings.database]
        state = AuditState(database, keys, lambda: owed_by_group(servers.redis, names))
        left = workers.settle(state, drive.settling, options.settle_s)
        copies = client[f"{settings.database}-replica"]
        differing = differing_copies(database, copies, keys) if options.worker_faults else workers.differing_replicas()
        return check_audit(database, keys, injector.traces(), left, differing)


def _judge(options: Options, history: History, record: _Record) -> Outcome:
    violations: list[Violation] = []
    reported: list[Story] = []
    unjudged = 0
    evidence = record.evidence
    if record.injector.restores:
        evidence = replace(evidence, events={}, reported={})  # They do not say of which epoch their revisions are.
    for epoch in split(history, record.injector.restores):
        known = evidence if epoch.is_last else Evidence((), (), {}, {}, is_final=False)
        reported = stories(epoch.history, known)
        violations += check_history(reported)
        unjudged += epoch.unjudged
    recorded = 0
    if record.audit is not None:
        recorded, wrong = check_records(record.audit.reported, reported)
        violations += wrong
    # Workers trim the feed and recovery repeats its events, so there the log is what is complete.
    feed = check_feed(history, record.evidence, reported) if record.audit is None else FeedVerdict(0, {}, 0)
    crashes = [Violation("a client crashed", "", text) for text in record.fleet.crashes]
    crashes += [Violation("a worker crashed", "", text) for text in record.worker_crashes]
    audit = record.audit.violations if record.audit is not None else ()
    return Outcome(
        options=options,
        history=history,
        stopped_ns=record.fleet.stopped_ns,
        faults=record.injector.counts,
        evicted_count=record.injector.evicted_count,
        cached_count=len(record.evidence.cached),
        document_count=len(record.evidence.stored),
        violations=[*violations, *feed.violations, *audit, *crashes],
        feed=feed,
        audit=record.audit,
        unjudged_count=unjudged,
        recorded_count=recorded,
    )


def _slots(options: Options) -> Iterator[tuple[str, str]]:
    yield from ((f"w{number}", "writer") for number in range(options.writers))
    yield from ((f"r{number}", "reader") for number in range(options.readers))


def _task(options: Options, servers: Servers, journals: Path, slot: str, role: str, wire: Wire | None = None) -> Task:
    settings = settings_of(servers.endpoints)
    if wire is not None:
        settings["mongo_connection_string"] = f"mongodb://127.0.0.1:{wire.port}/{DATABASE}?directConnection=true"
    return Task(
        slot=slot,
        turn=0,
        role=role,
        seed=options.seed,
        settings=settings,
        document_count=options.keys,
        writer_count=options.writers,
        pause_ms=options.pause_ms,
        journal=str(journals / f"{slot}.0.jsonl"),
    )


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[counts]}"), TimeElapsedColumn())
    # Bars that cannot be redrawn are noise in a file.
    return Progress(*columns, console=console, disable=not console.is_terminal)


class _Drive:
    """One thread does everything: it hurts, heals, restarts, collects events and shows how it goes."""

    def __init__(
        self, options: Options, fleet: Fleet, injector: Injector, feed: Feed, progress: Progress, workers: Workers
    ) -> None:
        self._duration_s = options.minutes * 60
        self._faults = options.all_faults
        self._fleet, self._injector, self._feed, self._workers = fleet, injector, feed, workers
        self._progress = progress
        self._collected_s = 0.0

    def run(self) -> None:
        """Faults, then calm for longer than a lease; then all clients have stopped."""
        bar = self._bar = self._progress.add_task("starting", total=None, counts="")
        self._fleet.start()
        self._until_all_are_ready(bar)
        began_s = time.monotonic()
        self._injector.begin(self._faults, began_s, self._duration_s)
        self._progress.update(bar, description="chaos", total=self._duration_s)
        while (now_s := time.monotonic()) < began_s + self._duration_s or (
            self._missing_faults and now_s < began_s + self._duration_s + OVERTIME_S
        ):
            self._injector.tick(now_s)
            self._step(bar, now_s - began_s)
        self._injector.heal()
        self._progress.update(bar, description="calm", total=None)
        calm_s = time.monotonic()
        while time.monotonic() < calm_s + CALM_S:
            self._step(bar, None)
        self._until_all_are_ready(bar)
        self._fleet.dismiss()

    @property
    def _missing_faults(self) -> bool:
        """A short run on a busy machine goes on until each has happened."""
        return not all(self._injector.counts[fault.name] for fault in self._faults)

    def settling(self, left: str) -> None:
        """Show what the workers have still to do."""
        self._progress.update(self._bar, description="catching up", counts=left)

    def _until_all_are_ready(self, bar: TaskID) -> None:
        deadline_s = time.monotonic() + READY_S
        while len(self._fleet.candidates(unhurt=False)) < len(self._fleet.members):
            if self._fleet.crashes:
                return  # Whoever is missing has crashed, and that is a violation.
            if time.monotonic() > deadline_s:
                raise ChaosError(f"Not all clients were ready after {READY_S:g} s; this machine is too busy.")
            self._step(bar, None)

    def _step(self, bar: TaskID, elapsed_s: float | None) -> None:
        self._fleet.tick()
        self._workers.tick()
        now_s = time.monotonic()
        if now_s >= self._collected_s + COLLECT_S:
            self._collected_s = now_s
            self._collect()
            self._progress.update(bar, completed=elapsed_s, counts=self._counts())
        time.sleep(TICK_S)

    def _collect(self) -> None:
        try:
            self._feed.collect()
        except REDIS_ERRORS:
            return  # It is down on purpose; the next time will do.

    def _counts(self) -> str:
        reads, writes, failures = (
            sum(member.total(name) for member in self._fleet.members) for name in ("reads", "writes", "failures")
        )
        hurt = sum(self._injector.counts.values())
        return f"{reads:,} reads  {writes:,} writes  {failures:,} failed  {hurt:,} faults"
