"""Indexes before the first write, and again when they are gone. Without the unique one, two first writers could make
two documents of one key.

A dropped, renamed or restored collection has lost its indexes, and running processes hear nothing of it. So every
upsert names the unique index as its hint: where there is none MongoDB refuses the write, which costs nothing where
there is. Inserts know no hints, and are refused too (`inserting.py`). Either way what is missing is built again, and
the write is sent again.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final, TypeVar

import pymongo
from pymongo import IndexModel
from pymongo.collection import Collection
from pymongo.errors import ConnectionFailure, InvalidOperation, OperationFailure, PyMongoError

from backtest_kit_mongo import locks
from backtest_kit_mongo.backends.mongo.errors import DUPLICATE_KEY, IndexGone, brief
from backtest_kit_mongo.backends.mongo.layout import Fields, Index, hint, is_former_key, wanted
from backtest_kit_mongo.backends.mongo.side_by_side import results
from backtest_kit_mongo.coherence.record import Domain
from backtest_kit_mongo.errors import LegacyIndex, ServerUnreachable, WriteRefused

logger = locks.logger(__name__)

R = TypeVar("R")
_OTHER_OPTIONS: Final = frozenset({85, 86})
"""Server errors of an index that exists with other options."""
AT_ONCE_MAX: Final = 10_000
"""Documents of which an index is built in no time."""
BUILD_S: Final = 3_600.0
"""For an index of a large collection."""
SETUP_S: Final = 30.0
"""For the indexes that `setup()` waits for. Longer than an operation: each waits for journals, many at once for each
other's.
"""
REBUILDS_MAX: Final = 3
"""Of one write: whoever dropped the index, or restores the collection, may not have ended yet."""
REPAIR: Final = "`bkm repair` shows these keys, and with --apply keeps one document of each and sets the others aside"


def require(collection: Collection[dict[str, Any]], domain: Domain) -> None:
    """Before a bulk that updates: build the unique index again if it is gone.

    Raises:
        PyMongoError: it could not be looked for.
        LegacyIndex, WriteRefused: it cannot be built. Nothing was written.
    """
    unique = [index_fields(index) for index in collection.index_information().values() if index.get("unique")]
    if tuple(hint(domain)) not in unique:
        rebuild(collection, domain)


def rebuilding(collection: Collection[dict[str, Any]], domain: Domain, write: Callable[[], R]) -> R:
    """What `write` returns; it is called again each time that the index it needs was gone and has been built.

    Raises:
        IndexGone, LegacyIndex, WriteRefused: the index does not stay, or cannot be built. Nothing was written.
        and what `write` raises.
    """
    for _ in range(REBUILDS_MAX):
        try:
            return write()
        except IndexGone:
            rebuild(collection, domain)
    return write()


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
        ensure(collection, domain, believes=False)
    except PyMongoError as cause:
        raise WriteRefused(
            f"{collection.full_name}: its unique index is gone and is not built again yet; without it one key could "
            "get two "
            f"documents, so nothing was written. Try again: {brief(cause)}"
        ) from cause


def ensure_all(collections: Mapping[Domain, Collection[dict[str, Any]]]) -> None:
    """Side by side, because each index waits for the journal: a fresh database is ready in a fraction of the time.
    Those that only make the lists of large collections faster are built in a thread.
    """
    later: list[tuple[Collection[dict[str, Any]], list[Index]]] = []

    def prepare(domain: Domain, collection: Collection[dict[str, Any]]) -> None:
        with _building(collection), pymongo.timeout(SETUP_S):
            if missing := ensure(collection, domain, wait=False):
                later.append((collection, missing))

    deque(results((partial(prepare, *each) for each in collections.items()), 8), maxlen=0)
    if later:
        with suppress(RuntimeError):  # The interpreter is ending.
            threading.Thread(target=_build, args=(later,), name="index-builder", daemon=True).start()


@contextmanager
def _building(collection: Collection[dict[str, Any]]) -> Iterator[None]:
    """No document is at stake, and to ask for an index again does nothing where it is."""
    try:
        yield
    except PyMongoError as cause:
        what = f"{collection.full_name}: its indexes could not be built. No document was written"
        if isinstance(cause, ConnectionFailure) or cause.timeout:
            raise ServerUnreachable(
                f"{what}. MongoDB did not answer within {SETUP_S:.0f} s and may go on building; set up again: "
                f"{brief(cause)}"
            ) from cause
        raise WriteRefused(f"{what}: {brief(cause)}") from cause


def _build(missing_by_collection: Sequence[tuple[Collection[dict[str, Any]], list[Index]]]) -> None:
    """MongoDB serves reads and writes meanwhile; lists are only read more slowly until then. A build that fails, or
    whose process ends, is begun again by the next start.
    """
    for collection, missing in missing_by_collection:
        named = "; ".join(", ".join(name for name, _ in index.fields) for index in missing)
        logger.info("%s: indexes are built that its lists are read by: %s", collection.full_name, named)
        try:
            with pymongo.timeout(BUILD_S):
                _create(collection, missing)
        except InvalidOperation:
            return  # The store was closed.
        except PyMongoError as cause:
            logger.warning(
                "%s: without the indexes %s its lists are read more slowly; the next start builds them: %s",
                collection.full_name, named, brief(cause),
            )  # fmt: skip


def ensure(
    collection: Collection[dict[str, Any]], domain: Domain, *, wait: bool = True, believes: bool = True
) -> list[Index]:
    """Build what is missing and refuse what forbids valid documents. Safe to run from many processes at once.

    Args:
        wait: also for indexes that only make lists faster, however many documents there are.
        believes: that the unique index is there if it is listed. It is listed while another process builds it, and to
            ask for it then waits for its end.

    Returns:
        What is missing and was not waited for.

    Raises:
        LegacyIndex: an older release's unique index is in the way, or the unique index cannot be built (duplicates,
            other options).
        PyMongoError: it was not built for another reason.
    """
    present = collection.index_information()
    for name, index in present.items():
        require_valid(collection, domain, name, index)
    have = {index_fields(index) for index in present.values()}
    missing = [index for index in wanted(domain) if index.fields not in have or (index.unique and not believes)]
    if not wait and collection.estimated_document_count() > AT_ONCE_MAX:
        now, later = [index for index in missing if index.unique], [index for index in missing if not index.unique]
    else:
        now, later = missing, []
    if not now:
        return later
    try:
        _create(collection, now)
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
    return later


def _create(collection: Collection[dict[str, Any]], missing: Sequence[Index]) -> None:
    collection.create_indexes([IndexModel(list(index.fields), unique=index.unique) for index in missing])


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
    if unique and is_former_key(domain, columns):
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
