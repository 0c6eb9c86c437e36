"""Indexes before the first write, and again when they are gone. Without the unique one, two first writers could make
two documents of one key.

A dropped, renamed or restored collection has lost its indexes, and running processes hear nothing of it. So every
upsert names the unique index as its hint: where there is none MongoDB refuses the write, which costs nothing where
there is. Inserts know no hints, and look before. Either way what is missing is built again first.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from pymongo import IndexModel
from pymongo.collection import Collection
from pymongo.errors import OperationFailure, PyMongoError

from backtest_kit_mongo import locks
from backtest_kit_mongo.backends.mongo.errors import DUPLICATE_KEY, brief
from backtest_kit_mongo.coherence.record import Domain, Index
from backtest_kit_mongo.errors import LegacyIndex, WriteRefused

logger = locks.logger(__name__)

Fields = tuple[tuple[str, int], ...]
_OTHER_OPTIONS: Final = frozenset({85, 86})
"""Server errors of an index that exists with other options."""
REPAIR: Final = "`bkm repair` shows these keys, and with --apply keeps one document of each and sets the others aside"


def wanted(domain: Domain) -> tuple[Index, ...]:
    """The domain's indexes: the unique key, and what its lists need. Prefixes of the key need none of their own."""
    return (Index(tuple(hint(domain)), unique=True), *domain.indexes)


@lru_cache
def hint(domain: Domain) -> list[tuple[str, int]]:
    """What an upsert names so that MongoDB refuses it where the unique index is gone."""
    return [(name, 1) for name in domain.columns]


def require(collection: Collection[dict[str, Any]], domain: Domain) -> None:
    """Before an insert: build the unique index again if it is gone.

    Raises:
        PyMongoError: it could not be looked for.
        LegacyIndex, WriteRefused: it cannot be built. Nothing was written.
    """
    if not any(index_fields(index) == tuple(hint(domain)) for index in collection.index_information().values()):
        rebuild(collection, domain)


def rebuild(collection: Collection[dict[str, Any]], domain: Domain) -> None:
    """Build again what was dropped under running processes. Several may do so at once.

    Raises:
        LegacyIndex, WriteRefused: it cannot be built. Nothing was written.
    """
    logger.warning(
        (
            "%s: its unique index is gone (the collection was dropped, renamed or restored without indexes?) and is "
            "built again"
        ),
        collection.full_name,
    )
    try:
        ensure(collection, domain)
    except PyMongoError as cause:
        raise WriteRefused(
            f"{collection.full_name}: its unique index is gone and is not built again yet; without it one key could "
            "get two "
            f"documents, so nothing was written. Try again: {brief(cause)}"
        ) from cause


def ensure(collection: Collection[dict[str, Any]], domain: Domain) -> None:
    """Build what is missing and refuse what forbids valid documents. Safe to run from many processes at once.

    Raises:
        LegacyIndex: an older release's unique index is in the way, or the unique index cannot be built (duplicates,
            other options).
        PyMongoError: it was not built for another reason.
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
        columns = ", ".join(domain.columns)
        if cause.code == DUPLICATE_KEY:
            raise LegacyIndex(
                f"{collection.full_name}: some keys have several documents, so the unique index on {columns} cannot "
                "be built. "
                f"Nothing was written. {REPAIR}: {brief(cause)}"
            ) from cause
        if cause.code in _OTHER_OPTIONS:
            raise LegacyIndex(
                f"{collection.full_name}: an index with other options stands in the place of one on {columns}. "
                "Nothing was written. "
                f"Drop it; the next start builds the right one: {brief(cause)}"
            ) from cause
        raise


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
            f"(its key lacks {', '.join(sorted(set(domain.columns) - set(columns)))}). Stop the old release, then "
            f"drop it: {drop}"
        )
    if columns == domain.columns and not unique:
        raise LegacyIndex(
            f"{collection.full_name}: the index {name} on the key is not unique, so one key could get two documents. "
            "Drop it; "
            f"the next start builds the right one: {drop}"
        )
