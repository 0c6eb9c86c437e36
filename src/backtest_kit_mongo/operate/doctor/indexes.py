"""Indexes of the domain collections: the unique one of each key, those of older releases, keys with two documents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from pymongo.collection import Collection
from pymongo.errors import PyMongoError

from backtest_kit_mongo.backends.mongo.indexes import index_fields, require_valid
from backtest_kit_mongo.backends.mongo.layout import collection_of, wanted
from backtest_kit_mongo.coherence.record import Domain
from backtest_kit_mongo.domains.table import DOMAINS
from backtest_kit_mongo.errors import LegacyIndex
from backtest_kit_mongo.feed.opened import FeedServers
from backtest_kit_mongo.operate.doctor.findings import Finding, error, ok, warning

SHOWN_MAX: Final = 3


def indexes(servers: FeedServers) -> Iterator[Finding]:
    """One finding for all that is well, and one for each collection that is not."""
    existing = set(servers.database.list_collection_names())
    good_count = 0
    for domain in DOMAINS:
        if collection_of(domain) in existing:
            found = list(of_collection(servers.database[collection_of(domain)], domain))
            good_count += not found
            yield from found
    absent_count = len(DOMAINS) - len(existing & {collection_of(domain) for domain in DOMAINS})
    seen = f"{good_count} of {len(DOMAINS)} collections have all of theirs"
    yield ok("mongo.indexes", seen + (f", {absent_count} do not exist yet" if absent_count else ""))


def of_collection(collection: Collection[dict[str, Any]], domain: Domain) -> Iterator[Finding]:
    present = collection.index_information()
    for name, index in present.items():
        try:
            require_valid(collection, domain, name, index)
        except LegacyIndex as cause:
            yield error(
                "mongo.legacy-index", str(cause), "run that command; the next client that starts builds what is needed"
            )
    have = {index_fields(index) for index in present.values() if index.get("unique")}
    if wanted(domain)[0].fields not in have:
        yield from _duplicates(collection, domain)
    missing = [
        index for index in wanted(domain) if index.fields not in {index_fields(each) for each in present.values()}
    ]
    if missing:
        named = "; ".join(", ".join(name for name, _ in index.fields) for index in missing)
        yield warning(
            "mongo.indexes", f"{collection.full_name} lacks {len(missing)}: {named}",
            "nothing if no client of this version was started on it yet, or one is building them; otherwise somebody "
            "dropped them: restart a client, which builds them while others read and write",
        )  # fmt: skip


def _duplicates(collection: Collection[dict[str, Any]], domain: Domain) -> Iterator[Finding]:
    """Keys with several documents. Only where no unique index rules them out: it reads the whole collection."""
    stages: list[dict[str, Any]] = [
        {"$group": {"_id": {name: f"${name}" for name in domain.columns}, "count": {"$sum": 1}}},
        {"$match": {"count": {"$gt": 1}}},
        {"$limit": SHOWN_MAX},
    ]
    try:
        rows = list(collection.aggregate(stages, allowDiskUse=True))
    except PyMongoError as cause:
        if not cause.timeout:
            raise
        yield warning(
            "mongo.duplicates", (f"{collection.full_name}: whether keys have several documents was not found out in "
                "time"),
            "raise CC_LEASE_MS for this one look: CC_MONGO_TIMEOUT_MS, two thirds of it, bounds the question",
        )  # fmt: skip
        return
    if rows:
        keys = ", ".join("/".join(str(part) for part in row["_id"].values()) for row in rows)
        yield error(
            "mongo.duplicates", f"{collection.full_name} has keys with several documents: {keys}",
            "`bkm repair` keeps one document of each key and sets the others aside; without --apply it only shows them",
        )  # fmt: skip
