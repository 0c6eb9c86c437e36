"""Where a domain's documents are kept in MongoDB, and by which indexes they are found. All of it follows from the row
of the domain table, except what the npm package, which shares the database, does otherwise: that stands here by name.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final, NamedTuple

from backtest_kit_mongo import stored
from backtest_kit_mongo.coherence.record import Domain

_END: Final = "-items"
_PAYLOAD: Final = {"risk": "positions"}
"""The field of a document that holds the payload, where that is not `payload`."""
_BY_CREATION: Final = frozenset({"notification", "log"})
"""Lists that the npm package reads newest first."""
FORMER_KEYS: Final = {
    "candle": ("symbol", "interval", "timestamp"),
    "session": ("strategyName", "exchangeName", "frameName"),
}
"""What older releases took for the key: a unique index on these would refuse valid documents."""

Fields = tuple[tuple[str, int], ...]
BY_CHANGE: Final = (("updatedDate", -1), ("_id", -1))


class Index(NamedTuple):
    """An index as (field, direction) pairs."""

    fields: Fields
    unique: bool = False


@lru_cache
def collection_of(domain: Domain) -> str:
    """The name of its collection.

    Raises:
        ValueError: this package keeps something else there.
    """
    name = f"{domain.name}{_END}"
    if name in stored.ALL:
        raise ValueError(f"{domain}: its collection {name} is taken; give the domain another name")
    return name


@lru_cache
def payload_field(domain: Domain) -> str:
    """The field of its documents that holds the payload; the rows of a series have a field per column instead."""
    return _PAYLOAD.get(domain.name, "payload")


def own_collections(domains: Iterable[Domain]) -> frozenset[str]:
    """Every collection that this package and its worker keep: nobody else's to write to."""
    return stored.ALL.union(map(collection_of, domains))


def is_former_key(domain: Domain, columns: tuple[str, ...]) -> bool:
    return FORMER_KEYS.get(domain.name) == columns


@lru_cache
def hint(domain: Domain) -> list[tuple[str, int]]:
    """The unique index, which an upsert names so that MongoDB refuses it where that is gone."""
    return [(name, 1) for name in domain.columns]


def wanted(domain: Domain) -> tuple[Index, ...]:
    """Its indexes: the unique key, and what lists need. Prefixes of the key need none of their own."""
    context: Fields = tuple(hint(domain)[:-1])
    found = [Index(tuple(hint(domain)), unique=True)]
    if domain.has_removed:
        found.append(Index((*context, ("removed", 1))))
    if domain.name in _BY_CREATION:
        found.append(Index((*context, ("createDate", -1))))
    if domain.is_listed:
        filters = (((f"{payload_field(domain)}.{name}", 1),) for name in domain.filters)
        found += [Index((*context, *one, *BY_CHANGE)) for one in ((), *filters)]
    return tuple(found)
