"""The near cache over a cluster: invalidations of every node are heard through any one."""

from __future__ import annotations

from collections import deque
from itertools import count
from typing import Any

import pytest
from tests.cluster.conftest import MakeStore
from tests.integration.support import eventually

from backtest_kit_mongo.backends.near_cache import NearCache, NearOptions
from backtest_kit_mongo.backends.redis.identity import FixedIdentity
from backtest_kit_mongo.backends.redis.passing import Serving
from backtest_kit_mongo.coherence.near import NearBegin
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.checks import make_change
from backtest_kit_mongo.domains.table import STATE
from backtest_kit_mongo.drivers.store import Store


@pytest.mark.live
def test_copies_of_all_nodes_are_served_and_dropped_when_another_process_writes(
    stores: MakeStore, pair: tuple[Store, Store], placed_keys: list[Key]
) -> None:
    listener = stores(near_cache="state", near_cache_max_staleness_ms=4_000)
    near = listener.near
    assert isinstance(near, NearCache)

    def copied(key: Key) -> bool:
        listener.read(key)
        return near.get(key) is not None

    eventually(lambda: all(copied(key) for key in placed_keys))
    for key in placed_keys:
        payload = listener.read(key).payload
        pair[0].write(make_change(key, payload, 1))
    # While heartbeats are heard nothing expires: only an invalidation can have dropped them.
    eventually(lambda: not any(near.get(key) is not None for key in placed_keys))


class DeafNode:
    """A node that is cut off from the others: it takes subscriptions, and hears nothing."""

    def __init__(self) -> None:
        self.subscriptions = 0
        self._confirmations: deque[dict[str, Any]] = deque()

    def pubsub(self) -> DeafNode:
        self.subscriptions += 1
        return self

    def __enter__(self) -> DeafNode:
        return self

    def __exit__(self, *_: object) -> None:
        self._confirmations.clear()

    def subscribe(self, *names: str) -> None:
        self._confirmations.extend({"type": "subscribe"} for _ in names)

    def get_message(self, timeout: float) -> dict[str, Any] | None:
        return self._confirmations.popleft() if self._confirmations else None


class AnsweringLink:
    """Heartbeats are asked for without an error."""

    def at(self, _: str) -> AnsweringLink:
        return self

    def run(self, *_: Any) -> None:
        return

    def close(self) -> None:
        return


def test_a_process_that_hears_no_heartbeat_listens_through_another_node() -> None:
    node: Any = DeafNode()
    link: Any = AnsweringLink()
    seconds = count()
    near = NearCache(
        node,
        link,
        NearOptions("db", frozenset({STATE}), 1_000, 1_000, 1),
        FixedIdentity(8, 1_000),
        lambda born: Serving(born, 0, lambda: True),
        clock_s=lambda: float(next(seconds)),
    )
    near.begin(NearBegin(Key(STATE, ("signal", "bucket"))))
    try:
        eventually(lambda: node.subscriptions > 2)
    finally:
        near.close()
