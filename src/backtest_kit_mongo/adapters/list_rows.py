"""The rows of one list on their way into the store: checked, encoded, and distinguished from those that were written
before.

Callers write their whole list for one changed row. A short list is remembered as it was given, so a row equal (`==`) to
the one of last time is neither checked nor encoded. Of a longer one only the digests are known that the store keeps:
its rows are encoded, and checked where their digest is another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from pydantic import BaseModel

from backtest_kit_mongo import locks
from backtest_kit_mongo.coherence.codec import detached, pack
from backtest_kit_mongo.coherence.lists import Seen
from backtest_kit_mongo.coherence.record import PACKED, Change, Domain, Key, OnConflict, Part, digest
from backtest_kit_mongo.coherence.showing import shown
from backtest_kit_mongo.domains.checks import encode, make_change, make_child, make_key, row_item
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.errors import InvalidPayload
from backtest_kit_mongo.look_ahead import stamp

logger = locks.logger(__name__)

REMEMBERED_MAX: Final = 2_000
"""Rows of a list that is remembered as it was given: some tens of MB."""


class ListRows:
    """The rows of one scope in one store."""

    def __init__(self, scope: Key, store: Store) -> None:
        self._scope = scope
        self._store = store
        self._last: dict[Part, tuple[Any, Change]] = {}

    @property
    def _domain(self) -> Domain:
        return self._scope.domain

    def write(self, rows: Any) -> None:
        """Write those that differ from what is stored.

        Raises:
            InvalidPayload: a row is wrong. No row was written.
        """
        listed = list(several(self._scope, rows))
        moment = stamp(self._scope, None)
        is_short, known = len(listed) <= REMEMBERED_MAX, self._store.known_rows(self._scope)
        given: dict[Part, Change] = {}
        kept: dict[Part, tuple[Any, Change]] = {}
        for row in listed:
            item = row_item(self._domain, row)
            if item in given and self._domain.on_conflict is OnConflict.KEEP:
                self._tell_second(item, row, given[item])
                continue
            before = self._last.get(item)
            if before is None or row != before[0]:
                change = self._change(item, row, moment, known.get(item))
                before = (detached(row), change) if is_short else (None, change)
            given[item] = before[1]
            kept[item] = before
        if given:
            self._store.merge(self._scope, tuple(given.values()))
            self._last = kept if is_short else {}

    def put(self, row: Any) -> None:
        """Write one, whatever is stored.

        Raises:
            InvalidPayload: it is wrong, and was not written.
        """
        if isinstance(row, (list, tuple)):
            raise InvalidPayload(
                f"{self._scope}: one row is written here, not a {type(row).__name__}. Nothing was written."
            )
        self._store.put(make_change(self._key(row_item(self._domain, row)), row, stamp(self._scope, None)))

    def _change(self, item: Part, row: Any, moment: int | None, seen: Seen | None) -> Change:
        key = self._key(item)
        if seen is not None:
            try:
                body = pack(row)
            except (TypeError, ValueError, OverflowError, RecursionError):
                return make_change(key, row, moment)  # Which says what is wrong with it.
            if digest(body) == seen.digest:
                return Change(key, PACKED, body, moment)
        return replace(make_change(key, row, moment), bson=b"")  # It is kept for long.

    def _key(self, item: Part) -> Key:
        try:
            return make_child(self._scope, item)
        except TypeError:
            return make_key(self._domain, (*self._scope.parts, item))  # Which says what is wrong with it.

    def _tell_second(self, item: Part, row: Any, first: Change) -> None:
        # NaN does not equal itself, so what differs is compared as it would be stored.
        if encode(self._key(item), row)[0] != first.body:
            logger.warning("%s: two rows of one call have the id %r; the first stays: NOT stored is %s",
                           self._scope, item, shown(repr(row)))  # fmt: skip


def put(instance: Any, method: str, whole: str, row: Any) -> None:
    """Write one row through an instance. An implementation that has no method for it is given a list of one."""
    own = getattr(instance, method, None)
    if own is not None:
        own(row)
    else:
        getattr(instance, whole)([row])


def said(**options: Any) -> dict[str, Any]:
    """Those that were given."""
    return {name: value for name, value in options.items() if value is not None}


def several(owner: object, rows: Any) -> Iterable[Any]:
    """The rows of one call. A single row, which is a collection too, would be taken for its fields.

    Raises:
        InvalidPayload: it is no collection of rows.
    """
    if isinstance(rows, (str, bytes, Mapping, BaseModel)) or not isinstance(rows, Iterable):
        raise InvalidPayload(f"{owner}: rows must be a list, not one {type(rows).__name__}. Nothing was written.")
    return rows
