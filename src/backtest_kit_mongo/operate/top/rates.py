"""Writes per second, from the newest entries of the feed's streams."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from backtest_kit_mongo.coherence.events import Event, Origin


@dataclass(frozen=True, slots=True)
class Recent:
    """The newest events of one stream.

    Attributes:
        events: those of the last `span_ms`, with their ages; None stands for what this version cannot read.
        span_ms: the time that they stand for: the whole window, or less if there were more events than were asked for.
    """

    events: tuple[tuple[int, Event | None], ...]
    span_ms: int


@dataclass(frozen=True, slots=True)
class Host:
    """A process that wrote lately.

    Attributes:
        age_ms: of its last event, by Redis' clock.
    """

    origin: Origin
    per_s: float
    age_ms: int


@dataclass(frozen=True, slots=True)
class Rates:
    """Events per second by (domain, operation) and by process, the busiest first. A batch of candles is one event."""

    by_operation: tuple[tuple[tuple[str, str], float], ...]
    hosts: tuple[Host, ...]

    @property
    def per_s(self) -> float:
        return sum(rate for _, rate in self.by_operation)


def recent(entries: Sequence[tuple[int, Event | None]], *, now_ms: int, window_ms: int, count_max: int) -> Recent:
    """The window that entries (their time in ms and event, newest first) cover if at most `count_max` were asked
    for.
    """
    ages = tuple((max(0, now_ms - at_ms), event) for at_ms, event in entries)
    within = tuple((age_ms, event) for age_ms, event in ages if age_ms <= window_ms)
    if len(within) < count_max:
        return Recent(within, window_ms)
    return Recent(within, max(1, within[-1][0]))


def count(streams: Iterable[Recent]) -> Rates:
    """Rates over all streams. Each has its own span: a busy one shows a shorter time."""
    by_operation: defaultdict[tuple[str, str], float] = defaultdict(float)
    by_host: defaultdict[Origin, float] = defaultdict(float)
    youngest: dict[Origin, int] = {}
    for stream in streams:
        share = 1000 / stream.span_ms
        for age_ms, event in stream.events:
            if event is None:
                by_operation["unreadable", "-"] += share
                continue
            by_operation[event.domain, event.operation] += share
            by_host[event.origin] += share
            youngest[event.origin] = min(age_ms, youngest.get(event.origin, age_ms))
    hosts = [Host(origin, per_s, youngest[origin]) for origin, per_s in by_host.items()]
    return Rates(
        tuple(sorted(by_operation.items(), key=lambda item: (-item[1], item[0]))),
        tuple(sorted(hosts, key=lambda host: (-host.per_s, host.origin.host, host.origin.process))),
    )
