"""What an anchor and proofs cost: the first time, when everything is hashed, and from then on.

python benchmarks/audit_tree.py                 ten million records in a generated tree, no database
python benchmarks/audit_tree.py MONGO_URI       a million records in an empty database of that name
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import bson
from bson.int64 import Int64
from pymongo import MongoClient

from backtest_kit_mongo.audit import AuditLog
from backtest_kit_mongo.audit.anchors import make_anchor
from backtest_kit_mongo.audit.chain import ORIGIN, Links, Seal, link, make_seal
from backtest_kit_mongo.audit.kept import KeptTree
from backtest_kit_mongo.audit.merkle import consistency, inclusion, leaf
from backtest_kit_mongo.audit.proofs import prove_consistency, prove_inclusion
from backtest_kit_mongo.audit.records import digest
from backtest_kit_mongo.stored import AUDIT_ITEMS as ITEMS
from backtest_kit_mongo.stored import AUDIT_SEALS as SEALS

BATCH = 10_000


def timed(what: str, call: Callable[[], Any]) -> Any:
    since_s = time.perf_counter()
    answer = call()
    print(f"{what:<40}{time.perf_counter() - since_s:10.3f} s", flush=True)
    return answer


def generated(path: Path, seals: int) -> None:
    tree = KeptTree(path)

    def fill() -> None:
        with tree._writing():
            for number in range(1, seals + 1):
                base = number.to_bytes(8, "big")
                batch = [leaf(b"record" + bytes(64) + base + place.to_bytes(4, "big")) for place in range(BATCH)]
                tree.append(number, sha256(base).digest(), batch)

    timed(f"{seals * BATCH:,} records hashed", fill)
    tree.close()
    print(f"the file: {path.stat().st_size:,} bytes")

    def anchor() -> bytes:
        again = KeptTree(path)
        try:
            return again.root(again.state())
        finally:
            again.close()

    timed("an anchor from then on", anchor)
    tree = KeptTree(path)
    timed("an inclusion proof over the seals", lambda: inclusion(tree.full, seals // 3, seals))
    timed("a consistency proof", lambda: consistency(tree.full, seals // 3, seals))


def stored(uri: str, seals: int) -> None:
    database: Any = MongoClient(uri, tz_aware=True).get_default_database()
    before: Seal | None = None
    for number in range(seals):
        now = datetime.now(UTC)
        records, links = [], []
        for place in range(BATCH):
            name = f"d{number}-{place}"
            record = {
                "_id": f"state/{name}/1",
                "domain": "state",
                "key": ["s", name],
                "documentId": name,
                "rev": Int64(1),
                "recordedAt": now,
            }
            records.append(record)
            links.append(Links(f"state/{name}", ORIGIN, [1], link(ORIGIN, digest(bson.encode(record)))))
        before, document = make_seal(before, now, [], links)
        database[ITEMS].insert_many(records, ordered=False)
        database[SEALS].insert_one(document)
    log = AuditLog(database)
    timed(f"the first anchor of {seals * BATCH:,} records", lambda: make_anchor(database))
    timed("an anchor from then on", lambda: make_anchor(database))
    which = f"state/d{seals // 3}-77/1"
    timed("an inclusion proof", lambda: prove_inclusion(log, which, seals))
    timed("a consistency proof", lambda: prove_consistency(database, seals // 3, seals))


if __name__ == "__main__":
    if sys.argv[1:]:
        stored(sys.argv[1], 100)
    else:
        with tempfile.TemporaryDirectory() as directory:
            generated(Path(directory) / "tree", 1_000)
