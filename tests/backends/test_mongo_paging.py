"""Questions of any length fit into documents."""

from __future__ import annotations

import bson

from backtest_kit_mongo.backends.mongo.paging import ITEM_BYTES, ITEMS_MAX, pages


def test_the_items_of_a_long_question_are_asked_for_in_pages_that_fit_into_a_document() -> None:
    items = [f"row-{number}" for number in range(2 * ITEMS_MAX + 1)] + ["\U0001f600" * (ITEM_BYTES // 8)] * 5
    asked = list(pages(items))
    assert [item for page in asked for item in page] == items
    assert max(map(len, asked)) == ITEMS_MAX
    assert max(len(bson.encode({"$in": page})) for page in asked) < 2 * ITEM_BYTES
    assert list(pages([])) == []
