"""What one changed row of a list costs, and ten rows of it, at any length.

    python benchmarks/lists.py [--rows 1000,10000,100000] [--no-whole] [--json FILE]

Every row is measured in turns with its floor, one write of a document of ours; measuring.py says how, and what is done
about noise. Uses the servers of the CC_ environment variables, or private ones of the `embedded` extra.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from measuring import Case, measure, servers, show, wide_console
from rich.progress import track

import backtest_kit_mongo as bk
from backtest_kit_mongo.domains.table import SIGNAL, STORAGE
from backtest_kit_mongo.testing.examples import example

DATABASE = "bkm-benchmark-lists"
SIGNAL_ROW = example(SIGNAL, "s1")


def write_document(index: int) -> None:
    bk.PersistSignalAdapter.write_signal_data({**SIGNAL_ROW, "priceOpen": 100.0 + index}, f"S{index % 64}", "b", "x")


def cases(count: int, with_whole: bool) -> Iterator[Case]:
    """At a list of `count` rows, which the first of them makes."""
    rows: list[dict[str, Any]] = [{**example(STORAGE, f"row-{place}"), "status": "closed"} for place in range(count)]
    for place in range(0, count, max(1, count // 5)):
        rows[place]["status"] = "opened"
    bk.PersistStorageAdapter.write_storage_data(rows, True)

    def row(index: int) -> None:
        place = index * 7919 % count
        rows[place] = {**rows[place], "priority": index + 1}
        bk.PersistStorageAdapter.upsert_storage_data(rows[place], True)

    def whole(index: int) -> None:
        place = index * 7919 % count
        rows[place] = {**rows[place], "priority": index + 1_000_000}
        bk.PersistStorageAdapter.write_storage_data(rows, True)

    def newest(_: int) -> None:
        assert len(bk.PersistStorageAdapter.read_storage_data(True, limit=10)) == 10

    def opened(_: int) -> None:
        assert len(bk.PersistStorageAdapter.read_storage_data(True, status="opened")) == 5

    floor = "one write of a document of ours"
    yield Case(f"upsert one of {count:,} rows", row, floor, write_document, 1.5, 200)
    yield Case(f"read the 10 newest of {count:,} rows", newest, floor, write_document, None, 100)
    yield Case(f"read 5 of {count:,} rows by status", opened, floor, write_document, None, 100)
    if with_whole:
        yield Case(
            f"write all {count:,} rows, one changed", whole, floor, write_document, None, max(5, 20_000 // count)
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="1000,10000,100000", help="lengths of the list")
    parser.add_argument("--no-whole", action="store_true", help="leave out writes of whole lists, which take longest")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    arguments = parser.parse_args()
    console = wide_console()
    rows = []
    for count in map(int, arguments.rows.split(",")):
        with servers(DATABASE) as found:
            bk.setup(**found, lease_ms=15_000)
            bk.get_mongo().drop_database(DATABASE)
            bk.shutdown()
            bk.setup(**found, lease_ms=15_000)
            time.sleep(15.2)  # A Redis seen for the first time caches nothing for one lease time.
            chosen = cases(count, not arguments.no_whole)
            rows += [measure(case) for case in track(chosen, f"{count:,} rows", console=console, transient=True)]
            bk.shutdown()
    show(rows, "microseconds, p50 and p99; the floor is a document's write in the same run", console)
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": [asdict(row) for row in rows]}, indent=2))


if __name__ == "__main__":
    main()
