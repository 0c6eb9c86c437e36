"""What all instances share: one context of one domain, bound to a `Store`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import BaseModel

from backtest_kit_mongo import locks
from backtest_kit_mongo.adapters.contracts import Payload, Row, When
from backtest_kit_mongo.coherence.codec import detached, plain_scalar
from backtest_kit_mongo.coherence.record import Change, Domain, Key, OnConflict, Part, Record
from backtest_kit_mongo.coherence.showing import shown
from backtest_kit_mongo.domains.checks import encode, make_change, make_child, make_key, make_when, row_item
from backtest_kit_mongo.domains.table import context_names
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.errors import InvalidKey, InvalidPayload
from backtest_kit_mongo.look_ahead import hidden_from, refuse, report_hidden, simulation_now, stamp

logger = locks.logger(__name__)
READ_WITH_WHEN = "Read it with `when=` to be answered as if it were not there. Nothing was read."


class Bound:
    """One context of one domain in one store, and what can be done with it. `verbs.py` gives it the domain's method
    names.
    """

    _domain: ClassVar[Domain]

    def __init__(self, store: Store, *context: Part) -> None:
        names = context_names(self._domain)
        if len(context) != len(names):
            raise TypeError(
                f"{type(self).__name__}(store, {', '.join(names)}): {len(context)} of {len(names)} were given"
            )
        self._store = store
        self._context = make_key(self._domain, context)
        self._last_rows: dict[Part, tuple[Any, Change]] = {}

    @property
    def store(self) -> Store:
        return self._store

    @property
    def context(self) -> Key:
        """The key columns that this instance is bound to."""
        return self._context

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._context} in {self._store.name}>"

    def wait_for_init(self, initial: bool) -> None:
        """Connect the store unless it is; `initial` does not matter, because opening knows by itself."""
        self._store.open()

    def dispose(self) -> None:
        """Nothing to free: the store belongs to all contexts."""

    def _key(self, item: Part) -> Key:
        try:
            return make_child(self._context, item)
        except TypeError:
            return make_key(self._domain, (*self._context.parts, item))  # Which says what is wrong with it.

    def _read(self, key: Key, when: When | None = None) -> Any:
        moment = None if when is None else make_when(self._domain, when)
        now = simulation_now(key)
        record = self._store.read(key) if now is None else self._read_at(key, moment, now)
        if not record.visible(moment) or record.payload is None:
            return self._domain.empty()
        return record.payload

    def _read_at(self, key: Key, moment: int | None, now: int) -> Record:
        """A record as of the simulation time `now`.

        Raises:
            LookAhead: it was written later, and the caller did not say `when`; or that is itself later.
        """
        if moment is not None and moment > now:
            raise refuse(key, f"read with when={moment}", now)
        record = self._store.read(key)
        later = hidden_from(record, now) if moment is None and not record.removed else None
        if later is not None:
            raise refuse(key, f"written at simulation time {later}; what was there before is gone", now, READ_WITH_WHEN)
        return record

    def _has(self, key: Key) -> bool:
        """Whether the entry was ever written; a removed one counts, as in the original's contract."""
        now = simulation_now(key)
        return (self._store.read(key) if now is None else self._read_at(key, None, now)).exists

    def _write(self, key: Key, payload: Any) -> None:
        self._store.write(make_change(key, payload, stamp(key, None)))

    def _write_dated(self, key: Key, payload: Any, when: When | None) -> None:
        """Where no read takes a `when` (measures), it dates the document for reads at a simulation time."""
        moment = stamp(key, make_when(self._domain, when, required=False))
        self._store.write(make_change(key, payload, make_when(self._domain, moment)))

    def _remove(self, key: Key) -> None:
        self._store.remove(key)

    def _list(self, when: When | None, limit: int | None, *, keys_only: bool = False) -> Iterator[Record]:
        moment = make_when(self._domain, when, required=False)
        now = simulation_now(self._context)
        if now is not None and moment is not None and moment > now:
            raise refuse(self._context, f"listed with when={moment}", now)
        if now is not None and moment is None:
            return self._list_at(now, checked_limit(limit), keys_only and not self._domain.dated_by)
        return self._store.scan(self._context, when=moment, limit=checked_limit(limit), keys_only=keys_only)

    def _list_at(self, now: int, limit: int | None, keys_only: bool) -> Iterator[Record]:
        """The list as of the simulation time `now`; what is left out is reported once."""
        found = list(self._store.scan(self._context, when=None, limit=None, keys_only=keys_only))
        seen = [record for record in found if hidden_from(record, now) is None]
        if len(seen) < len(found):
            later = next(record for record in found if hidden_from(record, now) is not None)
            report_hidden(self._context, len(found) - len(seen), later.key, now)
        return iter(seen if limit is None else seen[max(0, len(seen) - limit) :])

    def _keys(self, when: When | None, limit: int | None) -> Iterator[str]:
        return (str(record.key.item) for record in self._list(when, limit, keys_only=True))

    def _entries(self, when: When | None, limit: int | None) -> Iterator[Row]:
        """What is listed with its contents: each under the stored name of the last key column."""
        name = self._domain.columns[-1]
        return ({name: record.key.item, "data": record.payload} for record in self._list(when, limit))

    def _read_rows(self, limit: int | None) -> list[Row]:
        return [record.payload for record in self._list(None, limit)]

    def _write_rows(self, rows: Sequence[Payload]) -> None:
        """Callers write their whole list for one changed row. A row equal (`==`) to the one they gave last time is the
        same change again, neither validated nor encoded; the plan decides whether it is still what is stored.
        """
        last = self._last_rows
        moment = stamp(self._context, None)
        given: dict[Part, tuple[Any, Change]] = {}
        for row in several(self._context, rows):
            item = row_item(self._domain, row)
            if item in given and self._domain.on_conflict is OnConflict.KEEP:
                # NaN does not equal itself, so what differs is compared as it would be stored.
                if row != given[item][0] and encode(self._key(item), row)[0] != given[item][1].body:
                    logger.warning("%s: two rows of one call have the id %r; the first stays: NOT stored is %s",
                                   self._context, item, shown(repr(row)))  # fmt: skip
                continue
            before = last.get(item)
            given[item] = (
                before
                if before is not None and row == before[0]
                else (detached(row), make_change(self._key(item), row, moment))
            )
        if given:
            self._store.merge(self._context, tuple(change for _, change in given.values()))
            self._last_rows = given


def checked_limit(limit: int | None) -> int | None:
    plain = plain_scalar(limit)
    if plain is not None and (type(plain) is not int or plain < 0):
        raise InvalidKey(f"limit must be a non-negative int or None, not {limit!r:.80}")
    return plain


def several(owner: object, rows: Any) -> Iterable[Any]:
    """The rows of one call. A single row, which is a collection too, would be taken for its fields.

    Raises:
        InvalidPayload: it is no collection of rows.
    """
    if isinstance(rows, (str, bytes, Mapping, BaseModel)) or not isinstance(rows, Iterable):
        raise InvalidPayload(f"{owner}: rows must be a list, not one {type(rows).__name__}. Nothing was written.")
    return rows
