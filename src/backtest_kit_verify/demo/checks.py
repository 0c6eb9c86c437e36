"""What must be true at the end, each as a function of what the demo did and left behind."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from backtest_kit.events import Event
from backtest_kit.moments import minute_text
from backtest_kit_verify.demo.candles import Series
from backtest_kit_verify.demo.evidence import Evidence
from backtest_kit_verify.demo.fleet import HostRun
from backtest_kit_verify.demo.swept import Swept
from backtest_kit_verify.undisturbed import differing

__all__ = ["Check", "Outcome", "run_checks"]

SHOWN: Final = 3


class Check(NamedTuple):
    """A promise, whether it was kept, and the numbers."""

    name: str
    passed: bool
    detail: str


class Outcome(NamedTuple):
    """What the demo did.

    Attributes:
        replayed: what a backtest of each host's minutes comes to, by strategy.
        lost: answers of a strategy that were lost to a kill.
        worker_exit: of the worker that it started; None: it started none.
        swept: the study at the end.
    """

    runs: Sequence[HostRun]
    series: Sequence[Series]
    evidence: Evidence
    replayed: Mapping[str, Sequence[Event]]
    lost: int
    worker_exit: int | None
    swept: Swept


def run_checks(outcome: Outcome) -> list[Check]:
    """All checks, in the order in which they should be read."""
    kills = [_resumed] if any(run.killed for run in outcome.runs) else []
    return [check(outcome) for check in (_hosts, *kills, _trades, _risks, _cache, _audit, _candles, _worker, _sweep)]


def _check(name: str, differences: Iterable[str], detail: str) -> Check:
    found = list(differences)
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return Check(name, not found, "; ".join(found[:SHOWN]) + more or detail)


def _hosts(outcome: Outcome) -> Check:
    failures = (
        f"{run.task.label} after {run.minutes} of {run.task.minutes} minutes: {run.failure or 'ended early'}"
        for run in outcome.runs
        if run.failure or run.minutes < run.task.minutes - 1
    )
    minutes = max(run.task.minutes for run in outcome.runs)
    return _check(
        "every host lived all its minutes", failures, f"{len(outcome.runs)} processes, {minutes:,} minutes each"
    )


def _resumed(outcome: Outcome) -> Check:
    killed = [(run.task, run.killed) for run in outcome.runs if run.killed is not None]
    wrong = (
        (
            f"{task.label}: exit code {one.exit_code}, killed at {minute_text(one.at_ms)}, went on at "
            f"{minute_text(one.resumed_ms)}"
        )
        for task, one in killed
        if one.exit_code != -signal.SIGKILL or not task.start_ms < one.resumed_ms <= task.end_ms
    )
    reported = (
        f"{task.label} (pid {one.pid}) at {minute_text(one.at_ms)}{f' holding a {one.holds}' if one.holds else ''}, "
        f"on at {minute_text(one.resumed_ms)}"
        for task, one in killed
    )
    return _check("every host was killed with SIGKILL and the next process went on", wrong, "; ".join(reported))


def _trades(outcome: Outcome) -> Check:
    differences = (
        f"{strategy}: {difference}"
        for strategy, events in outcome.replayed.items()
        for difference in differing(outcome.evidence.history[strategy], events)
    )
    count = sum(event.action == "closed" for events in outcome.replayed.values() for event in events)
    lost = f"; {outcome.lost} answers of the strategy died with their process" if outcome.lost else ""
    return _check("every trade is that of a backtest of the same file", differences, f"{count:,} trades, to 1e-9{lost}")


def _risks(outcome: Outcome) -> Check:
    """A host holds at most one position, and its risk knows exactly that one."""

    def wrong() -> Iterable[str]:
        for strategy, rows in outcome.evidence.history.items():
            opened = sum(row["status"] == "opened" for row in rows)
            held = outcome.evidence.risks[strategy]
            if opened != held or opened > 1:
                yield f"{strategy}: {opened} rows of the history are open, {held} places of its risk are taken"

    held = sum(outcome.evidence.risks.values())
    return _check("no position is left over, doubled or forgotten", wrong(), f"{held} still open at the last minute")


def _cache(outcome: Outcome) -> Check:
    report = outcome.evidence.cache
    wrong = [f"{one.key}: revision {one.cached_rev} in Redis, {one.stored_rev} in MongoDB" for one in report.violations]
    if not report.checked:
        wrong.append("Redis has no entry of the run")
    return _check("every entry in Redis equals MongoDB's document", wrong, f"{report.checked:,} entries")


def _audit(outcome: Outcome) -> Check:
    """(document, revision) names a change once and for all, so the records of a document must be 1 to its revision."""
    evidence = outcome.evidence

    def differences() -> Iterable[str]:
        for (domain, document), rev in evidence.documents.items():
            revs = evidence.audited.get((domain, document), [])
            if sorted(revs) != list(range(1, rev + 1)):
                missing = sorted(set(range(1, rev + 1)) - set(revs))
                doubled = sorted({one for one in revs if revs.count(one) > 1})
                yield f"{domain} {document}: missing {missing}, doubled {doubled}"

    changes = sum(evidence.documents.values())
    detail = f"{changes:,} changes of {len(evidence.documents):,} documents"
    return _check("every change has exactly one audit record", differences(), detail)


def _candles(outcome: Outcome) -> Check:
    evidence = outcome.evidence
    differences = (
        f"{one.symbol}: {audited:,} candles in the audit, {len(one.candles):,} in the file"
        for one, audited in zip(outcome.series, evidence.candles, strict=True)
        if audited != len(one.candles)
    )
    detail = f"{sum(evidence.candles):,} candles in {sum(evidence.batches):,} batches"
    return _check("every candle is in exactly one audited batch", differences, detail)


def _worker(outcome: Outcome) -> Check:
    passed = not outcome.worker_exit and outcome.evidence.is_consumed
    left = "nothing is left in the feed" if outcome.evidence.is_consumed else "entries are left in the feed"
    code = "" if outcome.worker_exit is None else f", exit code {outcome.worker_exit}"
    return Check("the worker has taken everything", passed, left + code)


def _sweep(outcome: Outcome) -> Check:
    swept = outcome.swept
    wrong = [f"{swept.failed} of {swept.runs} runs failed"] if swept.failed else []
    if swept.again or swept.differing:
        wrong.append(
            f"called again it did {swept.again} runs, and its digest {'differs' * swept.differing or 'is equal'}"
        )
    detail = (
        f"{swept.runs} runs, {swept.executed} of them done now, digest {swept.digest}, and none when called again; the "
        f"best is {swept.best}"
    )
    return _check("a sweep over the same minutes is done once", wrong, detail)
