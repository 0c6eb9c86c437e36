"""Which changes were met lately, so that a second delivery of one is recognised."""

from __future__ import annotations

from collections import OrderedDict

from backtest_kit_mongo.feed.consume.event import Receipt


class Window:
    """The receipts of the last `size` distinct changes, by identity (domain, document, revision)."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._receipts: OrderedDict[str, Receipt] = OrderedDict()

    def find(self, event_id: str) -> Receipt | None:
        return self._receipts.get(event_id)

    def add(self, receipt: Receipt) -> None:
        self._receipts[receipt.event_id] = receipt
        if len(self._receipts) > self._size:
            self._receipts.popitem(last=False)
