"""A segment of the audit log: the records of all seals up to one, with the seals, in a directory with checksums; and
dropping from the database what is in it.

    audit-items.bson.gz   the records, each compared with its seal on the way
    audit-seals.bson.gz   the seals, from the first one on: whoever has them and an anchor needs no database
    manifest.json         sizes and SHA-256 (`backup/archive.py`), kind "audit"

What is dropped of a superseded record is its payload, as in `audit/erasing.py`, and what it belonged to (`DROPPED`).
Its identity, times, writer and the digest that was sealed stay. So every anchor, proof and seal holds, nobody takes a
dropped revision for one that was lost, what is delivered again meets its record, and the segment proves by the same
digests that it is what was there. Why not all of a record goes: `docs/adr/0039`. Of each document the newest sealed
record stays whole, because recovery goes on from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final, NamedTuple

import bson
from bson.raw_bson import RawBSONDocument
from pymongo import UpdateOne
from pymongo.database import Database

from backtest_kit_mongo.audit.chain import link, read_seal
from backtest_kit_mongo.audit.erasing import KEPT
from backtest_kit_mongo.audit.records import ERASED, raw, readable, sealed_digest, split_id
from backtest_kit_mongo.backends.mongo.errors import writing
from backtest_kit_mongo.connect import DURABLE
from backtest_kit_mongo.errors import CorruptData, InvalidSetting, NotFound
from backtest_kit_mongo.operate.backup.archive import Backup, Draft, Manifest
from backtest_kit_mongo.stored import AUDIT_HEADS, AUDIT_ITEMS, AUDIT_SEALS

__all__ = ["Dropped", "drop_segment", "export_segment"]

AUDIT: Final = "audit"
PAGE: Final = 1_000
DROPPED: Final = ("step", "cause", "signal")
"""What goes beside the payload, with its place in the index: what a change belonged to is told by what it held."""

Document = dict[str, Any]


class Dropped(NamedTuple):
    """What became of a segment's records.

    Attributes:
        dropped: those of which the payload went, and what they belonged to.
        newest: records that stay whole, because they are their documents' newest.
        empty: records that have no payload, or had none any more.
        before_bytes, after_bytes: of the dropped ones, uncompressed: whole, and what stays of them.
    """

    dropped: int = 0
    newest: int = 0
    empty: int = 0
    before_bytes: int = 0
    after_bytes: int = 0


def export_segment(
    database: Database[Document],
    draft: Draft,
    until: datetime,
    on_records: Callable[[int, int], object] = lambda count, total: None,
) -> Manifest:
    """Fill a draft with the records of all seals that were made before a moment.

    Args:
        on_records: told of the records written, and how many there are.

    Raises:
        NotFound: there is no such seal.
        CorruptData: a record is not what was sealed: `bkm audit verify` says more. No segment was made.
        ReadFailed, PyMongoError, OSError: a server or disk failed. What was written is an unfinished segment.
    """
    sealed = readable(database, AUDIT_SEALS).find({"sealedAt": {"$lt": until}}).sort("_id", 1)
    last = next(iter(sealed.clone().sort("_id", -1).limit(1)), None)
    if last is None:
        raise NotFound(f"no seal was made before {until:%Y-%m-%d %H:%M:%S} UTC. No segment was made.")
    stored = raw(database, AUDIT_ITEMS)
    with draft.part(AUDIT_ITEMS) as sink:
        for document in sealed.batch_size(4):
            links = [one for links in read_seal(document).links for one in links.records()]
            for start in range(0, len(links), PAGE):
                page = links[start : start + PAGE]
                found = {str(one["_id"]): one for one in stored.find({"_id": {"$in": [name for name, _, _ in page]}})}
                for name, before, chain in page:
                    record = found.get(name)
                    if record is None or link(before, sealed_digest(record)) != chain:
                        raise CorruptData(f"{name} is not what seal {document['_id']} sealed. No segment was made.")
                    sink.write(bytes(record.raw))
                on_records(len(page), int(last["total"]))
    with draft.part(AUDIT_SEALS) as sink:
        seals = raw(database, AUDIT_SEALS)
        for seal in seals.find({"_id": {"$lte": last["_id"]}}).sort("_id", 1).batch_size(4):
            sink.write(bytes(seal.raw))
    return draft.finish(AUDIT, f"{database.name}, seals 1 to {last['_id']}", until)


def drop_segment(
    database: Database[Document],
    segment: Backup,
    note: Mapping[str, str],
    on_records: Callable[[int, int], object] = lambda count, total: None,
) -> Dropped:
    """Drop from the database what a segment holds. Check the segment first (`Backup.check`). May be repeated.

    Args:
        note: who, and why.

    Raises:
        InvalidSetting: it is no segment. Nothing was dropped.
        CorruptData: it holds other records than this database. What came before is dropped, it and the rest are not.
        WriteRefused, WriteOutcomeUnknown, ServerUnreachable: run it again.
    """
    part = segment.manifest.part(AUDIT_ITEMS)
    if segment.manifest.kind != AUDIT or part is None:
        raise InvalidSetting("this is a backup, not a segment of the audit log. Nothing was dropped.")
    done = Dropped()
    records = segment.documents(part)
    while page := list(islice(records, PAGE)):
        done = Dropped(*map(sum, zip(done, _drop(database, page, note), strict=True)))
        on_records(len(page), part.documents)
    return done


def _drop(database: Database[Document], page: Sequence[RawBSONDocument], note: Mapping[str, str]) -> Dropped:
    exported = {str(record["_id"]): record for record in page}
    stored = {str(one["_id"]): one for one in raw(database, AUDIT_ITEMS).find({"_id": {"$in": list(exported)}})}
    for name, record in exported.items():
        if name not in stored or sealed_digest(stored[name]) != sealed_digest(record):
            raise CorruptData(f"{name} is another record in the segment than in this database. It was not dropped.")
    newest = set(_newest(database, exported))
    wanted = [
        name
        for name, one in stored.items()
        if name not in newest and one.get("payload") is not None and one.get("operation") not in KEPT
    ]
    marks = [_mark(stored[name], note) for name in wanted]
    if marks:
        with writing(f"{len(marks)} audit records"):
            database.get_collection(AUDIT_ITEMS, write_concern=DURABLE).bulk_write(
                [UpdateOne({"_id": name, ERASED: None}, mark) for name, mark in zip(wanted, marks, strict=True)],
                ordered=False,
            )
    left = sum(_left_bytes(stored[name], mark["$set"]) for name, mark in zip(wanted, marks, strict=True))
    whole = sum(len(stored[name].raw) for name in wanted)
    return Dropped(len(wanted), len(newest), len(stored) - len(wanted) - len(newest), whole, left)


def _mark(record: RawBSONDocument, note: Mapping[str, str]) -> dict[str, Document]:
    erased = {"digest": sealed_digest(record), "at": datetime.now(UTC), **note}
    return {"$set": {"payload": None, ERASED: erased}, "$unset": dict.fromkeys(DROPPED, "")}


def _left_bytes(record: RawBSONDocument, changed: Document) -> int:
    stays = {name: value for name, value in record.items() if name not in DROPPED}
    return len(bson.encode({**stays, **changed}))


def _newest(database: Database[Document], names: Mapping[str, Any]) -> Iterator[str]:
    """Those that are their documents' newest sealed revision, and foreign changes, which have no order."""
    of_documents: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        found = split_id(name)
        if found.foreign is not None:
            yield name
        else:
            of_documents.setdefault(found.document, []).append((found.rev, name))
    heads = readable(database, AUDIT_HEADS).find({"_id": {"$in": list(of_documents)}}, {"rev": 1})
    reached = {head["_id"]: int(head.get("rev") or 0) for head in heads}
    for document, records in of_documents.items():
        yield from (name for rev, name in records if rev >= reached.get(document, 0))
