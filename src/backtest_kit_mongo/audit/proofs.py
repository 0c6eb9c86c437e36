"""Proofs for whoever holds anchors but must not, or need not, see the database. `docs/check_proof.py` checks them
offline.

A proof of one record among ten million is about 2 KB, whatever else the log holds: `docs/audit.md` has the arithmetic.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any, Final

from pymongo.database import Database

from backtest_kit_mongo.audit.anchors import check_newest
from backtest_kit_mongo.audit.chain import read_seal, seal_hash
from backtest_kit_mongo.audit.kept import KeptTree, kept_tree
from backtest_kit_mongo.audit.log import AuditLog
from backtest_kit_mongo.audit.merkle import consistency, inclusion, over
from backtest_kit_mongo.audit.records import raw, readable, sealed_digest, split_id
from backtest_kit_mongo.audit.seals import is_numbered, record_leaves, seal_leaf
from backtest_kit_mongo.backends.mongo.errors import reading
from backtest_kit_mongo.errors import CallerError, CorruptData, NotFound
from backtest_kit_mongo.stored import AUDIT_ITEMS as ITEMS
from backtest_kit_mongo.stored import AUDIT_SEALS as SEALS

Document = dict[str, Any]
CLOCKS: Final = timedelta(seconds=5)
"""By so much the clocks of those who record and seal may differ without a proof taking longer."""


def prove_inclusion(log: AuditLog, record_id: str, anchor: int) -> tuple[Document, bytes]:
    """A proof that a record is under an anchor, and the record's BSON bytes.

    Args:
        record_id: the `id` of an AuditRecord.
        anchor: the field `seal` of an anchor.

    Raises:
        NotFound: there is no such record, or no seal up to the anchor's holds it.
        CorruptData: the seal is not what it was when this host read it.
        ServerUnreachable, ReadFailed: nothing can be said.
    """
    with reading(record_id):
        stored = raw(log.database, ITEMS).find_one({"_id": record_id})
    if stored is None:
        raise NotFound(f"the audit log has no record {record_id}")
    with kept_tree(log.database) as tree:
        _grow(tree, log.database)
        for seal in _seals_of(log.database, record_id, stored.get("recordedAt"), anchor):
            if found := _within(seal, record_id, tree, anchor):
                head = {
                    "proof": "inclusion",
                    "anchor": anchor,
                    "record": record_id,
                    "digest": sealed_digest(stored).hex(),
                }
                return {**head, **found}, bytes(stored.raw)
    raise NotFound(
        f"no seal up to {anchor} holds {record_id}; `bkm audit anchor` makes an anchor of what is sealed now"
    )


def _grow(tree: KeptTree, database: Database[Document]) -> None:
    for found in check_newest(tree, database):
        raise CorruptData(f"{found.where}: {found.detail}: run this again, and `bkm audit verify` with your anchors")
    tree.grow(database)


def _seals_of(database: Database[Document], record_id: str, recorded_at: Any, up_to: int) -> Iterator[Document]:
    """The seals with records of the document, from about the time on at which this one was recorded, then those
    before.
    """
    seals = readable(database, SEALS)
    name = split_id(record_id).document

    def first_since(moment: datetime) -> int:
        low, high = 0, up_to + 1
        while low < high:
            middle = (low + high) // 2
            found = seals.find_one({"_id": {"$gte": middle, "$lte": up_to}}, {"sealedAt": 1}, sort=[("_id", 1)])
            at = found and found.get("sealedAt")
            if isinstance(at, datetime) and at < moment:
                low = middle + 1
            else:
                high = middle
        return low

    with reading(record_id):
        is_moment = isinstance(recorded_at, datetime)
        begin = first_since(recorded_at.replace(tzinfo=UTC) - CLOCKS) if is_moment else 0
        later = seals.find({"_id": {"$gte": begin, "$lte": up_to}, "documents": name}).sort("_id", 1).batch_size(1)
        sooner = seals.find({"_id": {"$gte": 0, "$lt": begin}, "documents": name}).sort("_id", -1).batch_size(1)
        yield from filter(is_numbered, chain(later, sooner))


def _within(seal: Mapping[str, Any], record_id: str, tree: KeptTree, anchor: int) -> Document | None:
    """A proof's part that is of a seal; None if the record is not in it."""
    batch, number, sealed_hash = record_leaves(seal), int(seal["_id"]), seal_hash(seal)
    records = (record for links in (read_seal(seal).links if batch else ()) for record in links.records())
    for at, (found, before, _) in enumerate(records):
        if found == record_id:
            index = tree.state(number).seals - 1
            if tree.full(0, index) != seal_leaf(number, sealed_hash, batch):
                raise CorruptData(f"seal {number} is not what it was when this host read it; run `bkm audit verify`")
            path = inclusion(over(batch), at, len(batch))
            place = {
                "number": number,
                "count": len(batch),
                "index": at,
                "hash": sealed_hash.hex(),
                "path": _joined(path),
            }
            above = _joined(inclusion(tree.full, index, tree.state(anchor).seals))
            return {"before": before.hex(), "seal": place, "index": index, "path": above}
    return None


def prove_consistency(database: Database[Document], older: int, newer: int) -> Document:
    """A proof that the log of the newer anchor begins with that of the older.

    Args:
        older, newer: the fields `seal` of two anchors.

    Raises:
        CallerError: they are not an older and a newer one.
        NotFound: there are no seals up to there.
        CorruptData, ServerUnreachable, ReadFailed: nothing can be said.
    """
    if not 0 < older <= newer:
        raise CallerError(f"the older anchor must come first and hold a seal: {older} and {newer}")
    with kept_tree(database) as tree:
        _grow(tree, database)
        first, last, newest = tree.state(older), tree.state(newer), tree.state().number
        if newest < newer or not first.seals:
            raise NotFound(f"the log ends at seal {newest}: it cannot have grown to {newer}")
        path = consistency(tree.full, first.seals, last.seals)
        return {"proof": "consistency", "older": older, "newer": newer, "path": _joined(path)}


def _joined(path: Sequence[bytes]) -> str:
    return b64encode(b"".join(path)).decode()
