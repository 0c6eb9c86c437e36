"""`BaseMap`: values by key in Redis, with the original's methods. What is in it may be lost with Redis."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import redis

from backtest_kit_mongo.coherence.keys import own_map
from backtest_kit_mongo.errors import InvalidKey, InvalidPayload, InvalidSetting, ServerUnreachable

BATCH = 500


class BaseMap:
    """Values of JSON by key, under a prefix of the configured database. Of several writers the last one stays.

    Args:
        prefix: the map's name.
        ttl: seconds that a value is kept after it was set; None: as long as Redis keeps it.

    Raises (the constructor): InvalidSetting.

    Raises (all methods): NotSetUp before `setup()`; ServerUnreachable if Redis does not do it, a write may then have
    happened; InvalidKey for a key that is no text or empty.
    """

    def __init__(self, prefix: str, ttl: float | None = 300) -> None:
        if not prefix:
            raise InvalidSetting("BaseMap: its prefix must be a text that is not empty")
        if ttl is not None and not 0.001 <= ttl < 10**9:
            raise InvalidSetting(f"BaseMap: ttl is seconds, or None for no end, not {ttl!r:.40}")
        self.prefix, self.ttl = prefix, ttl

    def set(self, key: str, value: Any) -> None:
        """
        Raises:
            InvalidPayload: the value is no JSON.
        """
        try:
            text = json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as cause:
            raise InvalidPayload(f"{self.prefix}: {key!r:.60}: {cause}. Nothing was written.") from cause
        expires_ms = None if self.ttl is None else int(self.ttl * 1000)
        self._ask("set", self._name(key), text, px=expires_ms)

    def get(self, key: str, default: Any = None) -> Any:
        found = self._ask("get", self._name(key))
        return default if found is None else json.loads(found)

    def has(self, key: str) -> bool:
        return bool(self._ask("exists", self._name(key)))

    def delete(self, key: str) -> bool:
        """Whether it was there."""
        return bool(self._ask("delete", self._name(key)))

    def keys(self) -> Iterator[str]:
        """All keys, in no order; one that is set or goes meanwhile may be there or not."""
        start = self._name("")
        seen: set[str] = set()
        pattern = "".join(f"[{char}]" if char in "*?[" else char for char in start) + "*"
        for name in self._scan(pattern):
            if name not in seen:
                seen.add(name)
                yield unquote(name[len(start) :])

    def items(self) -> Iterator[tuple[str, Any]]:
        for key in self.keys():
            found = self._ask("get", self._name(key))
            if found is not None:
                yield key, json.loads(found)

    def values(self) -> Iterator[Any]:
        return (value for _, value in self.items())

    def size(self) -> int:
        return sum(1 for _ in self.keys())

    def clear(self) -> None:
        for key in list(self.keys()):
            self.delete(key)

    def _name(self, key: str) -> str:
        from backtest_kit_mongo.setup import get_config

        return own_map(get_config().database, self.prefix, key)

    def _scan(self, pattern: str) -> Iterator[str]:
        from backtest_kit_mongo.setup import get_redis

        try:
            for name in get_redis().scan_iter(pattern, count=BATCH):
                yield name.decode() if isinstance(name, bytes) else name
        except redis.RedisError as cause:
            raise ServerUnreachable(f"{self.prefix}: Redis does not list its keys: {cause}") from cause

    def _ask(self, command: str, name: str, *values: Any, **options: Any) -> Any:
        from backtest_kit_mongo.setup import get_redis

        if name.endswith(":"):
            raise InvalidKey(f"{self.prefix}: a key must be a text that is not empty. Nothing was written.")
        try:
            return getattr(get_redis(), command)(name, *values, **options)
        except redis.RedisError as cause:
            raise ServerUnreachable(
                f"{self.prefix}: Redis did not answer: {cause}. A write may have happened."
            ) from cause
