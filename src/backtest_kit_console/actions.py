"""What changes something: replay and drop of a dead letter. Each is recorded first, as a row of the domain `log`: its
event is audited and sealed like any other. If it cannot be recorded, it is not done.
"""

from __future__ import annotations

import logging
import secrets
import socket
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from typing import Final

import redis
from pymongo.errors import PyMongoError

from backtest_kit_mongo.adapters.instances import LogInstance
from backtest_kit_mongo.errors import BacktestKitError, CallerError, EnvironmentFault
from backtest_kit_mongo.feed.dead_letters import DROPPED, HANDLED, DeadLetter, DeadLetters
from backtest_kit_mongo.operate.deletion import note
from backtest_kit_mongo.setup import make_store

from . import words
from .sources import Sources

__all__ = ["act"]

logger = logging.getLogger(__name__)
WHY_MAX: Final = 200


def act(sources: Sources, what: str, name: str, why: str, client: str) -> str:
    """Do it; says what was done.

    Args:
        what: "replay" or "drop".
        name: the dead letter's id.
        why: of who asks, for the record.
        client: the address that asked.

    Raises:
        CallerError: it cannot be done; nothing was recorded or changed.
        EnvironmentFault: it could not be recorded; nothing was done.
        PyMongoError, RedisError: it is recorded, and may be done or not.
    """
    if what not in DOING:
        raise CallerError("There is no such action. Nothing was changed.")
    if not why.strip():
        raise CallerError("Say why, for the record. Nothing was changed.")
    parked = sources.feed.parked
    item = parked.find(name)
    if item.state in (HANDLED, DROPPED):
        raise CallerError(f"{item.id} is {item.state} already. Nothing was changed.")
    if what == "replay":
        parked.require_replayable(item)
    try:
        _record(sources, what, item, {**note(why.strip()[:WHY_MAX]), "client": client})
    except (BacktestKitError, PyMongoError, redis.RedisError) as cause:
        raise EnvironmentFault(f"It could not be recorded, so nothing was done. {sources.said(cause)}") from cause
    logger.warning("%s of dead letter %s, asked by %s: %s", what, item.id, client, words.cut(why, WHY_MAX))
    return DOING[what](parked, item)


def _record(sources: Sources, what: str, item: DeadLetter, said: dict[str, str]) -> None:
    now_ms = words.now_ms()
    told = {"letter": item.id, "cause": item.cause, "host": socket.gethostname(), **said}
    row = {
        "id": f"console-{now_ms}-{secrets.token_hex(6)}",
        "type": "info",
        "topic": f"console.{what}",
        "priority": now_ms,
        "timestamp": now_ms,
        "createdAt": datetime.fromtimestamp(now_ms / 1000, UTC).isoformat(),
        "args": [told],
    }
    with closing(make_store(sources.settings)) as store:
        LogInstance(store).append_log_data(row)


def _replay(parked: DeadLetters, item: DeadLetter) -> str:
    return f"{item.id} was appended as {parked.replay([item])[item.id]}."


def _drop(parked: DeadLetters, item: DeadLetter) -> str:
    parked.drop([item])
    return f"{item.id} was dropped; what it was and why it was parked stays on record."


DOING: Final[dict[str, Callable[[DeadLetters, DeadLetter], str]]] = {"replay": _replay, "drop": _drop}
