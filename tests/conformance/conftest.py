"""Which of the suite's tests say nothing new in MongoDB's second cache mode."""

from __future__ import annotations

import pytest

SAME_IN_BOTH_MODES = ("TestWrong", "TestFreeFormValues")
"""What is refused is refused before any server is asked. What comes back exactly in mode `document` came from the same
documents, and through the cache besides.
"""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    said_before = [item for item in items if _is_said_before(item)]
    if said_before:
        config.hook.pytest_deselected(items=said_before)
        items[:] = [item for item in items if not _is_said_before(item)]


def _is_said_before(item: pytest.Item) -> bool:
    of = item.getparent(pytest.Class)
    if of is None or not isinstance(item, pytest.Function) or not of.name.startswith(SAME_IN_BOTH_MODES):
        return False
    return hasattr(item, "callspec") and item.callspec.params.get("mode") == "id"
