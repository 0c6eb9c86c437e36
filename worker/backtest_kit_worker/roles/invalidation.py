"""The invalidation role: changes of one Redis, reported to others.

Processes that share one Redis need no worker for this: LEASE itself tells their near caches, before the write reaches
MongoDB. This role is for deployments in which hosts run a Redis of their own over one MongoDB: a worker on each Redis
relays its changes to all others (CC_INVALIDATION_REDIS), which drop older entries and tell the near caches that listen
there. Between such hosts coherence is bounded by this role's lag, and only within one Redis is it exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import redis
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from backtest_kit_mongo.backends.redis.link import RedisLink, Script
from backtest_kit_mongo.backends.redis.relay import relay
from backtest_kit_mongo.coherence.events import Event
from backtest_kit_mongo.coherence.keys import Names, names
from backtest_kit_mongo.coherence.record import Shape
from backtest_kit_mongo.connect import redis_named
from backtest_kit_mongo.domains.table import BY_NAME
from backtest_kit_mongo.settings import invalid
from backtest_kit_worker.deployment import Deployment
from backtest_kit_worker.roles import Role


class InvalidationSettings(BaseSettings):
    """Whom to tell."""

    model_config = SettingsConfigDict(env_prefix="CC_", frozen=True, extra="ignore", hide_input_in_errors=True)

    invalidation_redis: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        default=(),
        description="The other Redis servers, as URLs (redis://user:password@host:port) separated by commas.",
    )

    @field_validator("invalidation_redis", mode="before")
    @classmethod
    def _urls(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        urls = [url.strip() for url in value.split(",") if url.strip()]
        if not all(url.startswith(("redis://", "rediss://", "unix://")) for url in urls):
            raise ValueError("expected URLs such as redis://user:password@host:6379, separated by commas")
        return urls


def load_invalidation() -> InvalidationSettings:
    """Settings from the environment.

    Raises:
        InvalidSetting: CC_INVALIDATION_REDIS is no list of URLs; the message never shows it.
    """
    try:
        return InvalidationSettings()
    except ValidationError as cause:
        raise invalid(cause, "CC_") from None


class InvalidationRole(Role):
    """Relays each change to every target. A target that cannot be reached stops the batch, so nothing is skipped."""

    name = "invalidation"

    def __init__(self, targets: Sequence[redis.Redis], database: str, partitions: int) -> None:
        self._links = [RedisLink(target) for target in targets]
        self._script = Script("relay")
        self._database = database
        self._partitions = partitions

    @classmethod
    def build(cls, deployment: Deployment) -> InvalidationRole | None:
        """None: CC_INVALIDATION_REDIS names no other Redis, and one that is shared needs no relay.

        Raises:
            InvalidSetting: it names something else.
        """
        timeout_ms = deployment.settings.redis_timeout_ms
        targets = [redis_named(url.get_secret_value(), timeout_ms) for url in load_invalidation().invalidation_redis]
        return cls(targets, deployment.settings.database, deployment.settings.partitions) if targets else None

    def apply(self, events: Sequence[tuple[str, Event]]) -> int:
        newest: dict[Names, int | None] = {}
        for _, event in events:
            found = self._entry(event)
            if found is not None:
                before = newest.get(found[0], 0)
                newest[found[0]] = None if before is None or found[1] is None else max(before, found[1])
        for link in self._links:
            relay(link, self._script, list(newest.items()))
        return len(newest)

    def _entry(self, event: Event) -> tuple[Names, int | None] | None:
        """The entry that a change makes old, and up to which revision. A list has one entry, a stamp without a
        revision; a series has none.
        """
        domain = BY_NAME[event.domain]
        if domain.shape is Shape.SERIES:
            return None
        parts = event.key if domain.cached else event.key[:-1]
        found = names(self._database, self._partitions, domain.name, parts)
        return found, event.rev if domain.cached else None
