"""One fetch for the whole fleet: what the store lacks is asked for by one process of all hosts, the others read it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic, sleep
from typing import Final

from backtest_kit.declare import Exchange
from backtest_kit.identity import names_joined
from backtest_kit.leases import Lease, Leases
from backtest_kit.living import is_dead
from backtest_kit.market import Market

logger = logging.getLogger(__name__)

LEASE_MS: Final = 10_000
"""A fetcher that dies holds others up for so long."""
EMPTY_PAUSE_MS: Final = 1_000
"""After an answer without anything new nobody asks for so long."""
POLL_S: Final = (0.02, 0.25)
"""Between two looks at what another process fetches: at first, and at most."""
PATIENCE_S: Final = 45.0


class FleetMarket(Market):
    """A `Market` whose requests to the exchange are made in turns.

    Args:
        lease_ms: a fetcher of another host that dies holds others up for so long.
        patience_s: so long a turn of others is waited for.

    Attributes:
        request_count: how many turns this process had.
    """

    def __init__(
        self,
        exchange: Exchange,
        symbol: str,
        leases: Leases,
        *,
        fill_gaps: bool = False,
        lease_ms: int = LEASE_MS,
        patience_s: float = PATIENCE_S,
        clock_s: Callable[[], float] = monotonic,
        pause_s: Callable[[float], None] = sleep,
    ) -> None:
        super().__init__(exchange, symbol, fill_gaps=fill_gaps)
        self.request_count = 0
        self._lease_ms, self._patience_s = lease_ms, patience_s
        self._leases, self._clock_s, self._pause_s = leases, clock_s, pause_s

    def _fetch(self, interval: str, since: int, until: int) -> None:
        """Returns when the candles are stored, or when whoever had the turn got nothing new."""
        name = names_joined("/", "fetch", self.exchange.name, self.symbol, interval)
        end_s, wait_s = self._clock_s() + self._patience_s, POLL_S[0]
        dead = ""
        while self._clock_s() < end_s:
            lease = self._leases.acquire(name, self._lease_ms, despite=dead)
            if lease is not None:
                self._ask(lease, interval, since, until)
                return
            self._pause_s(wait_s)
            wait_s = min(wait_s * 2, POLL_S[1])
            if not self._missing(interval, since, until):
                return
            if wait_s == POLL_S[1] and is_dead(holder := self._leases.holder(name)):
                # Of this host. Nothing that it may still store can do harm: the first write of a candle counts.
                dead = holder
        logger.warning(
            "%s: nobody fetched it within %g s; %s has the turn", name, self._patience_s, self._leases.holder(name)
        )

    def _ask(self, lease: Lease, interval: str, since: int, until: int) -> None:
        pause_ms = EMPTY_PAUSE_MS
        try:
            before = self._missing(interval, since, until)
            if before:
                self.request_count += 1
                super()._fetch(interval, since, until)
            if not before or self._missing(interval, since, until) < before:
                pause_ms = 0
        finally:
            lease.release(pause_ms)

    def _missing(self, interval: str, since: int, until: int) -> int:
        return sum(gap.count for gap in self._stored(interval, since, until).gaps)
