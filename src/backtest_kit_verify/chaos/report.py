"""What a run shows: tables of operations, faults and the verdict, and an excerpt for each kind of violation; or the
same as JSON.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from backtest_kit_mongo.terminal import escape
from backtest_kit_verify.chaos.audit_checks import AuditVerdict
from backtest_kit_verify.chaos.checks import Violation
from backtest_kit_verify.chaos.faults import UNNOTICEABLE
from backtest_kit_verify.chaos.feed_checks import Cause
from backtest_kit_verify.chaos.history import History, Operation
from backtest_kit_verify.chaos.journal import CallKind, Outcome
from backtest_kit_verify.chaos.run import Outcome as RunOutcome

__all__ = ["as_json", "show"]

CALLS = (CallKind.READ, CallKind.SCAN, CallKind.WRITE, CallKind.REMOVE, CallKind.MERGE)
NAMES = {
    CallKind.READ: "read a document",
    CallKind.SCAN: "read a list",
    CallKind.WRITE: "write a document",
    CallKind.REMOVE: "remove a document",
    CallKind.MERGE: "write a list",
}
PROMISES = (
    "a stale read", ("a stale cache "
        "entry"), "an acknowledged write lost", "a revision went back", "a write that came late",
    ("one revision, "
        "two writes"), ("one revision, "
            "two values"), "a value that nobody wrote", "a refused write happened", "a write applied twice",
    "a document twice", "a missing event", "an event repeated", "an event of nothing", "an undocumented error",
    "a client crashed", "a revision without exactly one record", "a record of another value", "a record of nothing",
    "a forged record", "an odd input not set aside", "a restore that nothing reports", "a role without progress",
    "the log does not verify", "a replica differs", "a worker crashed",
)  # fmt: skip
"""Every kind of violation, in the order in which they should be read."""


def as_json(outcome: RunOutcome) -> dict[str, Any]:
    """The whole report as plain data. Times are ms."""
    history, feed = outcome.history, outcome.feed
    kinds = Counter(violation.kind for violation in outcome.violations)
    return {
        "passed": not outcome.violations,
        "seed": outcome.options.seed,
        "minutes": outcome.options.minutes,
        "operations": {kind.value: _operations(history.operations, kind) for kind in CALLS},
        "faults": {
            **{fault.name: outcome.faults[fault.name] for fault in outcome.options.all_faults},
            **{name: count for name in (UNNOTICEABLE,) if (count := outcome.faults[name])},
            "evicted keys": outcome.evicted_count,
        },
        "violations": {kind: kinds[kind] for kind in PROMISES},
        "excerpts": [_excerpt(violation, history) for violation in _shortest(outcome.violations)],
        "reads_before_a_restore_was_known": outcome.unjudged_count,
        "bypass_writes": _calls(history.operations, lambda op: op.is_bypass and op.may_have_written),
        "events": {
            "changes": feed.expected,
            "awaiting_recovery": {cause.value: feed.missing.get(cause, 0) for cause in Cause},
            "repeated": feed.repeated,
        },
        "audit": None if outcome.audit is None else _audit(outcome.audit, outcome.recorded_count),
        "documents": outcome.document_count,
        "cache_hits": sum(op.is_hit for op in history.operations),
        "cached_entries_compared": outcome.cached_count,
        "longest_unavailable_ms": {
            "reads": _longest_wait_ms(outcome, (CallKind.READ, CallKind.SCAN)),
            "writes": _longest_wait_ms(outcome, (CallKind.WRITE, CallKind.REMOVE, CallKind.MERGE)),
        },
        "journals": str(outcome.kept) if outcome.kept is not None else None,
    }


def _audit(audit: AuditVerdict, compared: int) -> dict[str, int]:
    return {
        "revisions": audit.revisions,
        "records": audit.records,
        "gaps": audit.gaps,
        "compared": compared,
        "beyond": audit.beyond,
        "corrections": audit.corrections,
        "restores": audit.restores,
        "strangers": audit.strangers,
        "seals": audit.seals,
        "parked": audit.parked,
    }


def _calls(operations: Sequence[Operation], wanted: Callable[[Operation], bool]) -> int:
    """How many calls: one on a list is several operations."""
    return len({(op.process, op.number) for op in operations if wanted(op)})


def _operations(operations: Sequence[Operation], kind: CallKind) -> dict[str, int]:
    outcomes = Counter({(op.process, op.number): op.outcome for op in operations if op.kind is kind}.values())
    return {outcome.value: outcomes[outcome] for outcome in Outcome}


def _longest_wait_ms(outcome: RunOutcome, kinds: Sequence[CallKind]) -> float:
    """The longest time for which a running client could not get a call through: from the begin of the first that
    failed, or was slow, to the end of the next that did not. Clients that were stopped meanwhile do not count.
    """
    since_ns: dict[str, int] = {}
    longest_ns = 0
    for op in outcome.history.operations:
        if op.kind not in kinds or op.ended_ns is None:
            continue
        began_ns = since_ns.setdefault(op.process, op.began_ns)
        if op.outcome is Outcome.DONE:
            del since_ns[op.process]
            stops = outcome.stopped_ns.get(op.process, ())
            if not any(stopped <= op.ended_ns and began_ns <= resumed for stopped, resumed in stops):
                longest_ns = max(longest_ns, op.ended_ns - began_ns)
    return longest_ns / 1e6


def _shortest(violations: Sequence[Violation]) -> list[Violation]:
    """One of each kind: that whose excerpt takes the shortest time."""
    best: dict[str, Violation] = {}
    for violation in sorted(violations, key=lambda one: (len(one.excerpt) == 0, one.span_ns)):
        best.setdefault(violation.kind, violation)
    return [best[kind] for kind in PROMISES if kind in best]


def _excerpt(violation: Violation, history: History) -> dict[str, Any]:
    began_ns = min((op.began_ns for op in violation.excerpt), default=0)
    ended_ns = began_ns + violation.span_ns
    lines = [(op.began_ns, _line(op, began_ns)) for op in violation.excerpt]
    lost = [(kill.gone_ns, kill.gone_ns, "redis-server was killed") for kill in history.redis_kills]
    lost += [(flush.began_ns, flush.ended_ns, "FLUSHALL") for flush in history.flushes]
    lines += [
        (since_ns, f"{_span(since_ns, until_ns, began_ns)}  {what}")
        for since_ns, until_ns, what in lost
        if began_ns <= since_ns <= ended_ns
    ]
    return {
        "kind": violation.kind,
        "key": violation.key,
        "text": violation.text,
        "history": [line for _, line in sorted(lines)],
    }


def _span(since_ns: int, until_ns: int | None, origin_ns: int) -> str:
    ended = "..." if until_ns is None else f"{(until_ns - origin_ns) / 1e6:.3f}"
    return f"{(since_ns - origin_ns) / 1e6:>9.3f} - {ended:>9} ms"


def _line(op: Operation, origin_ns: int) -> str:
    """One operation: when, who, what, how."""
    how = ", past Redis" if op.is_bypass else ", leased" if op.decided_ns is not None else ""
    reported = f"revision {op.rev} {op.value or ''}" if op.is_observation else f"{op.outcome.value} {op.text}"
    wants = f" {op.wanted}" if op.wanted is not None else ""
    return (
        f"{_span(op.began_ns, op.ended_ns, origin_ns)}  {op.process:<7} {op.kind.value}{wants}{how}: {reported}"
    ).rstrip()


def show(console: Console, report: dict[str, Any]) -> None:
    """Print the report."""
    console.print(_operations_table(report["operations"]))
    console.print(_pairs("Faults", "fault", report["faults"]))
    console.print(_verdict(report))
    for excerpt in report["excerpts"]:
        console.print(
            f"[red]✗ {escape(excerpt['kind'])}[/] {escape(excerpt['key'])}: {escape(excerpt['text'])}", soft_wrap=True
        )
        for line in excerpt["history"]:
            console.print(f"    {escape(line)}", soft_wrap=True)
    if report["journals"]:
        console.print(f"The journals of all processes: {escape(report['journals'])}", soft_wrap=True)


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left")
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index == 0 else "right")
    return table


def _operations_table(rows: dict[str, dict[str, int]]) -> Table:
    table = _table("Operations", "call", *(outcome.value for outcome in Outcome))
    for kind in CALLS:
        table.add_row(NAMES[kind], *(f"{rows[kind.value][outcome.value]:,}" for outcome in Outcome))
    return table


def _pairs(title: str, heading: str, rows: dict[str, int]) -> Table:
    table = _table(title, heading, "times")
    for name, count in rows.items():
        table.add_row(name, f"{count:,}")
    return table


def _verdict(report: dict[str, Any]) -> Table:
    events = report["events"]
    table = _table(f"Verdict of seed {report['seed']}", "what", "count")
    for kind, count in report["violations"].items():
        mark = "[red]✗[/]" if count else "[green]✓[/]"
        table.add_row(f"{mark} {kind}", f"{count:,}")
    table.add_section()
    table.add_row("writes past Redis", f"{report['bypass_writes']:,}")
    table.add_row("reads of who could not know of a restore yet", f"{report['reads_before_a_restore_was_known']:,}")
    table.add_section()
    if report["audit"] is not None:
        _audit_rows(table, report["audit"])
    else:
        table.add_row("changes in MongoDB, each with an event but for these", f"{events['changes']:,}")
        for cause, count in events["awaiting_recovery"].items():
            table.add_row(f"  events awaiting recovery: {cause}", f"{count:,}")
        table.add_row("events reported again after a lost reply", f"{events['repeated']:,}")
    table.add_section()
    table.add_row("reads that the cache answered", f"{report['cache_hits']:,}")
    table.add_row("cache entries compared with MongoDB at the end", f"{report['cached_entries_compared']:,}")
    for what, longest_ms in report["longest_unavailable_ms"].items():
        table.add_row(f"longest time in which a running client got no {what} through, ms", f"{longest_ms:,.0f}")
    return table


def _audit_rows(table: Table, audit: dict[str, int]) -> None:
    table.add_row("revisions in MongoDB, each with exactly one audit record", f"{audit['revisions']:,}")
    table.add_row("  audit records of revisions", f"{audit['records']:,}")
    table.add_row("  compared with what clients were informed", f"{audit['compared']:,}")
    table.add_row("gaps: recorded, but the payload is lost", f"{audit['gaps']:,}")
    table.add_row("records of revisions that were forged, or went with a restore", f"{audit['beyond']:,}")
    table.add_row("records that correct another one", f"{audit['corrections']:,}")
    table.add_row("records that report a restore", f"{audit['restores']:,}")
    table.add_row("documents of strangers, each recorded or parked", f"{audit['strangers']:,}")
    table.add_row("verified seals", f"{audit['seals']:,}")
    table.add_row("entries that no worker could apply", f"{audit['parked']:,}")
