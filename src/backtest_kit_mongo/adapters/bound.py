"""What all instances share: one context of one domain, bound to a `Store`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

from backtest_kit_mongo.adapters.contracts import Payload, Row, When
from backtest_kit_mongo.adapters.list_rows import ListRows
from backtest_kit_mongo.coherence.codec import plain_scalar
from backtest_kit_mongo.coherence.lists import ALL, Only
from backtest_kit_mongo.coherence.moments import moment_ms
from backtest_kit_mongo.coherence.record import Domain, Key, Part, Record
from backtest_kit_mongo.domains.checks import make_change, make_child, make_key, make_when
from backtest_kit_mongo.domains.table import context_names
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.errors import InvalidKey
from backtest_kit_mongo.look_ahead import hidden_from, refuse, report_hidden, simulation_now, stamp

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
        self._rows = ListRows(self._context, store)

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

    def _write_dated(self, key: Key, payload: Any, when: When | None) -> None:
        """Where no read takes a `when` (measures), it dates the document for reads at a simulation time."""
        moment = stamp(key, make_when(self._domain, when, required=False))
        self._store.write(make_change(key, payload, make_when(self._domain, moment)))

    def _remove(self, key: Key) -> None:
        self._store.remove(key)

    def _list(
        self, when: When | None, limit: int | None, *, keys_only: bool = False, only: Only = ALL
    ) -> Iterator[Record]:
        moment = make_when(self._domain, when, required=False)
        now = simulation_now(self._context)
        if now is not None and moment is not None and moment > now:
            raise refuse(self._context, f"listed with when={moment}", now)
        if now is not None and moment is None:
            return iter(self._list_at(now, checked_limit(limit), keys_only and not self._domain.dated_by, only))
        return self._store.scan(self._context, when=moment, limit=checked_limit(limit), keys_only=keys_only, only=only)

    def _list_at(self, now: int, limit: int | None, keys_only: bool, only: Only) -> list[Record]:
        """The list as of the simulation time `now`; what is left out is reported once."""
        seen: list[Record] = []
        later: list[Record] = []
        ordered = only if limit is None else only._replace(by_change=True)
        for record in self._store.scan(self._context, when=None, limit=None, keys_only=keys_only, only=ordered):
            if len(seen) == limit:
                break
            (seen if hidden_from(record, now) is None else later).append(record)
        if later:
            report_hidden(self._context, len(later), later[0].key, now)
        return seen

    def _keys(self, when: When | None, limit: int | None) -> Iterator[str]:
        return (str(record.key.item) for record in self._list(when, limit, keys_only=True))

    def _entries(self, when: When | None, limit: int | None) -> Iterator[Row]:
        """What is listed with its contents: each under the stored name of the last key column."""
        name = self._domain.columns[-1]
        return ({name: record.key.item, "data": record.payload} for record in self._list(when, limit))

    def _read_rows(
        self, *, limit: int | None = None, since: When | None = None, ids: Any = None, **where: str | None
    ) -> list[Row]:
        only = Only(
            None if since is None else moment_ms(since, f"{self._context}: `since`"),
            None if ids is None else self._items(ids),
            tuple(
                (name, checked_text(self._context, name, value)) for name, value in where.items() if value is not None
            ),
        )
        return [record.payload for record in self._list(None, limit, only=only)]

    def _items(self, ids: Any) -> tuple[Part, ...]:
        listed = [ids] if isinstance(ids, str) or not isinstance(ids, Iterable) else ids
        return tuple(dict.fromkeys(self._key(item).item for item in listed))

    def _write_rows(self, rows: Sequence[Payload]) -> None:
        self._rows.write(rows)

    def _put_row(self, row: Payload) -> None:
        self._rows.put(row)


def checked_text(owner: object, name: str, value: Any) -> str:
    text: Any = plain_scalar(value)
    if type(text) is not str:
        raise InvalidKey(f"{owner}: {name} must be text or None, not {value!r:.80}. Nothing was read.")
    return text


def checked_limit(limit: int | None) -> int | None:
    plain = plain_scalar(limit)
    if plain is not None and (type(plain) is not int or plain < 0):
        raise InvalidKey(f"limit must be a non-negative int or None, not {limit!r:.80}")
    return plain
