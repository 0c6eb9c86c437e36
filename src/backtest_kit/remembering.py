"""What a strategy remembers: `ctx.state`, `ctx.session`, `ctx.dictionary`, `ctx.memory`. Plain mappings over the
adapters.

Values are what JSON knows, dates and bytes too. Assigning is what stores: after `ctx.state["rows"].append(1)` nothing
is stored until `ctx.state["rows"] = rows`. Every write carries the simulated minute, and what was written at a later
one cannot be read (`bk.LookAhead`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import backtest_kit_mongo as bk

__all__ = ["Memory", "StoredMap", "dictionary", "memory", "session", "state"]

Row: TypeAlias = dict[str, Any]
Map: TypeAlias = MutableMapping[str, Any]


class StoredMap(Map):
    """A mapping that is one stored row, read once and written whole with each assignment."""

    __slots__ = ("_data", "_load", "_save")

    def __init__(self, load: Callable[[], Row], save: Callable[[Row], None]) -> None:
        self._load, self._save = load, save
        self._data: Row | None = None

    def _loaded(self) -> Row:
        if self._data is None:
            self._data = self._load()
        return self._data

    def _stored(self, data: Row) -> None:
        self._save(data)
        self._data = data  # Only now: a write that failed leaves what was.

    def __getitem__(self, key: str) -> Any:
        return self._loaded()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._stored({**self._loaded(), _name(key): value})

    def __delitem__(self, key: str) -> None:
        data = dict(self._loaded())
        del data[key]
        self._stored(data)

    def update(self, *others: Any, **named: Any) -> None:
        """Assign several keys in one write."""
        added = dict(*others, **named)
        self._stored({**self._loaded(), **{_name(key): value for key, value in added.items()}})

    def clear(self) -> None:
        self._stored({})

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaded())

    def __len__(self) -> int:
        return len(self._loaded())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._loaded()!r})"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a context remembers.

    Attributes:
        owner: text that names context, mode and in a backtest the run.
        exchange: as in keys of rows.
    """

    owner: str
    symbol: str
    strategy: str
    exchange: str
    frame: str
    is_backtest: bool


def state(place: Place, now: Callable[[], int]) -> StoredMap:
    """Free values, one row per context."""
    row_id = f"{place.owner}_state"

    def load() -> Row:
        row = bk.PersistStateAdapter.read_state_data(place.owner, "state")
        return dict((row or {}).get("data") or {})

    def save(data: Row) -> None:
        at = now()
        bk.PersistStateAdapter.write_state_data({"id": row_id, "data": data, "when": at}, place.owner, "state", at)

    return StoredMap(load, save)


def session(place: Place, now: Callable[[], int]) -> StoredMap:
    """Free values as well, in the row that the original calls the session."""
    key = (place.strategy, place.exchange, place.frame, place.symbol, place.is_backtest)

    def load() -> Row:
        row = bk.PersistSessionAdapter.read_session_data(*key)
        return dict((row or {}).get("data") or {}) if (row or {}).get("id") == place.owner else {}

    def save(data: Row) -> None:
        at = now()
        row = {"id": place.owner, "data": data, "when": at}
        bk.PersistSessionAdapter.write_session_data(row, *key[:3], at, *key[3:])

    return StoredMap(load, save)


def dictionary(place: Place, now: Callable[[], int]) -> StoredMap:
    """Values of which each carries the minute of its own write."""
    row_id = f"{place.owner}_dictionary"
    times: dict[str, int] = {}

    def load() -> Row:
        row = bk.PersistDictionaryAdapter.read_dictionary_data(place.owner, "dictionary")
        entries = (row or {}).get("data") or {}
        times.update({key: entry["when"] for key, entry in entries.items()})
        return {key: entry["value"] for key, entry in entries.items()}

    def save(data: Row) -> None:
        at = now()
        before = dict(kept._data or {})
        moments = {key: times[key] if key in times and before.get(key) is value else at for key, value in data.items()}
        rows = {key: {"value": value, "when": moments[key]} for key, value in data.items()}
        row = {"id": row_id, "data": rows, "when": at}
        bk.PersistDictionaryAdapter.write_dictionary_data(row, place.owner, "dictionary", at)
        times.clear()
        times.update(moments)

    kept = StoredMap(load, save)
    return kept


class Memory(Map):
    """A mapping of which each value is a row of its own: for many values, and read from the store each time."""

    __slots__ = ("_now", "_owner")

    def __init__(self, owner: str, now: Callable[[], int]) -> None:
        self._owner, self._now = owner, now

    def __getitem__(self, key: str) -> Any:
        row = bk.PersistMemoryAdapter.read_memory_data(self._owner, "memory", _name(key))
        if row is None:
            raise KeyError(key)
        return row["data"]["value"]

    def __setitem__(self, key: str, value: Any) -> None:
        at = self._now()
        row = {"priority": at, "data": {"value": value}, "removed": False, "index": f"{key} {value!s:.500}", "when": at}
        bk.PersistMemoryAdapter.write_memory_data(row, self._owner, "memory", _name(key), at)

    def __delitem__(self, key: str) -> None:
        if key not in self:
            raise KeyError(key)
        bk.PersistMemoryAdapter.remove_memory_data(self._owner, "memory", key)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.get(key, self) is not self

    def __iter__(self) -> Iterator[str]:
        return iter([row["memoryId"] for row in bk.PersistMemoryAdapter.list_memory_data(self._owner, "memory")])

    def __len__(self) -> int:
        return sum(1 for _ in self)


def memory(place: Place, now: Callable[[], int]) -> Memory:
    return Memory(place.owner, now)


def _name(key: object) -> str:
    if not isinstance(key, str):
        raise bk.InvalidKey(f"what a strategy remembers has names of text, not {key!r:.80}. Nothing was written.")
    return key
