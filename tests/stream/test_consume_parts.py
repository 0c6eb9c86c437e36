"""The parts of the consumer's side that need no server."""

from __future__ import annotations

from typing import Any

import pytest

from backtest_kit_mongo.errors import CorruptData
from backtest_kit_mongo.feed.consume.event import Receipt, from_audit
from backtest_kit_mongo.feed.consume.groups import before, order
from backtest_kit_mongo.feed.consume.replay import Replay
from backtest_kit_mongo.feed.consume.window import Window
from backtest_kit_mongo.feed.scripts import BYTES_MAX


def receipt(event_id: str) -> Receipt:
    return Receipt(event_id, lambda _: None)


def test_a_window_forgets_the_oldest_first() -> None:
    window = Window(2)
    for name in "abc":
        window.add(receipt(name))
    assert [window.find(name) is None for name in "abc"] == [True, False, False]


def test_the_id_before_another_is_the_greatest_below_it() -> None:
    assert before("5-3") == "5-2"
    assert before("5-0") == f"4-{2**64 - 1}"
    assert before("0-0") == "0-0"
    assert order("9-10") > order("9-9") > order("8-11")


def test_an_audit_record_that_no_worker_writes_is_named() -> None:
    with pytest.raises(CorruptData, match="state/x/1"):
        from_audit({"_id": "state/x/1", "key": ["a"]}, receipt("state/x/1"))


def test_a_replay_takes_so_many_bytes_at_once_and_not_only_so_many_records() -> None:
    nothing: Any = None
    replay = Replay(nothing, nothing, nothing, 1)
    replay._records = iter([({"_id": str(number)}, BYTES_MAX // 2) for number in range(5)])
    taken = [replay._page(count=count) for count in (500, 1, 500, 500)]
    assert [(len(page), is_end) for page, is_end in taken] == [(2, False), (1, False), (2, False), (0, True)]
