"""What a consumers' group has not read and is about to be trimmed: it is noted for a replay from the audit log
first.
"""

from __future__ import annotations

from typing import Any

import redis
from pymongo.database import Database

from backtest_kit_mongo import locks
from backtest_kit_mongo.feed.consume.groups import PREFIX, Span, before, order
from backtest_kit_mongo.feed.consume.progress import Progress
from backtest_kit_mongo.feed.positions import EntryId, GroupPosition

TIMEOUT_MS = 10_000
logger = locks.logger(__name__)


def hand_over(client: redis.Redis, database: Database[dict[str, Any]], group: GroupPosition, until: EntryId) -> None:
    """Let a group (`feed:...`) have what it has not read of the entries before `until` from the audit log; its
    consumers notice within seconds. May be repeated: what comes twice they recognise.

    Raises:
        RedisError, EnvironmentFault: nothing may be trimmed.
    """
    upper = before(str(until))
    if order(upper) <= group.delivered:
        return  # What it has taken and not acknowledged its consumers look up by themselves.
    progress = Progress(database, group.name.removeprefix(PREFIX), "trim", TIMEOUT_MS)
    if progress.load() is None:
        logger.warning("%s is a group that `consume` did not make: it does not get what it has not read", group.name)
        return
    progress.request_replay([Span(group.stream, str(group.delivered), upper)])
    asked: Any = client
    asked.xgroup_setid(group.stream, group.name, upper)
    logger.warning("%s is too large: %s reads what it missed from the audit log", group.stream, group.name)
