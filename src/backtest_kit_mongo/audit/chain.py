"""The hash chain and the seals: theory of operation. Pure; the worker's `seal` service and `verify` share it.

Each document has a chain: `chain(0)` is 32 zero bytes, `chain(n) = sha256(chain(n-1) || digest(record n))`. Revisions
enter it without holes, 1, 2, 3, ...; a foreign change enters when it arrives, because it has no place in that sequence.

A seal is one document of `audit-seals`. Its number is its `_id`, so of two sealers only one can make it. It holds the
chain values of a batch of records, the hash of the seal before it and its own hash: SHA-256 of its BSON bytes without
`hash`. So the last hash vouches for every record before it, and one hash kept outside the database (`verify --anchor`)
makes even a complete rewrite visible.

The way of a record, each step durable before the next:
1. The audit role puts the record's id and digest into `audit-pending`, inserts the record, and confirms the pending
   batch. From here on a change of the record is detected. A batch that is never confirmed (the worker was killed) is
   sealed later by what the sealer finds in `audit-items`.
2. The sealer inserts the seal, which names the pending batches that it used up.
3. It moves `audit-heads` (a document's last sealed revision and chain value) forward, never back.
4. It deletes the pending batches that the seal names.
Whoever finds the last seal not followed by 3 and 4 does them first; doing them again changes nothing. Before it makes a
seal, a sealer has done 3 and 4 of the one before, so only the last can be unfinished.

A gap may stand for a run of revisions; then it is one link, from the first to the last of them.

A revision is in the chain if the head has come to it; foreign changes, which have no such order, are listed by their
seal in an indexed field. So an id that is in several pending batches (an event was delivered twice) is sealed once.

Records beyond a hole are not sealed: the document's head is marked `waiting` before their pending batch is deleted, and
when the hole is filled, they are read from `audit-items`.

Not in the records themselves: marking each as sealed would cost MongoDB more than inserting it did.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any, Final, NamedTuple

import bson
from bson import ObjectId
from bson.int64 import Int64

HASH_BYTES: Final = 32
ORIGIN: Final = bytes(HASH_BYTES)
"""The chain value before a document's first record, and the hash before the first seal."""


def link(before: bytes, record_digest: bytes) -> bytes:
    """The chain value of a record."""
    return sha256(before + record_digest).digest()


class Links(NamedTuple):
    """What one seal adds to one document's chain.

    Attributes:
        document: "domain/documentId".
        after: the chain value before it.
        revisions: what follows the document's name in the records' ids, ascending: a number, "rev~n" for a foreign
            change, or "first-last" for a gap that stands for several revisions.
        chains: their chain values, concatenated.
    """

    document: str
    after: bytes
    revisions: Sequence[int | str]
    chains: bytes

    @property
    def last(self) -> bytes:
        return self.chains[-HASH_BYTES:]

    @property
    def rev(self) -> int:
        """The last revision; 0 if all are foreign changes."""
        return next((run[1] for each in reversed(self.revisions) if (run := run_of(each))), 0)

    def records(self) -> Iterator[tuple[str, bytes, bytes]]:
        """(record id, chain value before, chain value) of each, in the order of the chain."""
        before = self.after
        for revision, chain in zip(self.revisions, pieces(self.chains), strict=True):
            yield f"{self.document}/{revision}", before, chain
            before = chain


@dataclass(frozen=True, slots=True)
class Seal:
    """One sealed batch.

    Attributes:
        number: 1, 2, 3, ...
        previous: hash of the seal before; ORIGIN for the first.
        total: records in this and all earlier seals.
        pending: the batches of `audit-pending` that it uses up.
        hash: of all of the above and the links.
    """

    number: int
    previous: bytes
    sealed_at: datetime
    total: int
    pending: Sequence[ObjectId]
    links: Sequence[Links]
    hash: bytes = b""

    @property
    def count(self) -> int:
        return sum(len(one.revisions) for one in self.links)


def run_of(revision: int | str) -> tuple[int, int] | None:
    """The first and last revision that a link stands for; None for a foreign change.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(revision, int):
        return revision, revision
    if "~" in revision:
        return None
    first, _, last = revision.partition("-")
    return int(first), int(last)


def pieces(joined: bytes) -> Iterator[bytes]:
    """Hashes that were stored as one string."""
    return (joined[at : at + HASH_BYTES] for at in range(0, len(joined), HASH_BYTES))


def make_seal(
    before: Seal | None, sealed_at: datetime, pending: Sequence[ObjectId], links: Sequence[Links]
) -> tuple[Seal, dict[str, Any]]:
    """The seal after `before`, and the document that is stored: columns, because a sub-document for each of thousands
    of documents would cost the sealer more than the hashing.
    """
    number = 1 if before is None else before.number + 1
    total = (0 if before is None else before.total) + sum(len(one.revisions) for one in links)
    previous = ORIGIN if before is None else before.hash
    document: dict[str, Any] = {
        "_id": Int64(number),
        "previous": previous,
        "sealedAt": sealed_at,
        "total": Int64(total),
        "pending": list(pending),
        "foreign": [f"{one.document}/{at}" for one in links for at in one.revisions if run_of(at) is None],
        "documents": [one.document for one in links],
        "after": b"".join([one.after for one in links]),
        "counts": [len(one.revisions) for one in links],
        "revisions": [revision for one in links for revision in one.revisions],
        "chains": b"".join([one.chains for one in links]),
    }
    document["hash"] = seal_hash(document)
    return Seal(number, previous, sealed_at, total, pending, links, document["hash"]), document


def seal_hash(document: Mapping[str, Any]) -> bytes:
    """The hash that a seal must carry, whatever it does carry."""
    return sha256(bson.encode({name: value for name, value in document.items() if name != "hash"})).digest()


def read_seal(document: Mapping[str, Any]) -> Seal:
    """A stored seal.

    Raises:
        KeyError, TypeError, ValueError: it does not have the form of one.
    """
    names, counts, afters = document["documents"], document["counts"], list(pieces(bytes(document["after"])))
    revisions, chains = document["revisions"], bytes(document["chains"])
    if sum(counts) != len(revisions) or len(revisions) * HASH_BYTES != len(chains):
        raise ValueError("its columns have different lengths")
    links = []
    start = 0
    for name, after, count in zip(names, afters, counts, strict=True):
        end = start + count
        links.append(Links(name, after, revisions[start:end], chains[start * HASH_BYTES : end * HASH_BYTES]))
        start = end
    return Seal(
        number=int(document["_id"]),
        previous=bytes(document["previous"]),
        sealed_at=document["sealedAt"],
        total=int(document["total"]),
        pending=document["pending"],
        links=links,
        hash=bytes(document["hash"]),
    )
