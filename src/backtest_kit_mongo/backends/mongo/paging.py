"""Questions and answers of any length, a bounded piece at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final, TypeVar

import pymongo

from backtest_kit_mongo.coherence.record import Part

R = TypeVar("R")
ITEMS_MAX: Final = 10_000
ITEM_BYTES: Final = 4 * 1024 * 1024
"""Of one `$in`: a query must fit into a document, and be answered within the bound on time."""
FIRST_ROWS, ROWS = 100, 1_000
"""What is taken from a cursor at once. Most lists are short."""


def pages(items: Sequence[Part]) -> Iterator[list[Part]]:
    """Items for one `$in` each."""
    page: list[Part] = []
    size = 0
    for item in items:
        size += (
            4 * len(item) + 16 if isinstance(item, str) else 16
        )  # At most; what it takes exactly would have to be encoded.
        if page and (len(page) == ITEMS_MAX or size > ITEM_BYTES):
            yield page
            page, size = [], 4 * len(item) if isinstance(item, str) else 16
        page.append(item)
    if page:
        yield page


def bounded(rows: Iterator[R], timeout_s: float) -> Iterator[R]:
    """Rows of a cursor. Each piece has the whole bound on time; while the caller looks at a row, none is in force."""
    count = FIRST_ROWS
    while True:
        with pymongo.timeout(timeout_s):
            piece = list(islice(rows, count))
        yield from piece
        if len(piece) < count:
            return
        count = ROWS
