"""Metrics in Prometheus' format and health, over HTTP: `/metrics` and `/healthz`.

Values are read when they are asked for, so counting costs the loops nothing. Label values are roles, services and
groups (at most `GROUPS_MAX` by name), outcomes and nothing that grows with data.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from backtest_kit_mongo.metrics.pages import Page, PageServer
from backtest_kit_worker.health import GroupHealth, Monitor
from backtest_kit_worker.loop import OUTCOMES

GROUPS_MAX = 32
OTHERS = "(others)"
"""All further groups together: the one that is worst off stands for them."""
RECOVERY = {
    "recovered": ("republished", "Events published in place of their writer."),
    "gaps": ("gap", "Revisions of which the payload is lost for good."),
    "foreign": ("foreign", "Changes by programs that know no revisions."),
    "restores": ("restore", "Times that the database went back: a backup was restored, or collections were replaced."),
    "contradicted": (
        "correction",
        "Records that reported something else than MongoDB's log: forged events, or altered records.",
    ),
}
"""Metric -> outcome in the `counts` of a service, and what it means."""


class WorkerCollector(Collector):
    """What one worker process counts, and how the feed's groups stand."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def collect(self) -> Iterator[Metric]:
        yield self._events()
        yield from self._groups()
        yield from self._services()
        snapshot = self._monitor.snapshot()
        yield _gauge("stream_entries", "Entries in all streams of the feed.", snapshot.entry_count)
        yield _gauge("stream_bytes", "Memory of the feed in Redis.", snapshot.stream_bytes)
        yield _gauge("stream_bytes_max", "What it may be; 0 if no bound is known.", snapshot.stream_bytes_max)
        parked = GaugeMetricFamily("bkm_worker_parked", "Dead letters that wait for an operator.", labels=["role"])
        for role in sorted({loop.name for loop in self._monitor.loops} | set(snapshot.parked)):
            parked.add_metric([role], snapshot.parked.get(role, 0))
        yield parked
        troubled = GaugeMetricFamily(
            "bkm_worker_trouble",
            "1 for work that stands still or went wrong; /healthz and check say what.",
            labels=["kind"],
        )
        for trouble in snapshot.troubles:
            troubled.add_metric([trouble.name], 1)
        yield troubled
        behind = GaugeMetricFamily(
            "bkm_worker_replica_lag_seconds",
            "For how long the replica may have missed changes; infinite before its first copy has begun.",
            labels=["replica"],
        )
        for replica, lag_s in snapshot.replica_lag_s.items():
            behind.add_metric([replica], lag_s)
        yield behind
        yield _gauge("servers_unreachable", "Servers that do not answer.", len(snapshot.unreachable))
        yield _gauge("healthy", "1 if /healthz would say so.", int(not self._monitor.why_unhealthy()))

    def _events(self) -> Metric:
        events = CounterMetricFamily(
            "bkm_worker_events",
            "Entries by what became of them; failed ones are tried again.",
            labels=["role", "outcome"],
        )
        for loop in self._monitor.loops:
            for outcome in OUTCOMES:
                events.add_metric([loop.name, outcome], loop.counts[outcome])
        return events

    def _groups(self) -> Iterator[Metric]:
        families = {
            "lag_entries": "Entries that the group has not acknowledged.",
            "lag_seconds": "Age of the oldest entry that the group has not acknowledged.",
            "pending_entries": "Entries delivered but not acknowledged.",
            "pending_age_seconds": "Age of the oldest entry delivered but not acknowledged.",
            "group_abandoned": "1 if the group owes something and nobody serves it: it holds back trimming.",
        }
        groups = bounded(self._monitor.snapshot().groups)
        for name, help_text in families.items():
            family = GaugeMetricFamily(f"bkm_worker_{name}", help_text, labels=["role"])
            for role, group in groups.items():
                family.add_metric([role], _value(name, group))
            yield family

    def _services(self) -> Iterator[Metric]:
        led = GaugeMetricFamily("bkm_worker_leadership", "1 if this process leads the service.", labels=["service"])
        done = CounterMetricFamily("bkm_worker_service_work", "Work done, in the service's units.", labels=["service"])
        failed = CounterMetricFamily("bkm_worker_service_failures", "Failed attempts.", labels=["service"])
        behind = GaugeMetricFamily(
            "bkm_worker_service_behind_seconds", "Age of the oldest thing it has not settled.", labels=["service"]
        )
        totals: Counter[str] = Counter()
        for each in self._monitor.services:
            led.add_metric([each.name], int(each.leads()))
            done.add_metric([each.name], each.done_count)
            failed.add_metric([each.name], each.failed_count)
            behind.add_metric([each.name], each.service.oldest_s)
            totals.update(each.service.counts)
        yield from (led, done, failed, behind)
        for name, (outcome, help_text) in RECOVERY.items():
            yield CounterMetricFamily(f"bkm_worker_{name}", help_text, totals[outcome])


def bounded(groups: dict[str, GroupHealth]) -> dict[str, GroupHealth]:
    """At most `GROUPS_MAX` names: anybody can make groups, but not fill a time series database with them."""
    shown = dict(list(groups.items())[:GROUPS_MAX])
    others = list(groups.values())[GROUPS_MAX:]
    if others:
        shown[OTHERS] = GroupHealth(
            owed_count=max(each.owed_count for each in others),
            pending_count=max(each.pending_count for each in others),
            lag_ms=max(each.lag_ms for each in others),
            pending_age_ms=max(each.pending_age_ms for each in others),
            is_abandoned=any(each.is_abandoned for each in others),
        )
    return shown


def _value(name: str, group: GroupHealth) -> float:
    values: dict[str, float] = {
        "lag_entries": group.owed_count,
        "lag_seconds": group.lag_ms / 1000,
        "pending_entries": group.pending_count,
        "pending_age_seconds": group.pending_age_ms / 1000,
        "group_abandoned": int(group.is_abandoned),
    }
    return values[name]


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"bkm_worker_{name}", help_text, value)


class MetricsServer(PageServer):
    """Serves `/metrics` and `/healthz` in threads of its own.

    Args:
        port: 0 for any free one; see `port`.

    Raises:
        OSError: the address cannot be bound.
    """

    def __init__(self, monitor: Monitor, host: str, port: int) -> None:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(WorkerCollector(monitor))

        def metrics() -> Page:
            return Page(200, CONTENT_TYPE_LATEST, generate_latest(registry))

        def health() -> Page:
            report = monitor.report()
            return Page(200 if report["healthy"] else 503, "application/json", json.dumps(report, indent=2).encode())

        super().__init__(host, port, {"/metrics": metrics, "/healthz": health})
