"""What must be true at the end, each as a function of the evidence."""

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from backtest_kit_mongo.coherence.record import Key
from backtest_kit_verify.demo.candles import Series
from backtest_kit_verify.demo.desk import same
from backtest_kit_verify.demo.evidence import DOCUMENTS, Evidence
from backtest_kit_verify.demo.fleet import HostRun

__all__ = ["Check", "Outcome", "run_checks"]

SHOWN = 3


class Check(NamedTuple):
    """A promise, whether it was kept, and the numbers."""

    name: str
    passed: bool
    detail: str


class Outcome(NamedTuple):
    """What the demo did; `evidence` is what that left in the servers. `foreign_worker`: it started none of its own."""

    runs: Sequence[HostRun]
    series: Sequence[Series]
    evidence: Evidence
    worker_exit: int
    is_consumed: bool
    kill: bool
    foreign_worker: bool = False


def run_checks(outcome: Outcome) -> list[Check]:
    """All checks, in the order in which they should be read."""
    checks = [_hosts, *([_resumed] if outcome.kill else []), _candles, _results, _live_reads, _read_back, _truth]
    return [check(outcome) for check in (*checks, _nothing_else, _audit, _candle_audit, _worker)]


def _shown(found: Iterator[str]) -> str:
    """The first differences; empty if there is none."""
    listed = list(found)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return "; ".join(listed[:SHOWN]) + more


def _check(name: str, differences: Iterator[str], detail: str) -> Check:
    wrong = _shown(differences)
    return Check(name, not wrong, wrong or detail)


def _hosts(outcome: Outcome) -> Check:
    failures = (
        f"{run.task.host.label} after {run.bars} of {run.bars_total} bars: {run.failure or 'ended early'}"
        for run in outcome.runs
        if run.failure or run.bars != run.bars_total
    )
    restarts = sum(len(run.failures) for run in outcome.runs)
    detail = f"{len(outcome.runs)} hosts" + (f", started again {restarts} times after a failure" if restarts else "")
    return _check("every host replayed all its bars", failures, detail)


def _resumed(outcome: Outcome) -> Check:
    name = "the killed host resumed where it was"
    for run in outcome.runs:
        killed = run.killed
        if killed is None:
            continue
        resumed_at = killed.resumed_at if killed.resumed_at is not None else -1
        passed = killed.exit_code == -signal.SIGKILL and killed.after_bars <= resumed_at < run.bars_total
        detail = f"pid {killed.pid} got SIGKILL after bar {killed.after_bars:,}, the next went on at {resumed_at:,}"
        return Check(name, passed, detail)
    return Check(name, False, "no host was killed")


def _candles(outcome: Outcome) -> Check:
    differences = (
        f"{series.symbol}: {'missing' if stored is None else 'different'}"
        for series, stored in zip(outcome.series, outcome.evidence.candles, strict=True)
        if stored is None or stored != list(series.candles)
    )
    count = sum(len(series.candles) for series in outcome.series)
    return _check("the store returns the candles of the files", differences, f"{count:,} candles")


def _results(outcome: Outcome) -> Check:
    def differences() -> Iterator[str]:
        for run in outcome.runs:
            book = outcome.evidence.expected.books[run.task.host]
            found = run.last.get("trades"), run.last.get("pnl_percent")
            if found != (book.trades, book.pnl_percent):
                yield f"{run.task.host.label}: {found} instead of {(book.trades, book.pnl_percent)}"

    trades = sum(book.trades for book in outcome.evidence.expected.books.values())
    return _check("trades and PnL equal those of the same replay in memory", differences(), f"{trades:,} trades")


def _live_reads(outcome: Outcome) -> Check:
    differences = (mismatch for run in outcome.runs for mismatch in run.mismatches)
    compared = sum(int(run.total("compared")) for run in outcome.runs)
    return _check("every read of a host gave what it had written last", differences, f"{compared:,} reads")


def _different(expected: Mapping[Key, bytes], found: Callable[[Key], Any]) -> Iterator[str]:
    for key, body in expected.items():
        if not same(found(key), body):
            yield f"{key.domain.name} {'/'.join(map(str, key.parts))}"


def _read_back(outcome: Outcome) -> Check:
    last, read = outcome.evidence.expected.last, outcome.evidence.read
    name = "every value read back through the adapters equals the last write"
    return _check(name, _different(last, lambda key: read[key]), f"{len(last):,} values")


def _truth(outcome: Outcome) -> Check:
    last, records = outcome.evidence.expected.last, outcome.evidence.records
    found = _different(last, lambda key: records[key].payload if key in records else None)
    missing = (f"{key.domain.name} {key.parts} is missing" for key in last if key not in records)
    return _check("so does MongoDB's own document", (*missing, *found).__iter__(), f"{len(records):,} documents")


def _nothing_else(outcome: Outcome) -> Check:
    expected = dict.fromkeys(DOCUMENTS, 0)
    for key in outcome.evidence.expected.last:
        expected[key.domain] += 1
    differences = (
        f"{domain.name}: {outcome.evidence.documents[domain]:,} documents instead of {count:,}"
        for domain, count in expected.items()
        if outcome.evidence.documents[domain] != count
    )
    return _check("nothing was lost and nothing doubled", differences, f"{sum(expected.values()):,} documents")


def _audit(outcome: Outcome) -> Check:
    """(document, revision) names an event once and for all, so the records of a document must be 1 to its revision."""
    evidence = outcome.evidence
    found = dict(evidence.revisions)

    def differences() -> Iterator[str]:
        for key, record in evidence.records.items():
            revs = found.pop((key.domain.name, record.id), [])
            missing = sorted(set(range(1, record.rev + 1)) - set(revs))
            doubled = sorted({rev for rev in revs if revs.count(rev) > 1})
            if missing or doubled or len(revs) != record.rev:
                yield f"{key.domain.name} {'/'.join(map(str, key.parts))}: missing {missing}, doubled {doubled}"
        yield from (f"{domain} {document} is not a document of the run" for domain, document in found)

    events = sum(evidence.events(domain) for domain in DOCUMENTS)
    return _check("every event has exactly one audit record", differences(), f"{events:,} events")


def _candle_audit(outcome: Outcome) -> Check:
    evidence = outcome.evidence
    differences = (
        f"{series.symbol}: {audited['candles']:,} candles in the audit, {stored:,} in the store"
        for series, audited, stored in zip(
            outcome.series, evidence.candle_audits, evidence.candle_documents, strict=True
        )
        if audited["candles"] != stored
    )
    batches = sum(audited["batches"] for audited in evidence.candle_audits)
    return _check("every stored candle is in exactly one audited batch", differences, f"{batches:,} batches")


def _worker(outcome: Outcome) -> Check:
    passed = outcome.worker_exit == 0 and outcome.is_consumed
    left = "nothing left in the feed" if outcome.is_consumed else "entries are left in the feed"
    if outcome.foreign_worker:
        return Check("the database's own worker drained the feed", passed, left)
    return Check("the worker drained the feed and stopped", passed, f"{left}, exit code {outcome.worker_exit}")
