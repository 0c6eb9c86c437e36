"""A sample as something to look at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table

from backtest_kit_mongo.feed.positions import GroupPosition
from backtest_kit_mongo.operate.doctor.findings import duration
from backtest_kit_mongo.operate.top.rates import Rates
from backtest_kit_mongo.operate.top.sampling import WINDOW_MS, MongoSample, RedisSample, Sample
from backtest_kit_mongo.terminal import escape

ROWS_MAX: Final = 12
"""Of each table: a thousand hosts do not fit on a screen."""
BEHIND_MS: Final = 5_000
"""A group that has just been given work is not behind."""


def draw(sample: Sample, before: Sample | None = None) -> RenderableType:
    """One frame.

    Args:
        before: the frame before; the hit ratio is of the time between, without one of the time since Redis started.
    """
    parts: list[RenderableType] = [f"[red]no answer: {escape(line)}[/]" for line in sample.trouble]
    parts.append(_servers(sample, before))
    if sample.redis is not None:
        rates = sample.redis.rates
        parts += [_groups(sample.redis), _writes(rates), _hosts(rates), _consumers(sample.redis)]
    if sample.mongo is not None:
        parts.append(_services(sample.mongo))
    return Group(*(line for part in parts for line in (part, "")))


def _servers(sample: Sample, before: Sample | None) -> Table:
    table = Table.grid(padding=(0, 3))
    if sample.redis is not None:
        found = sample.redis
        last = None if before is None else before.redis
        table.add_row("Redis", f"ping {found.ping.p50_ms:.2f} ms", f"keyspace hits {hit_ratio(found, last)}",
                      f"{found.key_count:,} keys", f"{found.used_bytes / 2**20:.1f} MiB",
                      f"{found.length:,} entries in the feed")  # fmt: skip
    if sample.mongo is not None:
        parked = sum(sample.mongo.parked.values())
        colour = "red" if parked else "green"
        roles = ", ".join(f"{role} {count}" for role, count in sorted(sample.mongo.parked.items()))
        shown = f"[{colour}]{parked} parked[/]{escape(f' ({roles})') if roles else ''}"
        table.add_row("MongoDB", f"ping {sample.mongo.ping.p50_ms:.2f} ms", shown)
    return table


def hit_ratio(now: RedisSample, before: RedisSample | None) -> str:
    """Of lookups since the frame before, if there were any and Redis was not restarted; otherwise since it started."""
    hits, misses, since = now.hits, now.misses, "since its start"
    if before is not None and now.hits >= before.hits and now.misses >= before.misses:
        between = now.hits - before.hits, now.misses - before.misses
        if sum(between):
            (hits, misses), since = between, "now"
    total = hits + misses
    return f"{hits / total:.1%} {since}" if total else "- (no lookups yet)"


def _groups(found: RedisSample) -> Table:
    groups = [group for position in found.streams for group in position.groups]
    rows = []
    for name in sorted({group.name for group in groups}):
        parts = [group for group in groups if group.name == name]
        owed = sum(each.owed_count for each in parts)
        pending = sum(each.pending_count for each in parts)
        lag_ms = max(each.lag_ms for each in parts)
        consumers = sum(name in each.groups for each in found.consumers)
        rows.append((escape(name), str(consumers), f"{owed:,}", f"{pending:,}", duration(lag_ms), _state(parts)))
    return _table("group", ("consumers", "not acknowledged", "pending", "behind", "state"), rows)


def _state(parts: Sequence[GroupPosition]) -> str:
    if any(each.is_abandoned for each in parts):
        return "[red]abandoned[/]"
    return "[yellow]behind[/]" if any(each.lag_ms > BEHIND_MS for each in parts) else "[green]keeps up[/]"


def _writes(rates: Rates) -> Table:
    rows = [(escape(f"{domain} {operation}"), f"{rate:,.1f}") for (domain, operation), rate in rates.by_operation]
    return _table(f"writes, {WINDOW_MS // 1000} s", ("per second",), [("all", f"{rates.per_s:,.1f}"), *rows])


def _hosts(rates: Rates) -> Table:
    rows = [
        (escape(host.origin.host), str(host.origin.process), f"{host.per_s:,.1f}", duration(host.age_ms))
        for host in rates.hosts
    ]
    return _table("writing host", ("process", "writes/s", "last"), rows)


def _consumers(found: RedisSample) -> Table:
    rows = [
        (escape(one.name), escape(" ".join(one.groups)), f"{one.pending_count:,}", duration(one.idle_ms))
        for one in found.consumers
    ]
    return _table("consumer", ("groups", "holds", "asked"), rows)


def _services(found: MongoSample) -> Table:
    rows = [
        (
            escape(lease.service),
            escape(lease.holder) if lease.is_held else f"[red]nobody[/] (was {escape(lease.holder)})",
        )
        for lease in found.leases
    ]
    return _table("service", ("led by",), rows)


def _table(name: str, headings: Iterable[str], rows: Sequence[tuple[str, ...]]) -> Table:
    more = f"and {len(rows) - ROWS_MAX} more" if len(rows) > ROWS_MAX else None
    table = Table(caption=more, caption_justify="left", box=None, padding=(0, 3, 0, 0), header_style="bold cyan")
    table.add_column(name, min_width=20, overflow="fold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows[:ROWS_MAX]:
        table.add_row(*row)
    return table
