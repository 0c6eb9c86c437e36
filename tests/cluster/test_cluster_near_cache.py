"""The near cache over a cluster: invalidations of every node are heard through any one."""

from __future__ import annotations

import pytest
from tests.cluster.conftest import MakeStore
from tests.integration.support import eventually

from backtest_kit_mongo.backends.near_cache import NearCache
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.checks import make_change
from backtest_kit_mongo.drivers.sync import Store

pytestmark = pytest.mark.live


def test_copies_of_all_nodes_are_served_and_dropped_when_another_process_writes(
    stores: MakeStore, pair: tuple[Store, Store], spots: list[Key]
) -> None:
    listener = stores(near_cache="state", near_cache_max_staleness_ms=60_000)
    near = listener.near
    assert isinstance(near, NearCache)

    def copied(key: Key) -> bool:
        listener.read(key)
        return near.get(key) is not None

    eventually(lambda: all(copied(key) for key in spots))
    for key in spots:
        payload = listener.read(key).payload
        pair[0].write(make_change(key, payload, 1))
    # Far within the staleness bound: only what was heard can have dropped them.
    eventually(lambda: not any(near.get(key) is not None for key in spots))
