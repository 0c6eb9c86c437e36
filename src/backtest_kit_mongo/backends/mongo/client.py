"""The driver's client as this package makes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pymongo import MongoClient
from pymongo.errors import ConfigurationError

from backtest_kit_mongo.errors import ServerUnreachable


def connect(uri: str, bound_ms: int, listeners: Sequence[Any] = ()) -> MongoClient[dict[str, Any]]:
    """A client that bounds what it does. It connects by itself; the names of `mongodb+srv` are asked for here, once.

    Raises:
        ServerUnreachable: DNS does not know the name, or does not answer.
    """
    is_srv = uri.startswith("mongodb+srv:")
    options: dict[str, Any] = {"serverSelectionTimeoutMS": bound_ms, "socketTimeoutMS": bound_ms}
    if listeners:
        options["event_listeners"] = list(listeners)
    if is_srv and "connecttimeoutms" not in uri.lower():
        options["connectTimeoutMS"] = bound_ms  # It bounds DNS too, by 20 s if nobody says otherwise.
    try:
        return MongoClient(uri, tz_aware=True, appname="backtest-kit-mongo", **options)
    except ConfigurationError as cause:
        if not is_srv:
            raise
        name = uri.rpartition("@")[2].removeprefix("mongodb+srv://").partition("/")[0]
        raise ServerUnreachable(
            f"MongoDB: the name {name} could not be resolved (DNS). Nothing was read or written: {cause}"
        ) from cause
