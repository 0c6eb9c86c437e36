"""Makes `dashboards/backtest-kit.json`, Grafana's board, from the table of panels below.

python ops/grafana/board.py           # write it
python ops/grafana/board.py --check   # exit status 1 when the file is not what would be written
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

FILE = Path(__file__).with_name("dashboards") / "backtest-kit.json"
SOURCE = {"type": "prometheus", "uid": "prometheus"}
"""As in `provisioning/datasources/prometheus.yml`."""
COLUMNS = 24
HEIGHTS = {"stat": 4, "timeseries": 7, "row": 1}
RATE = "[$__rate_interval]"


class Panel(NamedTuple):
    """One panel.

    Attributes:
        unit: Grafana's name of it.
        queries: PromQL and the legend of its lines.
        alarm: a stat of at least so much is red.
    """

    title: str
    help: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    kind: str = "timeseries"
    width: int = 8
    alarm: float | None = None


def stat(title: str, help_text: str, query: str, *, alarm: float | None = 1, unit: str = "short") -> Panel:
    return Panel(title, help_text, unit, ((query, ""),), "stat", 4, alarm)


def row(title: str) -> Panel:
    return Panel(title, "", "", (), "row", COLUMNS)


def quantiles(verb: str) -> tuple[tuple[str, str], ...]:
    buckets = f"sum by (le) (rate(bkm_store_{verb}_seconds_bucket{RATE}))"
    return tuple((f"histogram_quantile({q}, {buckets})", f"p{100 * q:g}") for q in (0.5, 0.95, 0.99))


FAILED_WRITES = 'bkm_store_writes_total{outcome=~"error|refused|unknown"}'
HITS = 'bkm_store_reads_total{outcome=~"hit|near"}'
CACHED_READS = 'bkm_store_reads_total{outcome=~"hit|near|miss|bypass"}'
PANELS = (
    stat("Alerts", "That fire now; ops/RUNBOOK.md has a section for each.",
         'count(ALERTS{alertstate="firing"}) or vector(0)'),
    stat("Workers", "That answer.", 'sum(up{job="worker"}) or vector(0)', alarm=None),
    stat("Parked", "Entries that wait for an operator.", "sum(max by (role) (bkm_worker_parked))"),
    stat("Gaps, 24 h", "Revisions whose payload was lost for good.", "sum(increase(bkm_worker_gaps_total[24h]))"),
    stat("Without Redis", "Strategy processes that bypass Redis now.", "sum(bkm_store_bypassing)"),
    stat("Failing writes", "Share of all writes, 5 minutes.",
         f"sum(rate({FAILED_WRITES}[5m])) / sum(rate(bkm_store_writes_total[5m]))", alarm=0.01, unit="percentunit"),
    row("What strategies see"),
    Panel("Reads by domain", "A second.", "ops",
          ((f"sum by (domain) (rate(bkm_store_reads_total{RATE})) > 0", "{{domain}}"),)),
    Panel("Reads by outcome", "hit: shared cache; near: this process's copy; miss, bypass, list: MongoDB.", "ops",
          ((f"sum by (outcome) (rate(bkm_store_reads_total{RATE}))", "{{outcome}}"),)),
    Panel("Hit ratio", "Of the reads that the cache may serve.", "percentunit",
          ((f"sum(rate({HITS}{RATE})) / sum(rate({CACHED_READS}{RATE}))", "hits"),)),
    Panel("Writes by domain", "A second.", "ops",
          ((f"sum by (domain) (rate(bkm_store_writes_total{RATE})) > 0", "{{domain}}"),)),
    Panel("Writes by outcome", "bypass: durable, the cache will be informed; unknown: perhaps stored.", "ops",
          ((f"sum by (outcome) (rate(bkm_store_writes_total{RATE}))", "{{outcome}}"),)),
    Panel("Candles offered", "conflict: was stored with other values, which were kept.", "ops",
          ((f"sum by (outcome) (rate(bkm_store_candles_total{RATE}))", "{{outcome}}"),)),
    Panel("Read latency", "All domains; copies of the near cache are not timed.", "s", quantiles("read")),
    Panel("Write latency", "All domains.", "s", quantiles("write")),
    Panel("Cache protocol", ("Writes that cached nothing, fills that came too late, restarts of Redis, "
        "bypass time."), "short", (
        (f"sum(rate(bkm_store_lease_conflicts_total{RATE}))", "lease conflicts/s"),
        (f"sum(rate(bkm_store_fills_refused_total{RATE}))", "fills refused/s"),
        (f"sum(rate(bkm_store_bypass_seconds_total{RATE}))", "processes without Redis"),
        (f"sum(rate(bkm_store_events_without_room_total{RATE}))", "events without room/s"),
        ("max(increase(bkm_store_incarnation_changes_total[5m]))", "restarts of Redis, 5 min"),
    )),
    row("The feed and its workers"),
    Panel("Lag by role", "Age of the oldest entry that the group has not acknowledged.", "s",
          (("max by (role) (bkm_worker_lag_seconds)", "{{role}}"),)),
    Panel("Oldest pending entry", "Taken by a worker and not acknowledged.", "s",
          (("max by (role) (bkm_worker_pending_age_seconds)", "{{role}}"),)),
    Panel("Events by role", "A second, by what became of them.", "ops",
          ((f"sum by (role, outcome) (rate(bkm_worker_events_total{RATE})) > 0", "{{role}} {{outcome}}"),)),
    Panel("Entries in the feed", "All streams; about an hour's worth (CC_STREAM_RETENTION_MS).", "short",
          (("max(bkm_worker_stream_entries)", "entries"), (("max by (role) "
              "(bkm_worker_lag_entries)"), "owed to {{role}}"))),
    Panel("Parked by role", "bkm park list", "short", (("max by (role) (bkm_worker_parked)", "{{role}}"),)),
    Panel(("Recovered, lost, "
        "foreign"), "Events published for dead writers; lost payloads; changes by other programs. Last hour.",
          "short", (
              ("sum(increase(bkm_worker_recovered_total[1h]))", "recovered"),
              ("sum(increase(bkm_worker_gaps_total[1h]))", "gaps"),
              ("sum(increase(bkm_worker_foreign_total[1h]))", "foreign"),
              ("sum(increase(bkm_worker_restores_total[1h]))", "restores"),
          )),
    Panel(("Recovery and replicas "
        "behind"), "Oldest change not judged; for how long a replica may have missed changes.", "s", (
        ('max(bkm_worker_service_behind_seconds{service="recovery"})', "recovery"),
        ("max by (replica) (bkm_worker_replica_lag_seconds)", "replica {{replica}}"),
    )),
    Panel("Leaders by service", "1 is right; 0: nobody does it.", "short",
          (("sum by (service) (bkm_worker_leadership)", "{{service}}"),)),
    Panel("Work of services", "A second, in each service's units; failures.", "ops", (
        (f"sum by (service) (rate(bkm_worker_service_work_total{RATE}))", "{{service}}"),
        (f"sum(rate(bkm_worker_service_failures_total{RATE}))", "failures"),
    )),
)  # fmt: skip


def board() -> dict[str, Any]:
    """The board as Grafana reads it."""
    return {
        "uid": "backtest-kit",
        "title": "backtest-kit",
        "tags": ["backtest-kit"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "utc",
        "panels": _placed(),
    }


def _placed() -> list[dict[str, Any]]:
    """Panels from left to right, top to bottom."""
    placed: list[dict[str, Any]] = []
    x = y = height = 0
    for number, panel in enumerate(PANELS, 1):
        if x + panel.width > COLUMNS:
            x, y = 0, y + height
        height = HEIGHTS[panel.kind]
        placed.append(_shown(number, panel, {"x": x, "y": y, "w": panel.width, "h": height}))
        x += panel.width
    return placed


def _shown(number: int, panel: Panel, at: dict[str, int]) -> dict[str, Any]:
    if panel.kind == "row":
        return {"id": number, "type": "row", "title": panel.title, "gridPos": at, "collapsed": False, "panels": []}
    targets = [
        {"refId": chr(ord("A") + index), "expr": query, "legendFormat": legend}
        for index, (query, legend) in enumerate(panel.queries)
    ]
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    options: dict[str, Any] = {"tooltip": {"mode": "multi", "sort": "desc"}}
    if panel.kind == "stat":
        steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
        steps += [] if panel.alarm is None else [{"color": "red", "value": panel.alarm}]
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "background", "graphMode": "area"}
    return {
        "id": number, "type": panel.kind, "title": panel.title, "description": panel.help, "gridPos": at,
        "datasource": SOURCE, "targets": targets, "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
    }  # fmt: skip


def text() -> str:
    """The file: a line for each panel, so that a change of one is a change of a line."""
    shown = board()
    panels = ",\n".join(f"  {json.dumps(panel)}" for panel in shown.pop("panels"))
    head = json.dumps(shown, indent=1).removesuffix("\n}")
    return f'{head},\n "panels": [\n{panels}\n ]\n}}\n'


def main() -> int:
    """Write or check; the exit status."""
    if "--check" in sys.argv[1:]:
        return int(not FILE.exists() or FILE.read_text("utf-8") != text())
    FILE.write_text(text(), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
