"""The families of `bkm_store_*`, made of a store's counts at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from backtest_kit_mongo import stores
from backtest_kit_mongo.coherence.record import Domain
from backtest_kit_mongo.domains.table import DOMAINS
from backtest_kit_mongo.drivers.counts import BOUNDS_S, READS, WRITES, Tally
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.ports import CacheFigures

Tallies = Mapping[Domain, Tally]


class StoreCollector(Collector):
    """What one store has counted.

    Args:
        find: the store, by default the one that `setup()` made; None if there is none yet, and then there are no
            metrics.
    """

    def __init__(self, find: Callable[[], Store | None] = stores.live_store_if_open) -> None:
        self._find = find

    def collect(self) -> Iterator[Metric]:
        store = self._find()
        if store is None:
            return
        counts = store.counts
        yield _outcomes("reads", "Reads by domain and how they ended.", READS, counts.reads)
        yield _outcomes("writes", "Writes by domain and how they ended.", WRITES, counts.writes)
        yield _durations("read", "How long reads took; copies of the near cache are not timed.", counts.reads)
        yield _durations("write", "How long writes took.", counts.writes)
        candles = CounterMetricFamily("bkm_store_candles", "Candles offered for storing.", labels=["outcome"])
        candles.add_metric(["new"], counts.rows_new)
        candles.add_metric(["known"], counts.rows_known - counts.rows_conflicting)
        candles.add_metric(["conflict"], counts.rows_conflicting)
        yield candles
        if (figures := store.cache.figures()) is not None:
            yield from _of_cache(figures)
        if store.near is not None:
            yield _gauge("near_bytes", "Memory that the near cache's copies take, at most.", store.near.bytes)


def _of_cache(counts: CacheFigures) -> Iterator[Metric]:
    yield _counter(
        "lease_conflicts",
        "Writes after which nothing was cached: another write of the key was under way, the lease had run out, or this "
        "Redis is new.",
        counts.lease_conflicts,
    )
    yield _counter(
        "fills_refused",
        "Reads that might not cache what they found, because the key was written meanwhile.",
        counts.fills_refused,
    )
    yield _counter(
        "events_without_room",
        "Writes that the change feed took no event of, because it has no room in Redis.",
        counts.no_room,
    )
    yield _counter(
        "incarnation_changes", "Restarts and failovers of Redis that were noticed.", counts.incarnation_changes
    )
    yield _counter("bypass_seconds", "Time without Redis.", counts.bypass_s)
    yield _gauge("bypassing", "1 while Redis is bypassed.", int(counts.is_bypassing))
    yield _counter("closed_seconds", "Time in which a write past Redis closed the cache.", counts.closed_s)


def _outcomes(name: str, help_text: str, outcomes: tuple[str, ...], tallies: Tallies) -> Metric:
    """All domains and outcomes, zeros too: a counter that begins with 1 would hide its first increment from `rate`."""
    family = CounterMetricFamily(f"bkm_store_{name}", help_text, labels=["domain", "outcome"])
    for domain in DOMAINS:
        tally = tallies.get(domain)
        for outcome, count in zip(outcomes, [0] * len(outcomes) if tally is None else tally.outcomes, strict=True):
            family.add_metric([domain.name, outcome], count)
    return family


def _durations(verb: str, help_text: str, tallies: Tallies) -> Metric:
    """Only domains that are used: each has a dozen time series."""
    family = HistogramMetricFamily(f"bkm_store_{verb}_seconds", help_text, labels=["domain"])
    bounds = [*map(floatToGoString, BOUNDS_S), "+Inf"]
    for domain in DOMAINS:
        if (tally := tallies.get(domain)) is not None:
            buckets = list(zip(bounds, accumulate(tally.durations), strict=True))
            family.add_metric([domain.name], buckets, sum_value=tally.seconds)
    return family


def _counter(name: str, help_text: str, value: float) -> Metric:
    return CounterMetricFamily(f"bkm_store_{name}", help_text, value)


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"bkm_store_{name}", help_text, value)
