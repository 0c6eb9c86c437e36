"""Where entries go that no role can apply:

kept whole, with the cause, so that nothing is lost and nothing blocks the stream.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from bson.binary import Binary
from pymongo.database import Database
from pymongo.write_concern import WriteConcern

COLLECTION = "parked-items"
logger = logging.getLogger(__name__)


class Parking:
    """Parked entries in MongoDB, one document per (stream, role, entry)."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._parked = database.get_collection(COLLECTION, write_concern=WriteConcern("majority", j=True))

    def park(self, stream: str | bytes, role: str, entry: str, fields: Mapping[bytes, bytes], cause: str) -> None:
        """Keep an entry. Parking it again counts the sighting."""
        name = stream.decode() if isinstance(stream, bytes) else stream
        now = datetime.now(UTC)
        self._parked.update_one(
            {"_id": f"{name}/{role}/{entry}"},
            {
                "$set": {"cause": cause, "lastSeen": now},
                "$inc": {"count": 1},
                "$setOnInsert": {
                    "stream": name,
                    "role": role,
                    "entry": entry,
                    "fields": [[Binary(field), Binary(value)] for field, value in fields.items()],
                    "firstSeen": now,
                },
            },
            upsert=True,
        )
        logger.error("%s: parked entry %s of %s: %s", role, entry, name, cause)
