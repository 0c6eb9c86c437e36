"""Where recovery stands, in MongoDB, so that any process can go on from there."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from bson import ObjectId
from bson.timestamp import Timestamp
from pymongo.database import Database

from backtest_kit_mongo.connect import DURABLE
from backtest_kit_mongo.stored import RECOVERY_STATE as COLLECTION
from backtest_kit_worker.fence import Fence, Primary

MARKER: Final = "marker"
_TOKEN, _RECONCILE = "token", "reconcile"

Position = dict[str, Any] | Timestamp
"""A resume token, or the cluster time from which to read when there is none yet."""


class RecoveryState:
    """Three documents: `token` (how far changes are judged), `reconcile` (a scan under way) and `marker`.

    What is written here rests on all that was judged since `open`, so it is written only if MongoDB cannot have been
    set back meanwhile (`fence.py`); else changes that are no longer recorded would never be looked at again.

    Attributes:
        since: who was the primary at `open`.
    """

    since: Primary

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._states = database.get_collection(COLLECTION, write_concern=DURABLE)
        self._fence = Fence(database)

    def open(self) -> None:
        """What is judged from here on counts.

        Raises:
            PyMongoError: MongoDB cannot be reached.
        """
        self.since = self._fence.primary()

    def position(self) -> Position | None:
        """Where to read on; None if nothing was ever judged."""
        state = self._states.find_one({"_id": _TOKEN}) or {}
        found: Position | None = state.get("token") or state.get("since")
        return found

    def move(self, position: Position) -> None:
        """All changes before `position` are judged.

        Raises:
            PrimaryChanged: open again; what was judged is to be judged again.
        """
        name = "since" if isinstance(position, Timestamp) else "token"
        self._put({"_id": _TOKEN, name: position, "savedAt": datetime.now(UTC)})

    def reconciling(self) -> dict[str, Any] | None:
        """The scan under way, as `begin` and `advance` left it."""
        return self._states.find_one({"_id": _RECONCILE})

    def begin(self, reason: str) -> dict[str, Any]:
        """Start a scan from the first document on.

        Raises:
            PrimaryChanged: see `move`.
        """
        state = {"_id": _RECONCILE, "reason": reason, "startedAt": datetime.now(UTC), "collection": 0, "after": None}
        self._put(state)
        return state

    def advance(self, collection: int, after: Any) -> None:
        """The scan is done with all collections before the one of this number, and there with all up to `after`.

        Raises:
            PrimaryChanged: see `move`.
        """
        with self._fence.writes(self.since) as session:
            reached = {"$set": {"collection": collection, "after": after}}
            self._states.update_one({"_id": _RECONCILE}, reached, session=session)

    def finish(self) -> None:
        """The scan is done.

        Raises:
            PrimaryChanged: see `move`.
        """
        with self._fence.writes(self.since) as session:
            self._states.delete_one({"_id": _RECONCILE}, session=session)

    def mark(self) -> ObjectId:
        """Write a mark that the change stream will show after everything committed so far; returns its name."""
        name = ObjectId()
        self._states.replace_one({"_id": MARKER}, {"name": name}, upsert=True)
        return name

    def _put(self, state: dict[str, Any]) -> None:
        with self._fence.writes(self.since) as session:
            self._states.replace_one({"_id": state["_id"]}, state, upsert=True, session=session)
