"""Which of the suite's tests say nothing new of MongoDB, or nothing new in its second cache mode."""

from __future__ import annotations

import pytest

SAID_IN_DOCUMENT_MODE = (
    "TestWrong",  # What is refused is refused before any server is asked.
    # They are of the same documents, through the cache besides.
    "TestFreeFormValues", "TestLifetimes", "TestDates",
    "TestCandle", "TestFirstWriteWins", "TestUnclosedCandles", "TestSeriesKeys",  # No cache is asked for a series.
    "TestInventory", "TestListMethods", "test_a_bucket_can_be_cleared_while_it_is_listed",  # Nor for a list.
)  # fmt: skip
OF_KEYS = ("TestHostileKeys", "TestCollisions")
ONE_OF_EACH_SHAPE = {"signal", "memory", "storage"}
"""In mode `id` MongoDB alone tells keys apart, and finds documents of one shape in one way. In both modes any text is
taken in one way, whatever the domain: which columns a domain has, `TestCollisions` asks of each.
"""
IN_ANY_MODE = ("test_any_text_is_a_key_part_and_names_one_document", "test_hostile_names_are_listed_as_they_were_given")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    said_before = [item for item in items if _is_said_before(item)]
    if said_before:
        config.hook.pytest_deselected(items=said_before)
        items[:] = [item for item in items if not _is_said_before(item)]


def _is_said_before(item: pytest.Item) -> bool:
    of = item.getparent(pytest.Class)
    if of is None or not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
        return False
    of_item = item.callspec.params
    if "mode" not in of_item:
        return False
    if item.originalname in IN_ANY_MODE or (of.name in OF_KEYS and of_item["mode"] == "id"):
        return getattr(of_item.get("domain"), "name", "signal") not in ONE_OF_EACH_SHAPE
    if of_item["mode"] != "id":
        return False
    return of.name.startswith(SAID_IN_DOCUMENT_MODE) or item.originalname in SAID_IN_DOCUMENT_MODE
