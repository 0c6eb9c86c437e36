"""What `bkm trace` costs in an audit log of made-up records, over private servers; and of signals of a release that did
not say whose a record is.

python benchmarks/trace.py                      10^4, 10^5 and 10^6 records, the same log growing
python benchmarks/trace.py 10000 30000          other sizes
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count, islice
from pathlib import Path
from typing import Any

from bson.int64 import Int64
from pymongo import MongoClient

from backtest_kit_mongo.audit import AuditLog
from backtest_kit_mongo.audit.records import IDENTITY, IN_KEYS, KEYS, SIGNALS
from backtest_kit_mongo.audit.tracing import trace
from backtest_kit_mongo.coherence.keys import escaped
from backtest_kit_mongo.stored import AUDIT_ITEMS as ITEMS
from backtest_kit_mongo.testing.servers import private_servers

SIZES = (10_000, 100_000, 1_000_000)
CONTEXTS = 50
MINUTES = 30
"""Of each signal: two rows change in each."""
NOTIFICATIONS = 8
MINUTE_MS = 60_000
TRACES = 40
OLDER = 5
START = datetime(2024, 1, 1, tzinfo=UTC)
START_MS = 1_704_067_200_000


def record(domain: str, key: list[Any], document: str, rev: int, at: int, payload: Any, step: str) -> dict[str, Any]:
    signal = payload.get("signal", payload.get("signalId", "")) if isinstance(payload, dict) else ""
    written = START + timedelta(milliseconds=at - START_MS)
    made: dict[str, Any] = {
        "_id": f"{domain}/{document}/{rev}", "domain": domain, "key": key, "label": escaped(tuple(key)),
        "documentId": document, "rev": Int64(rev), "operation": "upsert", "when": None, "payload": payload,
        "host": f"host-{rev % 3}", "process": 7, "writtenAt": written, "recordedAt": written, "entry": f"{at}-0",
    }  # fmt: skip
    if signal:
        minute = at // MINUTE_MS * MINUTE_MS
        cause = {"signal": signal, "step": f"{minute}/{step}", "parent": f"{minute}/tick", "at": Int64(minute)}
        made |= {"cause": cause, "signal": signal}
    return made


def signals() -> Iterator[list[dict[str, Any]]]:
    """The records of one signal after the other, and as many that belong to none."""
    revisions = [0] * CONTEXTS
    for number in count():
        context, name = number % CONTEXTS, f"{number:032x}"
        at, symbol = START_MS + number * MINUTE_MS, f"S{context}USDT"
        key, row = [symbol, "trend", "binance"], {"signal": name, "id": name, "position": "long", "text": "x" * 300}
        found = [record("memory", [name, "engine", "asked"], f"m{number}", 1, at, {"signal": name}, "asked")]
        for minute in range(MINUTES):
            moment = at + minute * MINUTE_MS
            revisions[context] += 1
            for domain in ("strategy", "signal"):
                payload = {**row, "price": 100 + minute}
                found.append(record(domain, key, f"{domain}{context}", revisions[context], moment, payload, "opened"))
        for place in range(NOTIFICATIONS):
            told = {"type": "breakeven.available", "signalId": name, "text": "z" * 300}
            found.append(
                record("notification", [False, f"{number}-{place}"], f"n{number}-{place}", 1, at, told, "opened")
            )
        storage = {**row, "symbol": symbol, "strategyName": "trend", "exchangeName": "binance", "status": "closed"}
        found.append(record("storage", [False, name], f"h{number}", 1, at, storage, "closed"))
        others = [
            record("measure", ["opinion", f"{number}/{place}"], f"o{number}-{place}", 1, at, {"text": "y" * 300}, "")
            for place in range(len(found))
        ]
        yield found + others


def main() -> None:
    sizes = [int(size) for size in sys.argv[1:]] or list(SIZES)
    with tempfile.TemporaryDirectory() as directory, private_servers(Path(directory)) as servers:
        client: MongoClient[dict[str, Any]] = MongoClient(servers.mongo_connection_string("traces"), tz_aware=True)
        items = client["traces"][ITEMS]
        items.create_index(IDENTITY, unique=True)
        items.create_index(KEYS, partialFilterExpression=IN_KEYS)
        items.create_index(SIGNALS, sparse=True)
        made, held, number = signals(), 0, 0
        medians_ms: list[float] = []
        for size in sizes:
            while held < size:
                batch = [one for signal in islice(made, 80) for one in signal]
                items.insert_many(batch, ordered=False)
                held, number = held + len(batch), number + 80
            log = AuditLog(client["traces"])
            medians_ms.append(measure(log, held, [f"{place * number // TRACES:032x}" for place in range(TRACES)]))
        if len(medians_ms) > 1:
            more_ms = max(0.0, medians_ms[-1] - medians_ms[-2])
            print(
                f"extrapolated, not measured, for ten times the last: {medians_ms[-1] + more_ms:.1f} ms, if it grows on"
            )
        older = [f"{place * number // OLDER + 1:032x}" for place in range(OLDER)]
        items.update_many({"signal": {"$in": older}}, {"$unset": {"signal": "", "cause": ""}})
        print("of an earlier release:", end=" ")
        measure(log, held, older)
        client.close()


def measure(log: AuditLog, held: int, names: list[str]) -> float:
    """The median, ms."""
    taken_s = []
    own_s = time.process_time()
    for name in names:
        since_s = time.perf_counter()
        found = trace(log, name)
        taken_s.append(time.perf_counter() - since_s)
    own_ms = (time.process_time() - own_s) * 1000 / len(names)
    taken_s.sort()
    records = len(found.records())
    print(
        f"{held:>10,} records: median {statistics.median(taken_s) * 1000:.1f} ms, slowest of {len(names)} "
        f"{taken_s[-1] * 1000:.1f} ms ({records} records a trace, "
        f"{own_ms:.1f} ms of this process's CPU); load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    return statistics.median(taken_s) * 1000


if __name__ == "__main__":
    main()
