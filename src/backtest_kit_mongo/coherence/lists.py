"""Lists: which rows are read, and writing those that differ from what is stored, or one whatever is stored.

A list (its scope) is one key of the protocol. Its entry holds no rows, only the stamp of the last writer:
`docs/adr/0002`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from backtest_kit_mongo.coherence.codec import pack
from backtest_kit_mongo.coherence.effects import Defer, Effect, Lease, Leased, Plan, Published, ask
from backtest_kit_mongo.coherence.plans import EVENTS_MAX, announce, give_up
from backtest_kit_mongo.coherence.record import Change, Key, OnConflict, Part, Record, digest
from backtest_kit_mongo.errors import EnvironmentFault

ROWS_MAX: Final = 5_000
"""Stored rows that are looked at at once, so that a list of any length takes little memory to compare."""
GUESSED_MAX: Final = 10
"""Rows that are taken for new without asking: a list that has grown by one is the usual case."""


class Only(NamedTuple):
    """Which rows of a list, and in which order: the oldest first, or if anything is said here or a limit is given, the
    most recently changed first.

    Attributes:
        since_ms: changed then or later, by the clock of whoever changed them.
        items: with one of these ids.
        where: with these values (text) in these fields of the payload, which are among `Domain.filters`.
        by_change: nothing but the order is said.
    """

    since_ms: int | None = None
    items: tuple[Part, ...] | None = None
    where: tuple[tuple[str, str], ...] = ()
    by_change: bool = False

    def fits(self, record: Record, changed_ms: int) -> bool:
        """Whether a record that was last changed then is one of them."""
        if self.since_ms is not None and changed_ms < self.since_ms:
            return False
        if self.items is not None and record.key.item not in self.items:
            return False
        return all(isinstance(record.payload, dict) and record.payload.get(name) == text for name, text in self.where)


ALL: Final = Only()


class Expected(NamedTuple):
    """A row to write, and the stored row that it replaces as far as is known (None: none is stored)."""

    change: Change
    rev: int | None
    id: str = ""


@dataclass(frozen=True, slots=True)
class Rows(Effect[Mapping[Part, Record]]):
    """The named rows of a scope, those that exist."""

    scope: Key
    items: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Merge(Effect["tuple[Published, ...]"]):
    """Write many rows of one list in bulk.

    The answer has the rows that were written, each with the revision that this write made.
    """

    scope: Key
    rows: tuple[Expected, ...]
    deadline_s: float | None


class Seen(NamedTuple):
    """A list row as this process last saw it: its revision, its `_id` as text, and the digest of its payload's
    bytes.
    """

    rev: int
    id: str
    digest: bytes


@dataclass(slots=True)
class KnownRows:
    """What this process knows of a list, true as long as the scope's entry in the cache still carries `stamp`.

    Only who was given the stamp by LEASE may go on from it (`Merged.extends`), and LEASE gives it once. So it may be
    changed in place, and a row costs the same in a list of any size.
    """

    stamp: str
    rows: dict[Part, Seen]


@dataclass(frozen=True, slots=True)
class Merged:
    """Answer of `merge` and `put`.

    Attributes:
        stamp: under which `seen` is true; empty: nothing may be assumed next time.
        extends: the snapshot that was given is true as well, where `seen` says nothing else.
        written: how many rows were written.
        dropped: rows that were not, because another row is stored under their id and the domain keeps the first.
    """

    stamp: str
    extends: KnownRows | None
    seen: Mapping[Part, Seen]
    written: int
    dropped: tuple[Change, ...] = ()

    @property
    def snapshot(self) -> KnownRows | None:
        """What is known now, as a value of its own."""
        if not self.stamp:
            return None
        return KnownRows(self.stamp, {**(self.extends.rows if self.extends else {}), **self.seen})


def merge(
    scope: Key,
    changes: Sequence[Change],
    snapshot: KnownRows | None,
    *,
    events_max: int = EVENTS_MAX,
    rows_max: int = ROWS_MAX,
) -> Plan[Merged]:
    """Write the rows that differ from what is stored, in bulk.

    The scope has one lease and one entry for all its rows; the entry holds no rows, only the stamp of the last writer.
    If the entry that LEASE deleted carries our stamp, nobody has written the list since (I1, I2), and our snapshot
    says what is stored without asking MongoDB. Rows that do not differ are thereby confirmed as of LEASE, which lies
    inside this call. Rows that it does not know are asked for; where there are few they are taken for new, and MongoDB
    tells if they are not.
    """
    leased = yield from ask(Lease(scope, want_prior=True))
    try:
        base = _still_true(snapshot, leased)
        known = base.rows if base else {}
        seen: dict[Part, Seen] = {}
        unknown = [change.key.item for change in changes if change.key.item not in known]
        if base is None or len(unknown) > GUESSED_MAX:
            for start in range(0, max(1, len(unknown)), rows_max):
                stored = yield from ask(Rows(scope, tuple(unknown[start : start + rows_max])))
                seen |= _seen(stored)
        stored_rows = {**known, **seen} if known and seen else known or seen
        rows = tuple(_differing(changes, stored_rows))
        written: tuple[Published, ...] = ()
        if rows:
            written = yield from ask(Merge(scope, rows, leased.deadline_s if leased else None))
    except BaseException as error:
        yield from give_up(scope, leased, error)
        raise
    dropped = yield from _dropped(scope, changes, stored_rows, rows, written)
    return (yield from _remembered(scope, leased, base, seen, written, dropped, events_max))


def put(scope: Key, change: Change, snapshot: KnownRows | None) -> Plan[Merged]:
    """Write one row of a list, whatever is stored, at the cost of a document.

    It takes the scope's lease and leaves the scope's stamp, as `merge` does: whoever remembers the list learns that it
    was written. Who remembered it himself, and was given his stamp by LEASE, knows it still, with this row.
    """
    leased = yield from ask(Lease(scope, want_prior=snapshot is not None))
    rows = (Expected(change, None),)
    try:
        written = yield from ask(Merge(scope, rows, leased.deadline_s if leased else None))
    except BaseException as error:
        yield from give_up(scope, leased, error)
        raise
    dropped = yield from _dropped(scope, (change,), {}, rows, written)
    merged = yield from _remembered(scope, leased, _still_true(snapshot, leased), {}, written, dropped, EVENTS_MAX)
    # Who writes rows only needs to remember none.
    return merged if merged.extends else replace(merged, stamp="", seen={})


def _still_true(snapshot: KnownRows | None, leased: Leased | None) -> KnownRows | None:
    is_ours = snapshot and leased and leased.prior is not None and leased.prior.id == snapshot.stamp
    return snapshot if is_ours else None


def _remembered(
    scope: Key,
    leased: Leased | None,
    base: KnownRows | None,
    seen: dict[Part, Seen],
    written: tuple[Published, ...],
    dropped: tuple[Change, ...],
    events_max: int,
) -> Plan[Merged]:
    """Tell cache and feed of the rows that were written, and say what is known under the new stamp."""
    if leased is None or not leased.token:
        yield from ask(Defer((scope,), written, 0))
        return Merged("", None, {}, len(written), dropped)
    yield from announce(scope, leased, Record(scope, id=leased.token), pack(None), written, events_max)
    seen.update((p.record.key.item, Seen(p.record.rev, p.record.id, digest(p.body))) for p in written)
    return Merged(leased.token, base, seen, len(written), dropped)


def _dropped(
    scope: Key,
    changes: Sequence[Change],
    seen: Mapping[Part, Seen],
    rows: Sequence[Expected],
    written: Sequence[Published],
) -> Plan[tuple[Change, ...]]:
    """Rows of a domain that keeps the first, of which another content is stored."""
    if scope.domain.on_conflict is not OnConflict.KEEP:
        return ()
    known = {change.key.item: seen[change.key.item].digest for change in changes if change.key.item in seen}
    done = {published.record.key.item for published in written}
    if met := tuple(row.change.key.item for row in rows if row.change.key.item not in done):
        try:
            # Another writer inserted them meanwhile.
            stored = yield from ask(Rows(scope, met))
            known |= {item: digest(pack(record.payload)) for item, record in stored.items()}
        except EnvironmentFault:
            known |= dict.fromkeys(
                met, b""
            )  # The write has happened, so this is no failure: said, though perhaps equal.
    others = (change for change in changes if change.key.item in known and change.key.item not in done)
    return tuple(change for change in others if known[change.key.item] != change.digest)


def differing(changes: Sequence[Change], stored: Mapping[Part, Record]) -> tuple[Expected, ...]:
    """The rows that differ from what is stored, each with the revision that it replaces."""
    return tuple(_differing(changes, _seen(stored)))


def _seen(stored: Mapping[Part, Record]) -> dict[Part, Seen]:
    return {item: Seen(row.rev, row.id, digest(pack(row.payload))) for item, row in stored.items()}


def _differing(changes: Iterable[Change], seen: Mapping[Part, Seen]) -> Iterator[Expected]:
    for change in changes:
        row = seen.get(change.key.parts[-1])
        if row is None:
            yield Expected(change.whole(), None)
        elif change.key.domain.on_conflict is OnConflict.REPLACE and row.digest != change.digest:
            yield Expected(change.whole(), row.rev, row.id)
