"""The original's own runs, event by event."""

from __future__ import annotations

from typing import Any

import pytest

from backtest_kit.vectors import differences
from backtest_kit_verify.engine.scripted import live_differs
from tests.engine.recorded import vectors


@pytest.mark.parametrize("vector", vectors(), ids=lambda vector: f"seed-{vector['seed']}")
def test_a_recorded_run_is_lived_again_event_by_event_and_live_as_well(vector: dict[str, Any]) -> None:
    assert len(vector["events"]) > 20
    assert list(differences(vector)) == []
    assert live_differs(vector) == []  # A live run by a scripted clock equals a replay under the default rules.
