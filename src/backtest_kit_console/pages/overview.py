"""Overview: how the deployment does, in words first and in numbers after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from backtest_kit_console import words
from backtest_kit_console.sources import WAIT_S, Look, Sources
from backtest_kit_mongo.backends.mongo.layout import collection_of
from backtest_kit_mongo.domains.table import DOMAINS
from backtest_kit_mongo.feed.positions import GroupPosition
from backtest_kit_mongo.operate.doctor import Finding, Level, examine, worst
from backtest_kit_mongo.operate.top import Sample, take
from backtest_kit_mongo.operate.top.frame import BEHIND_MS, hit_ratio
from backtest_kit_mongo.stored import AUDIT_ITEMS

from .asking import Answer, Asked
from .lately import Event, Wanted, newest

__all__ = ["findings", "show"]

FINDINGS_S: Final = 30.0
FINDINGS_OLD_S: Final = 120.0
SAMPLE_S: Final = 2.0
OLD_S: Final = 15.0
LOST_S: Final = 2.5
"""A little more than it takes to see that a server does not answer."""
COUNTS_S: Final = 10.0
LATELY_S: Final = 2.0
LATELY: Final = 8
HOSTS_MAX: Final = 20
ORDER: Final = tuple(Level)


class Seen(NamedTuple):
    """A look at both servers.

    Attributes:
        hits: share of lookups that found something, in words.
        memory_max: what Redis may have, bytes; 0: as much as there is.
    """

    sample: Sample
    hits: str
    memory_max: int


class Group(NamedTuple):
    """A consumer group over all streams."""

    name: str
    consumers: int
    owed: int
    lag_ms: int
    state: str


def show(asked: Asked) -> Answer:
    sources = asked.sources
    begin(sources)
    seen, found = _seen(sources), findings(sources)
    if seen.at_ms and words.now_ms() - seen.at_ms > OLD_S * 1000:
        seen = _seen(sources, LOST_S)  # A server may be lost, and what was true is not the answer.
    counts = _count(sources)
    of_redis = None if seen.value is None else seen.value.sample.redis
    groups = [group for position in of_redis.streams for group in position.groups] if of_redis else []
    concerns = [one for one in found.value or () if one.level in (Level.WARNING, Level.ERROR)]
    verdict = _verdict(seen, found, concerns)
    values = {
        "verdict": verdict,
        "seen": seen,
        "found": found,
        "concerns": sorted(concerns, key=lambda one: -ORDER.index(one.level)),
        "notes": [one for one in found.value or () if one.level is Level.NOTE],
        "fine": [one for one in found.value or () if one.level is Level.OK],
        "groups": _groups(groups),
        "hosts": of_redis.rates.hosts[:HOSTS_MAX] if of_redis else (),
        "hosts_left": max(0, len(of_redis.rates.hosts) - HOSTS_MAX) if of_redis else 0,
        "counts": counts,
        "lately": _lately(sources),
        "is_known": seen.value is not None and bool(found.value) and verdict[0] != "note",
        "lag_ms": max((group.lag_ms for group in groups), default=None),
    }
    return Answer("overview.html", values)


def begin(sources: Sources) -> None:
    """Begin to find out what the page shows."""
    for look in (_seen, findings, _count, _lately):
        look(sources, 0)


def findings(sources: Sources, wait_s: float = 0) -> Look[Sequence[Finding]]:
    """What `bkm doctor --no-write` says; it takes longer than a page may."""
    return sources.look("findings", lambda: list(examine(sources.feed, write=False)), FINDINGS_S, wait_s)


def _count(sources: Sources, wait_s: float = 0) -> Look[dict[str, int]]:
    return sources.look("counts", lambda: _counts(sources), COUNTS_S, wait_s)


def _lately(sources: Sources, wait_s: float = WAIT_S) -> Look[list[Event]]:
    return sources.look("lately", lambda: newest(sources, Wanted(), LATELY), LATELY_S, wait_s)


def _seen(sources: Sources, wait_s: float = WAIT_S) -> Look[Seen]:
    last: list[Sample] = []

    def make() -> Seen:
        sample = take(sources.feed)
        before = last.pop() if last else None
        last.append(sample)
        if sample.redis is None:
            return Seen(sample, "-", 0)
        memory: Any = sources.feed.redis.info("memory")
        hits = hit_ratio(sample.redis, None if before is None else before.redis)
        return Seen(sample, hits, int(memory.get("maxmemory", 0)))

    return sources.look("sample", make, SAMPLE_S, wait_s)


def _counts(sources: Sources) -> dict[str, int]:
    """Documents of each domain, and audit records; about, as MongoDB keeps count of them."""
    names = {domain.name: collection_of(domain) for domain in DOMAINS} | {"audit records": AUDIT_ITEMS}
    return {name: sources.database[kept].estimated_document_count() for name, kept in names.items()}


def _verdict(seen: Look[Seen], found: Look[Sequence[Finding]], concerns: Sequence[Finding]) -> tuple[str, str]:
    """A class and a sentence."""
    lost = seen.value.sample.trouble if seen.value is not None else (seen.trouble,) if seen.trouble else ()
    if lost:
        return "error", "A server does not answer."
    if found.value is None:
        return ("error", found.trouble) if found.trouble else ("note", "The first examination is under way.")
    if words.now_ms() - found.at_ms > FINDINGS_OLD_S * 1000:
        return "note", f"It is being examined; the last time was {words.ago(found.at_ms)}."
    level = worst(found.value)
    count = f"{len(concerns)} thing{'s need' if len(concerns) > 1 else ' needs'} attention"
    if level is Level.ERROR:
        return "error", f"A promise is broken, or will be at the next fault: {count}."
    return ("warning", f"It works; {count}.") if concerns else ("ok", "All is well.")


def _groups(positions: Sequence[GroupPosition]) -> list[Group]:
    found = []
    for name in sorted({one.name for one in positions}):
        parts = [one for one in positions if one.name == name]
        lag_ms = max(one.lag_ms for one in parts)
        abandoned = any(one.is_abandoned for one in parts)
        state = "abandoned" if abandoned else "behind" if lag_ms > BEHIND_MS else "keeps up"
        owed = sum(one.owed_count for one in parts)
        found.append(Group(name, max(one.consumer_count for one in parts), owed, lag_ms, state))
    return found
