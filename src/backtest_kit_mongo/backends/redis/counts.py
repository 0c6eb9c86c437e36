"""What the cache counts while it works: plain numbers, exact as far as those of `drivers/counts.py` are."""

from __future__ import annotations

from collections.abc import Callable

from backtest_kit_mongo.locks import Lock
from backtest_kit_mongo.ports import CacheFigures


class CacheCounts:
    """Of one cache.

    Args:
        monotonic_s: clock of the time without Redis.

    Attributes:
        lease_conflicts: writes after which nothing was cached: another write of the key was under way, the lease had
            run out, or this Redis is new.
        fills_refused: reads that found a document but might not cache it, because the key was written meanwhile.
        no_room: writes of which the feed took no event, because it has no room in Redis.
        incarnation_changes: how often another Redis memory was met than before: a restart or a failover. Noticed by the
            first entry that is read from it.
        closed_s: seconds in which readers were served no entry, because a client writes past Redis, or MongoDB could
            not be asked whether one does; in a cluster of each partition.
    """

    __slots__ = (
        "_down", "_down_since_s", "_incarnations", "_known", "_lock", "_monotonic_s", "_past_bypass_s",
        "closed_s", "fills_refused", "incarnation_changes", "lease_conflicts", "no_room",
    )  # fmt: skip

    def __init__(self, monotonic_s: Callable[[], float]) -> None:
        self.lease_conflicts = 0
        self.fills_refused = 0
        self.no_room = 0
        self.incarnation_changes = 0
        self.closed_s = 0.0
        self._monotonic_s = monotonic_s
        self._lock = Lock()
        self._past_bypass_s = 0.0
        self._down: set[object] = set()
        self._down_since_s: float | None = None
        self._incarnations: dict[str, bytes] = {}
        self._known: set[bytes] = set()

    def saw(self, born: str, incarnation: bytes) -> None:
        """An entry of a partition, which its `born` key stands for, is of this incarnation."""
        before = self._incarnations.get(born)
        if before != incarnation:
            self._incarnations[born] = incarnation
            # Of a cluster's node that fails over only the first partition counts.
            self.incarnation_changes += before is not None and incarnation not in self._known
            self._known.add(incarnation)

    # -- time without Redis

    def went_down(self, of: object = None) -> None:
        """Redis, or the part of it that somebody depends on, cannot be used from now on; nothing new if that was so."""
        with self._lock:
            self._down.add(of)
            if self._down_since_s is None:
                self._down_since_s = self._monotonic_s()

    def came_back(self, of: object = None) -> None:
        with self._lock:
            self._down.discard(of)
            if not self._down:
                self._past_bypass_s, self._down_since_s = self.bypass_s, None

    def figures(self) -> CacheFigures:
        return CacheFigures(
            self.lease_conflicts, self.fills_refused, self.no_room, self.incarnation_changes, self.bypass_s,
            self.is_bypassing, self.closed_s,
        )  # fmt: skip

    @property
    def is_bypassing(self) -> bool:
        return self._down_since_s is not None

    @property
    def bypass_s(self) -> float:
        """Seconds without Redis, this time's included."""
        since_s = self._down_since_s
        return self._past_bypass_s + (0.0 if since_s is None else self._monotonic_s() - since_s)
