"""Where entries go that no role can apply: kept whole, with the cause, so that nothing is lost and nothing blocks.

What an operator does with them is `backtest_kit_mongo.feed.dead_letters`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pymongo.database import Database

from backtest_kit_mongo.connect import DURABLE
from backtest_kit_mongo.feed.dead_letters import PARKED, keep_apart, letter_id, pairs
from backtest_kit_mongo.feed.positions import text
from backtest_kit_mongo.stored import PARKED_ITEMS as COLLECTION

BYTES_MAX = 15 * 1024 * 1024
"""Larger entries do not fit into a MongoDB document; their bytes are kept beside it."""
CAUSE_MAX = 4_000
logger = logging.getLogger(__name__)


class DeadLetterWriter:
    """Dead letters in MongoDB, one document per (stream, role, entry)."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._database = database
        self._parked = database.get_collection(COLLECTION, write_concern=DURABLE)

    def park(self, stream: str | bytes, role: str, entry: str, fields: Mapping[bytes, bytes], cause: str) -> None:
        """Keep an entry. Parking it again counts the sighting, and leaves an operator's decision in place.

        Raises:
            PyMongoError: it may or may not be kept; do not acknowledge it.
        """
        name = text(stream)
        letter = letter_id(name, role, entry)
        now = datetime.now(UTC)
        is_large = sum(map(len, (*fields, *fields.values()))) > BYTES_MAX
        if is_large and self._parked.find_one({"_id": letter}, {"_id": 1}) is None:
            keep_apart(self._database, letter, fields)
        first: dict[str, Any] = {"stream": name, "role": role, "entry": entry, "firstSeen": now, "state": PARKED}
        first["fields"] = [] if is_large else pairs(fields)
        if is_large:
            first["apart"] = True
        self._parked.update_one(
            {"_id": letter},
            {"$set": {"cause": cause[:CAUSE_MAX], "lastSeen": now}, "$inc": {"count": 1}, "$setOnInsert": first},
            upsert=True,
        )
        logger.error(
            "%s: dead letter %s of %s: %s. `bkm park show` has it, `bkm park replay` delivers it again",
            role,
            entry,
            name,
            cause,
        )
