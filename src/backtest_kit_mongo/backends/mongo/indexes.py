"""Indexes before the first write. Without the unique one, two first writers could make two documents of one key."""

from __future__ import annotations

from typing import Any

from pymongo import IndexModel
from pymongo.collection import Collection
from pymongo.errors import OperationFailure

from backtest_kit_mongo.coherence.record import Domain, Index
from backtest_kit_mongo.errors import LegacyIndex

Fields = tuple[tuple[str, int], ...]


def wanted(domain: Domain) -> tuple[Index, ...]:
    """The domain's indexes: the unique key, and what its lists need. Prefixes of the key need none of their own."""
    return (Index(tuple((name, 1) for name in domain.columns), unique=True), *domain.indexes)


def ensure(collection: Collection[dict[str, Any]], domain: Domain) -> None:
    """Build what is missing and refuse what forbids valid documents. Safe to run from many processes at once.

    Raises:
        LegacyIndex: an older release's unique index is in the way, or the unique index cannot be built (duplicates,
        other options).
    """
    present = collection.index_information()
    for name, index in present.items():
        require_valid(collection, domain, name, index)
    have = {index_fields(index) for index in present.values()}
    missing = [index for index in wanted(domain) if index.fields not in have]
    if not missing:
        return
    try:
        collection.create_indexes([IndexModel(list(index.fields), unique=index.unique) for index in missing])
    except OperationFailure as cause:
        raise LegacyIndex(
            f"{collection.full_name}: cannot build the unique index on {', '.join(domain.columns)}: {cause.details or cause}. "
            "If it reports duplicate keys, two documents of one key exist: keep the one with the newer updatedDate and delete the other."
        ) from cause


def index_fields(index: dict[str, Any]) -> Fields:
    """The fields of an index as `index_information` tells it."""
    return tuple((str(name), int(direction)) for name, direction in index["key"] if isinstance(direction, int | float))


def require_valid(collection: Collection[dict[str, Any]], domain: Domain, name: str, index: dict[str, Any]) -> None:
    """Refuse an index that forbids valid documents or does not keep a key to one document.

    Raises:
        LegacyIndex: with the command that drops it.
    """
    columns = tuple(field for field, _ in index_fields(index))
    unique = bool(index.get("unique"))
    drop = f'mongosh: use {collection.database.name}; db.getCollection("{collection.name}").dropIndex("{name}")'
    if unique and columns in domain.legacy_unique:
        raise LegacyIndex(
            f"{collection.full_name} has the unique index {name} of an older release. It would refuse valid documents "
            f"(its key lacks {', '.join(sorted(set(domain.columns) - set(columns)))}). Stop the old release, then drop it: {drop}"
        )
    if columns == domain.columns and not unique:
        raise LegacyIndex(
            f"{collection.full_name}: the index {name} on the key is not unique, so one key could get two documents. Drop it; "
            f"the next start builds the right one: {drop}"
        )
