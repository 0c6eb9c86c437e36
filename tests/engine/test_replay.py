"""A fast replay leaves out minutes and nothing else; a live tick sees what a replayed minute sees."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from backtest_kit.events import ACTIONS
from backtest_kit.replay import replay
from backtest_kit.rules import DEFAULT, ORIGINAL, Rules
from tests.engine.made_up import MINUTES, Series, Wish, Wishful, plans, series
from tests.engine.support import CONTEXT, at

EXAMPLES = int(os.environ.get("ENGINE_EXAMPLES", "25"))
"""A campaign: ENGINE_EXAMPLES=2000 pytest -n0 tests/engine/test_replay.py"""

wanted = st.sets(st.sampled_from(sorted(ACTIONS - {"idle", "active_ping", "schedule_ping"}))).map(frozenset)
presets = st.sampled_from([DEFAULT, ORIGINAL, replace(ORIGINAL, stop_rule="vwap"), replace(DEFAULT, stop_rule="vwap")])


@settings(max_examples=EXAMPLES, deadline=None)
@given(series, plans, wanted, presets, st.sampled_from([1, 5, 60]))
def test_a_fast_replay_equals_one_that_lives_every_minute(
    made_up: Series, plan: Mapping[int, Wish], wants: frozenset[str], rules: Rules, interval: int
) -> None:
    fast, slow = Wishful(plan, wants, interval), Wishful(plan, wants, interval)
    candles = made_up.candles()
    done = replay(CONTEXT, candles, fast, rules, start_ms=at(0), end_ms=at(MINUTES))
    reference = replay(CONTEXT, candles, slow, rules, start_ms=at(0), end_ms=at(MINUTES), skip=False)
    assert fast.events == slow.events
    assert fast.asked == slow.asked
    assert done.reported <= reference.reported
