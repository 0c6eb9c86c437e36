"""Proofs for whoever holds anchors but must not, or need not, see the database. `docs/check_proof.py` checks them
offline.

A proof of one record among ten million is about 2 KB, whatever else the log holds: `docs/audit.md` has the arithmetic.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from typing import Any

from pymongo.database import Database

from backtest_kit_mongo.audit.anchors import numbered_seals, record_leaves, seal_leaf
from backtest_kit_mongo.audit.chain import read_seal, seal_hash
from backtest_kit_mongo.audit.log import AuditLog
from backtest_kit_mongo.audit.merkle import consistency, inclusion
from backtest_kit_mongo.audit.records import ITEMS, digest, raw, split_id
from backtest_kit_mongo.backends.mongo.errors import reading
from backtest_kit_mongo.errors import CallerError, NotFound

Document = dict[str, Any]


def prove_inclusion(log: AuditLog, record_id: str, anchor: int) -> tuple[Document, bytes]:
    """A proof that a record is under an anchor, and the record's BSON bytes.

    All seals up to the anchor are read; 32 bytes of each are held.

    Args:
        record_id: the `id` of an AuditRecord.
        anchor: the field `seal` of an anchor.

    Raises:
        NotFound: there is no such record, or no seal up to the anchor's holds it.
        ServerUnreachable, ReadFailed: nothing can be said.
    """
    with reading(record_id):
        stored = raw(log.database, ITEMS).find_one({"_id": record_id})
    if stored is None:
        raise NotFound(f"the audit log has no record {record_id}")
    document = split_id(record_id).document
    leaves: list[bytes] = []
    proof: Document = {}
    for seal in numbered_seals(log.database, anchor):
        batch = record_leaves(seal)
        if batch and document in seal["documents"]:
            proof = _within(seal, record_id, batch, len(leaves)) or proof
        leaves.append(seal_leaf(int(seal["_id"]), seal_hash(seal), batch))
    if not proof:
        raise NotFound(
            f"no seal up to {anchor} holds {record_id}; `bkm audit anchor` makes an anchor of what is sealed now"
        )
    head = {"proof": "inclusion", "anchor": anchor, "record": record_id, "digest": digest(stored.raw).hex()}
    return {**head, **proof, "path": _joined(inclusion(leaves, proof["index"]))}, bytes(stored.raw)


def _within(seal: Document, record_id: str, batch: list[bytes], index: int) -> Document | None:
    """The part of a proof inside one seal; None if the record is not in it."""
    records = (record for links in read_seal(seal).links for record in links.records())
    for at, (found, before, _) in enumerate(records):
        if found == record_id:
            place = {"number": int(seal["_id"]), "count": len(batch), "index": at, "hash": seal_hash(seal).hex()}
            return {
                "before": before.hex(),
                "seal": {**place, "path": _joined(inclusion(batch, at))},
                "index": index,
            }
    return None


def prove_consistency(database: Database[Document], older: int, newer: int) -> Document:
    """A proof that the log of the newer anchor begins with that of the older.

    Args:
        older, newer: the fields `seal` of two anchors.

    Raises:
        CallerError: they are not an older and a newer one.
        NotFound: there are no seals up to there.
        ServerUnreachable, ReadFailed: nothing can be said.
    """
    if not 0 < older <= newer:
        raise CallerError(f"the older anchor must come first and hold a seal: {older} and {newer}")
    leaves: list[bytes] = []
    within = number = 0
    for seal in numbered_seals(database, newer):
        number = int(seal["_id"])
        leaves.append(seal_leaf(number, seal_hash(seal), record_leaves(seal)))
        within = len(leaves) if number <= older else within
    if number < newer or not within:
        raise NotFound(f"the log ends at seal {number}: it cannot have grown to {newer}")
    return {"proof": "consistency", "older": older, "newer": newer, "path": _joined(consistency(leaves, within))}


def _joined(path: Sequence[bytes]) -> str:
    return b64encode(b"".join(path)).decode()
