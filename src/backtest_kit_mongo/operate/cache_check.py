"""The coherence auditor: are cached entries what MongoDB holds? A check of a running system, from outside the protocol.

One look at one key is: entry, MongoDB, entry again. If the entry is the same before and after, then by I1 it must equal
the document that was read in between; an entry that changed meanwhile proves nothing and is looked at again. A
violation is looked at again after 1 s, 1 min and 5 min, because how long a stale entry lives matters as much as that
there was one.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from backtest_kit_mongo.backends.mongo.documents import MongoTruth
from backtest_kit_mongo.backends.mongo.identity import IdentityDocument
from backtest_kit_mongo.backends.redis.cluster import link_over
from backtest_kit_mongo.backends.redis.entry import INCARNATION_CHARS, is_of_this_version, parse_entry
from backtest_kit_mongo.backends.redis.link import Link, Script
from backtest_kit_mongo.coherence.codec import pack
from backtest_kit_mongo.coherence.effects import Find
from backtest_kit_mongo.coherence.eras import parse_held
from backtest_kit_mongo.coherence.events import UnknownEvent, decode
from backtest_kit_mongo.coherence.keys import Names, entry_pattern, era_name, names, parse_entry_name
from backtest_kit_mongo.coherence.record import Key, Record
from backtest_kit_mongo.domains.table import BY_NAME, DOMAINS
from backtest_kit_mongo.servers import redis_client
from backtest_kit_mongo.settings import Settings

AGES_S = (1.0, 60.0, 300.0)
"""When a violation is looked at again."""
LOOKS_MAX = 5
"""An entry that changes under each look is busy, not wrong."""
TRACE_MAX = 5


@dataclass(slots=True)
class StaleEntry:
    """An entry that differs from MongoDB.

    Attributes:
        cached_rev: -1 if the entry cannot be read.
        ages_s: of `AGES_S`, those after which it still did.
        trace: the newest changes of the document in the stream, as (revision, written ms, host, process).
    """

    key: Key
    cached_rev: int
    stored_rev: int
    first_seen_s: float
    ages_s: list[float] = field(default_factory=list)
    is_over: bool = False
    trace: list[tuple[int, int, str, int]] = field(default_factory=list)


@dataclass(slots=True)
class Report:
    """Counts of one audit. `checked` is the denominator: keys whose look could be concluded."""

    checked: int = 0
    busy: int = 0
    foreign: int = 0
    violations: list[StaleEntry] = field(default_factory=list)

    @property
    def nines(self) -> float:
        """-log10 of the share of violations; infinite if there is none. Read it beside `checked`."""
        return math.inf if not self.violations else -math.log10(len(self.violations) / max(1, self.checked))


class Auditor:
    """Looks at entries of one database.

    Args:
        monotonic_s: clock of the ages, a parameter for tests.
    """

    def __init__(
        self, settings: Settings, truth: MongoTruth, link: Link, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._truth = truth
        self._link = link
        self._monotonic_s = monotonic_s
        self._incarnation = Script("incarnation")
        self._identity = IdentityDocument(
            lambda: truth.client.get_database(settings.database), (), settings.mongo_bound_ms / 1000
        )

    def keys(self, sample: int, seed: int | None = None) -> list[Key]:
        """Up to `sample` keys that have an entry, chosen evenly (reservoir over SCAN, so memory stays bounded)."""
        chosen: list[Key] = []
        rng = random.Random(seed)
        for count, name in enumerate(self._entry_names(), start=1):
            key = parse_entry_name(name, self._settings.database, BY_NAME)
            if key is None or not key.domain.cached:
                continue  # A list's entry is a stamp: there is no document to compare it with.
            if len(chosen) < sample:
                chosen.append(key)
            elif (place := rng.randrange(count)) < sample:
                chosen[place] = key
        return chosen

    def _entry_names(self) -> Iterator[str]:
        pattern = entry_pattern(self._settings.database)
        for server in self._link.everywhere():
            cursor = b"0"
            while True:
                cursor, found = server.execute("SCAN", cursor, "MATCH", pattern, "COUNT", 1_000)
                yield from (name.decode() for name in found)
                if cursor == b"0":
                    break

    def check(self, keys: Sequence[Key], report: Report, progress: Callable[[], None] = lambda: None) -> None:
        """Look at each key once (again where it changed meanwhile) and add to the report."""
        incarnations: dict[str, bytes] = {}
        deployment = str(self._identity.read().get("deployment", ""))
        for key in keys:
            born = self._names(key).born
            if born not in incarnations:
                incarnations[born] = self._served(era_name(born, deployment))
            self._check_one(key, incarnations[born], report)
            progress()

    def _served(self, era_key: str) -> bytes:
        """The incarnation whose entries a partition serves to clients of this database."""
        era = parse_held(self._link.execute("GET", era_key)).era
        incarnation: bytes = self._link.run(self._incarnation, [era_key], [era])
        return incarnation

    def _check_one(self, key: Key, incarnation: bytes, report: Report) -> None:
        for _ in range(LOOKS_MAX):
            entry, stored, again = self._look(key)
            if entry is None or entry != again:
                continue
            if entry[:INCARNATION_CHARS] != incarnation or not is_of_this_version(entry):
                report.foreign += 1
                return
            report.checked += 1
            cached = _parsed(key, entry)
            if _differs(cached, stored):
                violation = StaleEntry(
                    key,
                    -1 if cached is None else cached.rev,
                    stored.rev,
                    self._monotonic_s(),
                    trace=self._trace(stored),
                )
                report.violations.append(violation)
            return
        report.busy += 1

    def _look(self, key: Key) -> tuple[bytes | None, Record, bytes | None]:
        name = self._names(key).entry
        entry: bytes | None = self._link.execute("GET", name)
        stored = self._truth.find(Find(key))
        again: bytes | None = self._link.execute("GET", name)
        return entry, stored, again

    def _names(self, key: Key) -> Names:
        return names(self._settings.database, self._settings.partitions, key.domain.name, key.parts)

    def recheck(self, report: Report) -> None:
        """Look again at violations that have come of one of the ages, until they are over."""
        for violation in report.violations:
            age_s = self._monotonic_s() - violation.first_seen_s
            due = [age for age in AGES_S if age <= age_s and age not in violation.ages_s]
            if violation.is_over or not due:
                continue
            entry, stored, again = self._look(violation.key)
            if entry is not None and entry == again and _differs(_parsed(violation.key, entry), stored):
                violation.ages_s.extend(due)
            else:
                violation.is_over = True

    def _trace(self, stored: Record) -> list[tuple[int, int, str, int]]:
        """The document's newest changes among the stream's last 1,000 entries, newest first."""
        stream = self._names(stored.key).stream
        found: list[tuple[int, int, str, int]] = []
        for _, fields in self._link.execute("XREVRANGE", stream, "+", "-", "COUNT", 1_000):
            try:
                event = decode(dict(zip(fields[::2], fields[1::2], strict=True)))
            except UnknownEvent:
                continue
            if event.document == stored.id and len(found) < TRACE_MAX:
                found.append((event.rev, event.written_ms, event.origin.host, event.origin.process))
        return found


@contextmanager
def open_auditor(settings: Settings) -> Iterator[Auditor]:
    """An auditor with its connections."""
    uri = settings.mongo_connection_string.get_secret_value()
    truth = MongoTruth(uri, settings.database, DOMAINS, settings.mongo_bound_ms, settings.mongo_arrival_ms)
    link = link_over(redis_client(settings))
    try:
        truth.open()
        yield Auditor(settings, truth, link)
    finally:
        link.close()
        truth.close()


def _parsed(key: Key, entry: bytes) -> Record | None:
    """What an entry says; None if it cannot be read."""
    try:
        return parse_entry(key, entry)
    except Exception:
        return None


def _differs(cached: Record | None, stored: Record) -> bool:
    return cached is None or not _equal(cached, stored)


def _equal(cached: Record, stored: Record) -> bool:
    """Whether an entry says what MongoDB says, payload included."""
    same = (cached.rev, cached.when, cached.removed, cached.id) == (stored.rev, stored.when, stored.removed, stored.id)
    return same and pack(cached.payload) == pack(stored.payload)


def summary(report: Report) -> dict[str, Any]:
    """The report as plain data."""
    still = {f"still_after_{age:g}_s": sum(age in v.ages_s for v in report.violations) for age in AGES_S}
    return {
        "checked": report.checked,
        "violations": len(report.violations),
        "nines": None if math.isinf(report.nines) else round(report.nines, 2),
        "busy": report.busy,
        "of_another_incarnation": report.foreign,
        **still,
        "offenders": [
            {"key": str(v.key), "cached_rev": v.cached_rev, "stored_rev": v.stored_rev, "trace": v.trace}
            for v in report.violations
        ],
    }
