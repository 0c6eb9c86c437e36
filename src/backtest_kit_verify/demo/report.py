"""What the demo shows: two tables and the list of checks; or the same as JSON."""

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


def _host_row(run: HostRun) -> dict[str, Any]:
    seconds = run.total("seconds") or 1.0
    cached = run.total("hits") + run.total("misses")
    host = run.task.host
    return {
        "symbol": host.symbol,
        "strategy": host.variant,
        "bars": run.bars,
        "trades": run.last.get("trades", 0),
        "pnl_percent": run.last.get("pnl_percent", 0.0),
        "reads_per_s": run.total("reads") / seconds,
        "writes_per_s": run.total("writes") / seconds,
        "hit_rate": run.total("hits") / cached if cached else 0.0,
    }


def _domain_row(evidence: Evidence, domain: Domain) -> dict[str, Any]:
    if domain is CANDLE:
        # Candles belong to no run, and one event reports a whole batch.
        batches = sum(audited["batches"] for audited in evidence.candle_audits)
        return {
            "domain": domain.name,
            "documents": sum(evidence.candle_documents),
            "events": batches,
            "audit_records": batches,
        }
    return {
        "domain": domain.name,
        "documents": evidence.documents[domain],
        "events": evidence.events(domain),
        "audit_records": evidence.audits(domain),
    }


def as_json(outcome: Outcome, checks: Sequence[Check]) -> dict[str, Any]:
    """The whole report as plain data."""
    return {
        "passed": all(check.passed for check in checks),
        "hosts": [_host_row(run) for run in outcome.runs],
        "domains": [_domain_row(outcome.evidence, domain) for domain in DOMAINS],
        "checks": [check._asdict() for check in checks],
    }


def show(console: Console, report: dict[str, Any]) -> None:
    """Print the report."""
    console.print(_hosts(report["hosts"]))
    console.print(_domains(report["domains"]))
    for check in report["checks"]:
        mark = "[green]✓[/]" if check["passed"] else "[red]✗[/]"
        console.print(f"{mark} {escape(check['name'])}: {escape(check['detail'])}", soft_wrap=True)


def _table(title: str, text: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in text:
        table.add_column(heading)
    for heading in numbers:
        table.add_column(heading, justify="right")
    return table


def _hosts(rows: Sequence[dict[str, Any]]) -> Table:
    numbers = ("bars", "trades", "PnL %", "reads/s", "writes/s", "cache hits")
    table = _table("Hosts", ("symbol", "strategy"), numbers)
    for row in rows:
        table.add_row(
            row["symbol"],
            row["strategy"],
            f"{row['bars']:,}",
            f"{row['trades']:,}",
            f"{row['pnl_percent']:+.3f}",
            f"{row['reads_per_s']:,.0f}",
            f"{row['writes_per_s']:,.0f}",
            f"{row['hit_rate']:.1%}",
        )
    return table


def _domains(rows: Sequence[dict[str, Any]]) -> Table:
    table = _table("Domains", ("domain",), ("documents", "events", "audit records"))
    for row in rows:
        table.add_row(row["domain"], *(f"{row[name]:,}" for name in ("documents", "events", "audit_records")))
    sums = (sum(row[name] for row in rows) for name in ("documents", "events", "audit_records"))
    table.add_section()
    table.add_row("all", *(f"{total:,}" for total in sums))
    return table
