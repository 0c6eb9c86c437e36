"""What `RedisCache` does where Redis cannot be reached: whether a write may go past it, and when."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from backtest_kit_mongo.backends.redis.counts import CacheCounts
from backtest_kit_mongo.backends.redis.errors import FULL, NO_ROOM, Refused
from backtest_kit_mongo.backends.redis.options import CacheOptions
from backtest_kit_mongo.backends.redis.passing import Passing
from backtest_kit_mongo.backends.redis.reach import Reach
from backtest_kit_mongo.coherence.effects import CacheDown, Leased
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.errors import BacktestKitError, ServerUnreachable, WriteRefused


class PastRedis:
    """A part of `RedisCache`, which has these attributes."""

    _options: CacheOptions
    _reach: Reach
    _passing: Passing | None
    counts: CacheCounts

    def _past(
        self, what: object, keys: Iterable[Key], cause: CacheDown, write_ms: float, lease_ms: float,
        again: Callable[[], Leased | None],
    ) -> Leased | None:  # fmt: skip
        """Leave to write these keys past Redis, once nobody is served any more what that makes old; or what `again`
        gives, where Redis is back by then.

        Raises:
            ServerUnreachable, WriteRefused: it may not; nothing was written.
        """
        self._require_bypass(what, cause)
        if self._passing is None:
            return None
        began_s = self._passing.enter(keys, lease_ms / 1000, lambda: not self._reach.is_down)
        return again() if began_s is None else Leased("", began_s + write_ms / 1000)

    def _require_bypass(self, what: object, cause: CacheDown) -> None:
        if not isinstance(cause, Refused):
            if self._options.bypass:
                return
            raise ServerUnreachable(
                "Redis cannot be reached and CC_ON_REDIS_DOWN is `fail`; nothing was written"
            ) from cause
        if isinstance(cause.__cause__, BacktestKitError):
            raise cause.__cause__ from cause  # MongoDB, which the era is asked of.
        if FULL in str(cause):
            self.counts.no_room += 1
            raise WriteRefused(f"{what}: {NO_ROOM} and CC_ON_REDIS_DOWN is `fail`; nothing was written") from cause
        raise WriteRefused(
            f"{what}: Redis answered the request for a lease with an error, and may serve others the old value; "
            f"nothing was written. Mend Redis, or stop it (then it is bypassed), and try again: {cause}"
        ) from cause

    def _is_free(self) -> bool:
        """Whether a script that found no token may be asked again."""
        return self._passing is not None and self._passing.is_free()
