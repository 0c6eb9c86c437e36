"""What an error of Redis means for a step of the protocol.

A client goes past Redis (bypass) when nobody answers it, and others are served no entry meanwhile (`bypass.py`). That
is too much for a server that answers with an error, and may answer others with hits. So an error *answer* means that
this step was not done, and nothing more:

| error | who gets it | means |
|---|---|---|
| ConnectionError, TimeoutError, OSError, InvalidResponse | this client at least: no usable answer | unreachable |
| "max number of clients reached" (a ConnectionError) | this client | unreachable: it is cut off |
| LOADING (BusyLoadingError, a ConnectionError) | everybody; what is loaded is another incarnation | unreachable |
| READONLY, NOREPLICAS, MASTERDOWN, BKREPLICA, BKALONE | everybody at this server | unreachable: see `NOT_PRIMARY` |
| CLUSTERDOWN, MOVED, ASK, TRYAGAIN | everybody, for this slot: no script runs there | unreachable |
| NOSCRIPT | nobody: the source is sent | done by `run` |
| BKOUTDATED | who believes in another era | learn the era, then once more |
| BKFULL | who asked for that (`on_redis_down` is `fail`) | LEASE is refused: the feed has no room for the event |
| OOM, MISCONF, BUSY, NOPERM, WRONGPASS, NOAUTH, any other answer | this step; others may go on | refused |

| refused step | what then |
|---|---|
| READ | MongoDB is read, nothing is installed |
| FILL | nothing is installed; harmless |
| LEASE | the write is refused before MongoDB is asked: others might be served the old entry for good |
| COMMIT, PUBLISH | the lease runs out by itself; events and deletion are kept and delivered by the timer |
| ABORT | the lease runs out by itself |
"""

from __future__ import annotations

from typing import Final

import redis
from redis.exceptions import AskError, AuthenticationError, AuthorizationError, ClusterDownError, TryAgainError

from backtest_kit_mongo.coherence.effects import CacheDown
from backtest_kit_mongo.errors import BacktestKitError

OUTDATED: Final = "BKOUTDATED"
FULL: Final = "BKFULL"
NO_ROOM: Final = (
    "the change feed has no room in Redis: its workers are behind or gone (`bkm stream status`, `bkm stream trim "
    "--explain`), or maxmemory is too small,"
)
_NOBODY: Final = (
    redis.ConnectionError, redis.TimeoutError, OSError, redis.InvalidResponse, ClusterDownError, AskError,
    TryAgainError,
)  # fmt: skip
_CREDENTIALS: Final = (AuthenticationError, AuthorizationError)


class Outdated(redis.ResponseError):
    """This client believes in another era of the database than its Redis. Nothing was executed."""


class Refused(CacheDown):
    """Redis answered with an error: this step was not done, and Redis is there for others."""


def is_unreachable(error: BaseException) -> bool:
    """Whether nobody answers this client."""
    return isinstance(error, _NOBODY) and not isinstance(error, (*_CREDENTIALS, BacktestKitError))
