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
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pymongo.database import Database

from backtest_kit_mongo.audit.chain import seal_hash
from backtest_kit_mongo.audit.findings import Finding, Kind
from backtest_kit_mongo.audit.kept import KeptTree, kept_tree
from backtest_kit_mongo.audit.merkle import Growing
from backtest_kit_mongo.audit.records import RESTORE, readable
from backtest_kit_mongo.audit.seals import record_leaves, seal_leaf
from backtest_kit_mongo.backends.mongo.errors import reading
from backtest_kit_mongo.errors import InvalidSetting
from backtest_kit_mongo.stored import AUDIT_ITEMS as ITEMS
from backtest_kit_mongo.stored import AUDIT_SEALS as SEALS

RESTORES_MAX: Final = 3
"""The newest that a finding names."""

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

    def fields(self) -> Document:
        """The anchor as a document."""
        names = [name for name in self.__slots__ if name != "signature" or self.signature]
        return {name: getattr(self, name) for name in names}

    def _json(self, *, with_signature: bool) -> str:
        fields = {name: value for name, value in self.fields().items() if name != "signature" or with_signature}
        return json.dumps(fields, separators=(",", ":"))

    @staticmethod
    def parse(written: str) -> TreeAnchor:
        """Read a line.

        Raises:
            ValueError: it is no anchor.
        """
        return TreeAnchor.of(json.loads(written))

    @staticmethod
    def of(given: Any) -> TreeAnchor:
        """Read a document. Raises as `parse`."""
        if not isinstance(given, dict):
            raise ValueError("it is not a JSON object")
        fields = {"signature": "", **given}
        for name, form in _FORMS.items():
            if not form(fields.get(name)):
                raise ValueError(f"its field {name} is missing or wrong")
        return TreeAnchor(**{name: fields[name] for name in _FORMS})


def parsed(given: Any, where: str) -> TreeAnchor:
    """An anchor that lies somewhere.

    Raises:
        InvalidSetting: it is none.
    """
    try:
        return TreeAnchor.parse(given) if isinstance(given, str) else TreeAnchor.of(given)
    except (ValueError, TypeError) as cause:
        raise InvalidSetting(f"{where} is not an anchor: {cause}") from cause


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
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    found = [parsed(written, f"{path}, line {number}") for number, written in lines if written.strip()]
    if not found:
        raise InvalidSetting(f"{path} holds no anchor; `bkm audit anchor --to {path}` appends one")
    return found


class SealTree:
    """The tree while the seals are read in the order of their numbers, and whether it comes by the roots of anchors.

    Args:
        anchors: in any order.
    """

    def __init__(self, anchors: Sequence[TreeAnchor] = ()) -> None:
        self._expected = sorted(anchors, key=lambda anchor: (anchor.seal, anchor.time))
        self._next = 0
        self._tree = Growing()
        self._number = 0

    def add(self, stored: Mapping[str, Any]) -> Iterator[Finding]:
        """Take up the next seal; tells which anchors do not fit what is before it."""
        yield from self._passed(int(stored["_id"]))
        self._number = int(stored["_id"])
        self._tree.append(seal_leaf(self._number, seal_hash(stored), record_leaves(stored)))

    def end(self) -> Iterator[Finding]:
        """Tell which anchors are left or do not fit."""
        yield from self._passed(None)

    def _passed(self, number: int | None) -> Iterator[Finding]:
        """The anchors before seal `number` (None: all)."""
        while self._next < len(self._expected) and (number is None or self._expected[self._next].seal < number):
            anchor = self._expected[self._next]
            self._next += 1
            is_end = number is None
            if found := misfit(anchor, self._number, self._tree.size, self._tree.root(), is_end=is_end):
                yield found


def misfit(anchor: TreeAnchor, number: int, size: int, root: bytes, *, is_end: bool) -> Finding | None:
    """What is wrong, if the log is not what an anchor saw.

    Args:
        number: of the last seal that there is up to the anchor's.
        size, root: of the tree up to there.
        is_end: the log has no seal after it.
    """
    where = f"anchor of {anchor.time}"
    if anchor.seal > number and is_end:
        detail = f"it saw seal {anchor.seal}; the last one now is {number}: what came after is gone"
        return Finding(Kind.ANCHOR_DIFFERS, where, detail)
    if (anchor.seals, anchor.root) == (size, root.hex()):
        return None
    detail = f"the seals up to {anchor.seal} are not those that it saw: {anchor.seals:,} seals with root "
    detail += f"{anchor.root[:16]}..., now {size:,} with {root.hex()[:16]}..."
    return Finding(Kind.ANCHOR_DIFFERS, where, detail)


def restores(database: Database[Document]) -> list[str]:
    """What the log says of the newest times that the database went back, each with its time (UTC)."""
    newest = readable(database, ITEMS).find({"domain": RESTORE, "rev": {"$lte": 1}}).sort("writtenAt", -1)
    return [
        f"{record.get('writtenAt')}"[:19] + f" UTC: {record.get('reason')}" for record in newest.limit(RESTORES_MAX)
    ]


def with_restores(database: Database[Document], finding: Finding) -> Finding:
    """What an anchor saw may have gone with a restore, which the log then tells; it stays a finding, because whoever
    forges a log may forge that too.
    """
    if finding.kind is not Kind.ANCHOR_DIFFERS:
        return finding
    times = [said[:19] for said in restores(database)]
    if not times:
        return finding
    detail = f"{finding.detail}. The log has a record `restore` of {', '.join(times)} UTC: if the database was set "
    detail += "back then, what was recorded after the backup went with it"
    return replace(finding, detail=detail)


def make_anchor(database: Database[Document], known: Sequence[TreeAnchor] = ()) -> tuple[TreeAnchor, list[Finding]]:
    """The anchor of the log as this host has read it (`kept.py`), and what does not fit the anchors known so far.

    Raises:
        ServerUnreachable, ReadFailed: nothing can be said.
    """
    with kept_tree(database) as tree:
        return anchor_of(tree, database, known)


def anchor_of(
    tree: KeptTree, database: Database[Document], known: Sequence[TreeAnchor] = ()
) -> tuple[TreeAnchor, list[Finding]]:
    """The same of a tree that is open; it grows to what the log is now."""
    findings = check_newest(tree, database)
    tree.grow(database)
    last = tree.state()
    for each in sorted(known, key=lambda anchor: (anchor.seal, anchor.time)):
        then = tree.state(each.seal)
        found = misfit(each, then.number, then.seals, tree.root(then), is_end=then == last)
        findings += [found] if found else []
    with reading("records of restores"):
        findings = [with_restores(database, finding) for finding in findings]
    time = datetime.now(UTC).isoformat(timespec="seconds")
    return TreeAnchor(time, last.number, last.seals, last.records, tree.root(last).hex(), last.hash.hex()), findings


def check_newest(tree: KeptTree, database: Database[Document]) -> list[Finding]:
    """A finding if the newest seal that was read is not in the log any more; the tree then begins anew."""
    number = tree.state().number
    with reading("the newest seal"):
        said = tree.differs(readable(database, SEALS).find_one({"_id": number}))
    if said is None:
        return []
    tree.forget()
    return [Finding(Kind.ANCHOR_DIFFERS, f"seal {number}", said)]
