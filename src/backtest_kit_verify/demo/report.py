"""What the demo shows: two tables and the list of checks; or the same as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from backtest_kit_mongo.coherence.record import Domain
from backtest_kit_mongo.domains.table import CANDLE, DOMAINS
from backtest_kit_mongo.terminal import escape
from backtest_kit_verify.demo.checks import Check, Outcome
from backtest_kit_verify.demo.evidence import Evidence
from backtest_kit_verify.demo.fleet import HostRun

__all__ = ["as_json", "show"]


def as_json(outcome: Outcome, checks: Sequence[Check]) -> dict[str, Any]:
    """The whole report as plain data."""
    return {
        "passed": all(check.passed for check in checks),
        "hosts": [_host_row(run, outcome.evidence) for run in outcome.runs],
        "domains": [_domain_row(outcome.evidence, domain) for domain in DOMAINS],
        "checks": [check._asdict() for check in checks],
    }


def _host_row(run: HostRun, evidence: Evidence) -> dict[str, Any]:
    seconds = run.total("seconds") or 1.0
    cached = run.total("hits") + run.total("misses")
    closed = [row for row in evidence.history[run.task.strategy] if row["status"] == "closed"]
    return {
        "symbol": run.task.symbol,
        "strategy": run.task.variant,
        "minutes": run.minutes + 1,
        "kills": int(run.killed is not None),
        "trades": len(closed),
        "pnl_percent": sum(row["pnl"]["pnlPercentage"] for row in closed),
        "minutes_per_s": (run.minutes + 1) / seconds,
        "writes_per_s": run.total("writes") / seconds,
        "hit_rate": run.total("hits") / cached if cached else 0.0,
    }


def _domain_row(evidence: Evidence, domain: Domain) -> dict[str, Any]:
    if domain is CANDLE:  # Candles belong to no run, and one event reports a whole batch.
        batches, documents = sum(evidence.batches), sum(evidence.candles)
        return {"domain": domain.name, "documents": documents, "events": batches, "audit_records": batches}
    return {
        "domain": domain.name,
        "documents": evidence.count(domain),
        "events": evidence.changes(domain),
        "audit_records": evidence.records(domain),
    }


def show(console: Console, report: dict[str, Any]) -> None:
    """Print the report."""
    numbers = ("minutes", "kills", "trades", "PnL %", "minutes/s", "writes/s", "cache hits")
    hosts = _table("Hosts", ("symbol", "strategy"), numbers)
    for row in report["hosts"]:
        hosts.add_row(
            row["symbol"], row["strategy"], f"{row['minutes']:,}", f"{row['kills']}", f"{row['trades']:,}",
            f"{row['pnl_percent']:+.3f}", f"{row['minutes_per_s']:,.0f}", f"{row['writes_per_s']:,.0f}",
            f"{row['hit_rate']:.1%}",
        )  # fmt: skip
    console.print(hosts)
    console.print(_domains(report["domains"]))
    for check in report["checks"]:
        mark = "[green]✓[/]" if check["passed"] else "[red]✗[/]"
        console.print(f"{mark} {escape(check['name'])}: {escape(check['detail'])}", soft_wrap=True)


def _domains(rows: Sequence[dict[str, Any]]) -> Table:
    table = _table("What is stored", ("domain",), ("documents", "changes", "audit records"))
    names = ("documents", "events", "audit_records")
    for row in rows:
        table.add_row(row["domain"], *(f"{row[name]:,}" for name in names))
    table.add_section()
    table.add_row("all", *(f"{sum(row[name] for row in rows):,}" for name in names))
    return table


def _table(title: str, text: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in text:
        table.add_column(heading)
    for heading in numbers:
        table.add_column(heading, justify="right")
    return table
