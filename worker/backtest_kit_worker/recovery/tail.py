"""MongoDB's change stream of the domain collections, read in pieces."""

from __future__ import annotations

import logging
import re
import time
from typing import Any, Final

from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp
from pymongo import MongoClient
from pymongo.change_stream import DatabaseChangeStream
from pymongo.database import Database
from pymongo.errors import OperationFailure

from backtest_kit_mongo.stored import RECOVERY_STATE as COLLECTION
from backtest_kit_worker.recovery.changes import COLLECTIONS, RAW
from backtest_kit_worker.recovery.state import MARKER, Position

logger = logging.getLogger(__name__)

TOO_LARGE: Final = 10_334
"""BSONObjectTooLarge: a change that MongoDB cannot tell, however often it is asked."""
LOST_CODES: Final = frozenset({9, 15, 260, 280, 286, TOO_LARGE})
"""FailedToParse, Overflow (a token that is none), InvalidResumeToken, ChangeStreamFatalError (the token's entry is not
there), ChangeStreamHistoryLost."""
END_OF_TIME: Final = 2**64
_TIMED: Final = "82[0-9A-F]{16}"
_PIPELINE: Final = [
    {
        "$match": {
            "$or": [
                {"ns.coll": {"$in": list(COLLECTIONS)}},
                {"ns.coll": COLLECTION, "documentKey._id": MARKER},
            ]
        }
    }
]


class HistoryLost(Exception):
    """MongoDB's log cannot be read on from the position; changes may have been missed.

    Attributes:
        is_blocked: by a change that MongoDB cannot tell, so only what came after it can be read.
    """

    def __init__(self, why: str, *, is_blocked: bool = False) -> None:
        super().__init__(why)
        self.is_blocked = is_blocked


def oldest(client: MongoClient[dict[str, Any]]) -> Timestamp | None:
    """The first moment that MongoDB's log still reports; None if this user may not know, or behind a mongos.

    Raises:
        PyMongoError: MongoDB failed.
    """
    try:
        entry: Any = client["local"]["oplog.rs"].find_one({}, {"ts": 1}, sort=[("$natural", 1)])
    except OperationFailure as cause:
        logger.warning("MongoDB's log cannot be looked at; grant `read` on the database `local`: %s", cause)
        return None
    moment: Timestamp | None = entry and entry["ts"]
    return moment


REST_MS: Final = 1_000
"""How long a resting read waits: stopping a worker may have to wait for it."""


class Tail:
    """A reader at a position. Nothing that was read is passed before `keep`, so a failure in between only reads again.

    Args:
        await_ms: how long one read waits for the first change, unless it rests.
    """

    def __init__(self, database: Database[dict[str, Any]], position: Position, await_ms: int) -> None:
        self._database: Database[Any] = database.with_options(codec_options=RAW)
        self._await_ms = await_ms
        self._rests = False
        self._stream: DatabaseChangeStream[Any] | None = None
        self.position = position

    def read(self, count_max: int, bytes_max: int, *, rests: bool = False) -> list[RawBSONDocument]:
        """The next changes, fewer than allowed if no more are there.

        Args:
            rests: wait for `REST_MS`, for one change, which is answered as soon as it is there. Asking twenty times per
                second of a log in which nothing happens costs MongoDB and this process more than all the rest of an
                idle worker.

        Raises:
            HistoryLost: reading cannot go on from the position.
            PyMongoError: MongoDB failed; call `reset`, then read again.
        """
        if rests != self._rests:
            self.reset()  # How long the server waits belongs to its cursor.
            self._rests = rests
        count_max = 1 if rests else count_max
        changes: list[RawBSONDocument] = []
        size = 0
        end_s = time.monotonic() + self._await_ms / 1000
        try:
            stream = self._stream or self._open()
            while len(changes) < count_max and size < bytes_max:
                change = stream.try_next()
                if change is None:
                    break
                changes.append(change)
                size += len(change.raw)
                if time.monotonic() > end_s:
                    break
        except OperationFailure as cause:
            self.reset()
            if cause.code in LOST_CODES:
                why = str(cause.details.get("errmsg", cause) if cause.details else cause)
                raise HistoryLost(why, is_blocked=cause.code == TOO_LARGE) from cause
            raise
        return changes

    def _open(self) -> DatabaseChangeStream[Any]:
        # `start_after` takes the token of an invalidating change too (the database was dropped).
        token, since = (None, self.position) if isinstance(self.position, Timestamp) else (self.position, None)
        self._stream = self._database.watch(
            _PIPELINE,
            max_await_time_ms=REST_MS if self._rests else self._await_ms,
            start_after=token,
            start_at_operation_time=since,
        )
        return self._stream

    @property
    def moment(self) -> int:
        """Cluster time, as one integer, up to which the log was read."""
        if isinstance(self.position, Timestamp):
            return self.position.time << 32 | self.position.inc
        data = str(self.position.get("_data", ""))
        # A token begins with its time, so that tokens have the order of the log. One that does not is of a server of
        # which this is not known; there the grace has to do.
        return int(data[2:18], 16) if re.match(_TIMED, data) else END_OF_TIME

    def keep(self) -> None:
        """What was read is taken over: go on after it, also after a reset."""
        if self._stream is None:
            return
        token: Any = self._stream.resume_token
        if token is not None:
            self.position = {name: token[name] for name in token}
        if not self._stream.alive:
            self.reset()

    def reset(self) -> None:
        """Drop the cursor; the next read starts at the position."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()
