"""The narrow waist: a `Domain` is a row of a table, a `Key` names one document, a `Record` is what a backend stores and
returns.

Backends know these and nothing else about any domain.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from hashlib import blake2b
from typing import Any, Final, NamedTuple, TypeAlias

from backtest_kit_mongo.coherence.codec import unpack
from backtest_kit_mongo.coherence.showing import shown

Part: TypeAlias = str | bool | int
"""One key field. Never anything else: an operator document such as {"$ne": null} in a query would match other contexts.
"""


class Shape(Enum):
    """How a domain is addressed."""

    SLOT = "slot"
    """One document per context."""
    KEYED = "keyed"
    """Many documents per context, read one at a time, some listed."""
    LIST = "list"
    """Many rows per context, written and read as a list."""
    SERIES = "series"
    """Many rows per context, ordered by time, read as a window, first write wins."""


class OnConflict(Enum):
    """What a write does to a document that exists."""

    REPLACE = "replace"
    KEEP = "keep"
    """First write wins."""


class Column(NamedTuple):
    """A key column: its stored name, its type and, for an enumeration, the allowed values."""

    name: str
    type: type[str] | type[bool] | type[int] = str
    choices: frozenset[str] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Domain:
    """One row of the domain table. Two domains are equal only if they are the same row.

    Attributes:
        name: the domain's name in events, cache keys and the command line; how a backend names what it keeps follows
            from it.
        key: the columns that name one document, in order; all but the last are the context unless the shape is SLOT.
        fields: SERIES only, the payload's own columns.
        empty: makes the value that a read returns when nothing is stored.
        has_when: the simulation time of a write is stored and guards reads against look-ahead.
        dated_by: payload fields (ms) that date a row which carries no simulation time.
        has_removed: documents are deleted softly.
        memo: a key's value is computed once and only ever removed, so a copy that is a moment old does no harm.
        remade: what is lost can be made again, so files of it are not forced to the disk: they survive the death of
            any process, and a power failure may take those of the last seconds.
        row_id: LIST only, the payload field that is the last key column.
        filters: LIST only, payload fields (text) that a list can be reduced to a value of.
        context_field: LIST only, the payload's object that has the names of the context; empty: the payload itself.
        model: the payload's pydantic type, used to check writes and to restore foreign numbers.
        columns: the names of `key`.
    """

    name: str
    shape: Shape
    key: tuple[Column, ...]
    empty: Callable[[], Any]
    model: Any
    fields: tuple[str, ...] = ()
    has_when: bool = False
    dated_by: tuple[str, ...] = ()
    has_removed: bool = False
    memo: bool = False
    remade: bool = False
    on_conflict: OnConflict = OnConflict.REPLACE
    row_id: str = ""
    filters: tuple[str, ...] = ()
    context_field: str = ""
    columns: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(column.name for column in self.key))

    @property
    def cached(self) -> bool:
        """Whether single documents are read by key, and so have cache entries.

        Lists and windows are one query to the truth.
        """
        return self.shape in (Shape.SLOT, Shape.KEYED)

    @property
    def is_listed(self) -> bool:
        """Whether the documents of a context are listed, and some of them asked for: the most recently changed."""
        return self.shape is Shape.LIST or (self.shape is Shape.KEYED and self.has_removed)

    def __repr__(self) -> str:
        return f"<domain {self.name}>"


class Key(NamedTuple):
    """A document (as many parts as the domain has key columns) or a scope (all but the last)."""

    domain: Domain
    parts: tuple[Part, ...]

    def child(self, item: Part) -> Key:
        return Key(self.domain, (*self.parts, item))

    @property
    def scope(self) -> Key:
        return Key(self.domain, self.parts[:-1])

    @property
    def item(self) -> Part:
        return self.parts[-1]

    def query(self) -> dict[str, Part]:
        """Key columns by stored name: the exact filter of this document or scope."""
        return dict(zip(self.domain.columns, self.parts, strict=False))

    def __str__(self) -> str:
        """For people, in one line: a long part is cut, and says how long it is."""
        return "/".join((self.domain.name, *(shown(str(part)) for part in self.parts)))


class Record(NamedTuple):
    """One stored document, or the fact that there is none (`exists` is false).

    A named tuple, as `Key` is: each read makes one, and a frozen dataclass takes three times as long to make and to
    hash.

    Attributes:
        rev: how often the document was written; 0 if a foreign writer made it and nobody wrote it since.
        when: simulation time of the last write in ms. None: it had none.
        id: how the truth names the document, as text; empty if there is none.
    """

    key: Key
    rev: int = 0
    payload: Any = None
    when: int | None = None
    removed: bool = False
    id: str = ""

    @property
    def exists(self) -> bool:
        return self.id != ""

    def visible(self, when: int | None) -> bool:
        """Whether a read at simulation time `when` (ms; None: no guard) may see this record."""
        return self.id != "" and not self.removed and (when is None or self.when is None or self.when <= when)


PACKED: Final = object()
"""In place of a payload of which only the bytes are at hand."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a write wants to store under a key. `body` is the payload's bytes; `bson` is `{"payload": payload}` as BSON
    where the check of its size has made it.
    """

    key: Key
    payload: Any
    body: bytes
    when: int | None = None
    removed: bool = False
    bson: bytes = field(default=b"", repr=False, compare=False)
    _digest: bytes = field(default=b"", init=False, repr=False, compare=False)

    @property
    def digest(self) -> bytes:
        """Of the payload's bytes, computed once: a list is compared by the digests of its rows."""
        if not self._digest:
            object.__setattr__(self, "_digest", digest(self.body))
        return self._digest

    def whole(self) -> Change:
        """The same with a payload, if that was `PACKED`."""
        return self if self.payload is not PACKED else replace(self, payload=unpack(self.body))


def digest(body: bytes) -> bytes:
    """Tells payloads apart by their bytes: 1, 1.0 and True are three values."""
    return blake2b(body, digest_size=16).digest()
