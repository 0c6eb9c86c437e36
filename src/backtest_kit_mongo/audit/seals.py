"""What of the seals goes into the tree over all of them; `anchors.py` says how."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pymongo.database import Database

from backtest_kit_mongo.audit.chain import read_seal
from backtest_kit_mongo.audit.merkle import Growing, leaf
from backtest_kit_mongo.audit.records import readable
from backtest_kit_mongo.backends.mongo.errors import reading
from backtest_kit_mongo.stored import AUDIT_SEALS as SEALS

Document = dict[str, Any]


def record_leaves(stored: Mapping[str, Any]) -> list[bytes]:
    """The leaves of a seal's batch; none if the seal cannot be read."""
    try:
        records = [record for links in read_seal(stored).links for record in links.records()]
        return [leaf(b"record" + before + chain + record_id.encode()) for record_id, before, chain in records]
    except (KeyError, TypeError, ValueError):
        return []


def seal_leaf(number: int, sealed_hash: bytes, batch: list[bytes]) -> bytes:
    """The leaf of a seal in the tree of all."""
    numbers = number.to_bytes(8, "big") + len(batch).to_bytes(8, "big")
    return leaf(b"seal" + numbers + sealed_hash + Growing(batch).root())


def numbered_seals(database: Database[Document], *, after: int = -1) -> Iterator[Document]:
    """The seals in the order of their numbers, few held at once.

    Raises:
        ServerUnreachable, ReadFailed: they cannot be read.
    """
    with reading("the seals of the audit log"):
        for stored in readable(database, SEALS).find({"_id": {"$gt": after}}).sort("_id", 1).batch_size(4):
            if is_numbered(stored):
                yield stored


def is_numbered(stored: Mapping[str, Any]) -> bool:
    """Whether it can have a place in the tree; whoever put something else among the seals must not stop anchoring."""
    return isinstance(stored["_id"], int) and stored["_id"] >= 0
