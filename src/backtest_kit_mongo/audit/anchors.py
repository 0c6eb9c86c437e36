"""Anchors: what the log was at a moment, in one line kept where the users of the database cannot change it.

An anchor holds the root of a Merkle tree (`merkle.py`) with a leaf for each seal, in the order of their numbers:

    leaf("seal" || number (8 bytes, big-endian) || count (8 bytes) || hash of the seal || root of its batch)

A batch is a tree of its own, with a leaf for each record that the seal holds, in its order:

    leaf("record" || chain value before || chain value || id)

So one root vouches for every record, few hashes prove that a record is under it, and few that an older anchor is its
beginning. A seal that is gone leaves no place free. A seal that cannot be read has an empty batch, so the
log can be anchored after it was tampered with too.

What is hashed comes from `audit-seals` alone; that records are what was sealed is for `verify`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pymongo.database import Database

from backtest_kit_mongo.audit.chain import ORIGIN, read_seal, seal_hash
from backtest_kit_mongo.audit.findings import Finding, Kind
from backtest_kit_mongo.audit.merkle import Growing, leaf
from backtest_kit_mongo.audit.records import SEALS, readable
from backtest_kit_mongo.backends.mongo.errors import reading
from backtest_kit_mongo.errors import InvalidSetting

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class TreeAnchor:
    """One line of a file of anchors.

    Attributes:
        time: when it was made, ISO 8601 in UTC, by the clock of the host that made it.
        seal: number of the highest seal; 0 if there was none.
        seals, records: how many there were.
        root: of the tree over the seals, hex.
        hash: of the highest seal, hex.
        signature: Ed25519 over `signed()`, hex; empty if nobody signed it.
    """

    time: str
    seal: int
    seals: int
    records: int
    root: str
    hash: str
    signature: str = ""

    def signed(self) -> bytes:
        """What a signature is made over."""
        return b"bkm audit anchor\n" + self._json(with_signature=False).encode()

    def line(self) -> str:
        """The line, without its end."""
        return self._json(with_signature=bool(self.signature))

    def _json(self, *, with_signature: bool) -> str:
        names = [name for name in self.__slots__ if name != "signature" or with_signature]
        return json.dumps({name: getattr(self, name) for name in names}, separators=(",", ":"))

    @staticmethod
    def parse(written: str) -> TreeAnchor:
        """Read a line.

        Raises:
            ValueError: it is no anchor.
        """
        given = json.loads(written)
        if not isinstance(given, dict):
            raise ValueError("it is not a JSON object")
        fields = {"signature": "", **given}
        for name, form in _FORMS.items():
            if not form(fields.get(name)):
                raise ValueError(f"its field {name} is missing or wrong")
        return TreeAnchor(**{name: fields[name] for name in _FORMS})


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


_FORMS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "time": _is_text,
    "seal": _is_count,
    "seals": _is_count,
    "records": _is_count,
    "root": _is_hash,
    "hash": _is_hash,
    "signature": _is_text,
}


def read_anchors(path: Path) -> list[TreeAnchor]:
    """The anchors of a file, in its order.

    Raises:
        InvalidSetting: a line is no anchor, or there is none.
        OSError: the file cannot be read.
    """
    found = []
    for number, written in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if written.strip():
            try:
                found.append(TreeAnchor.parse(written))
            except (ValueError, TypeError) as cause:
                raise InvalidSetting(f"{path}, line {number} is not an anchor: {cause}") from cause
    if not found:
        raise InvalidSetting(f"{path} holds no anchor; `bkm audit anchor --to {path}` appends one")
    return found


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


class SealTree:
    """The tree while the seals are read in the order of their numbers, and whether it comes by the roots of anchors.

    Args:
        anchors: in any order.
    """

    def __init__(self, anchors: Sequence[TreeAnchor] = ()) -> None:
        self._expected = sorted(anchors, key=lambda anchor: (anchor.seal, anchor.time))
        self._next = 0
        self._tree = Growing()
        self._records = 0
        self._number = 0
        self._hash = ORIGIN

    def add(self, stored: Mapping[str, Any]) -> Iterator[Finding]:
        """Take up the next seal; tells which anchors do not fit what is before it."""
        yield from self._passed(int(stored["_id"]))
        batch = record_leaves(stored)
        self._number, self._hash = int(stored["_id"]), seal_hash(stored)
        self._tree.append(seal_leaf(self._number, self._hash, batch))
        self._records += len(batch)

    def end(self) -> Iterator[Finding]:
        """Tell which anchors are left or do not fit."""
        yield from self._passed(None)

    def anchor(self) -> TreeAnchor:
        """The anchor of the seals so far."""
        time = datetime.now(UTC).isoformat(timespec="seconds")
        root = self._tree.root().hex()
        return TreeAnchor(time, self._number, self._tree.size, self._records, root, self._hash.hex())

    def _passed(self, number: int | None) -> Iterator[Finding]:
        """The anchors before seal `number` (None: all)."""
        while self._next < len(self._expected) and (number is None or self._expected[self._next].seal < number):
            anchor = self._expected[self._next]
            self._next += 1
            where = f"anchor of {anchor.time}"
            if anchor.seal > self._number and number is None:
                detail = f"it saw seal {anchor.seal}; the last one now is {self._number}: what came after is gone"
                yield Finding(Kind.ANCHOR_DIFFERS, where, detail)
            elif (anchor.seals, anchor.root) != (self._tree.size, self._tree.root().hex()):
                detail = f"the seals up to {anchor.seal} are not those that it saw: {anchor.seals:,} seals with root "
                detail += f"{anchor.root[:16]}..., now {self._tree.size:,} with {self._tree.root().hex()[:16]}..."
                yield Finding(Kind.ANCHOR_DIFFERS, where, detail)


def numbered_seals(database: Database[Document], up_to: int | None = None) -> Iterator[Document]:
    """The seals in the order of their numbers, few held at once."""
    numbers = {"$gte": 0} if up_to is None else {"$gte": 0, "$lte": up_to}
    with reading("the seals of the audit log"):
        for stored in readable(database, SEALS).find({"_id": numbers}).sort("_id", 1).batch_size(4):
            if is_numbered(stored):
                yield stored


def is_numbered(stored: Mapping[str, Any]) -> bool:
    """Whether it can have a place in the tree; whoever put something else among the seals must not stop anchoring."""
    return isinstance(stored["_id"], int) and stored["_id"] >= 0


def make_anchor(database: Database[Document], known: Sequence[TreeAnchor] = ()) -> tuple[TreeAnchor, list[Finding]]:
    """The anchor of the log as it is now, and what of it does not fit the anchors known so far. All seals are read: an
    anchor that only went on from the last one would not see what happened before it.

    Raises:
        ServerUnreachable, ReadFailed: nothing can be said.
    """
    tree = SealTree(known)
    findings = [finding for stored in numbered_seals(database) for finding in tree.add(stored)]
    return tree.anchor(), [*findings, *tree.end()]
