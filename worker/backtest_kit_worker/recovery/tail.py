"""MongoDB's change stream of the domain collections, read in pieces."""

from __future__ import annotations

import time
from typing import Any, Final

from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp
from pymongo.change_stream import DatabaseChangeStream
from pymongo.database import Database
from pymongo.errors import OperationFailure

from backtest_kit_worker.recovery.changes import COLLECTIONS
from backtest_kit_worker.recovery.state import COLLECTION, MARKER, Position

LOST_CODES: Final = frozenset({9, 15, 260, 280, 286, 10_334})
"""FailedToParse, Overflow (a token that is none), InvalidResumeToken, ChangeStreamFatalError (the token's entry is not
there), ChangeStreamHistoryLost, BSONObjectTooLarge (a change that MongoDB cannot tell, however often it is asked)."""
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
    """MongoDB's log does not reach back to the position; changes may have been missed."""


class Tail:
    """A reader at a position. Nothing that was read is passed before `keep`, so a failure in between only reads again.

    Args:
        await_ms: how long one read waits for the first change.
    """

    def __init__(self, database: Database[dict[str, Any]], position: Position, await_ms: int) -> None:
        raw: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument, tz_aware=True)
        self._database: Database[Any] = database.with_options(codec_options=raw)
        self._await_ms = await_ms
        self._stream: DatabaseChangeStream[Any] | None = None
        self.position = position

    def read(self, count_max: int, bytes_max: int) -> list[RawBSONDocument]:
        """The next changes, fewer than allowed if no more are there.

        Raises:
            HistoryLost: reading cannot go on from the position.
            PyMongoError: MongoDB failed; call `reset`, then read again.
        """
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
                raise HistoryLost(str(cause.details.get("errmsg", cause) if cause.details else cause)) from cause
            raise
        return changes

    def _open(self) -> DatabaseChangeStream[Any]:
        # `start_after` takes the token of an invalidating change too (the database was dropped).
        token, since = (None, self.position) if isinstance(self.position, Timestamp) else (self.position, None)
        self._stream = self._database.watch(
            _PIPELINE, max_await_time_ms=self._await_ms, start_after=token, start_at_operation_time=since
        )
        return self._stream

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
