"""Steps in MongoDB: one transaction, of which all documents are committed or none.

Until its commit is sent a transaction certainly is not committed, whatever went wrong; MongoDB ends it by itself. A
commit of which nothing was heard is sent again until its outcome is known or the time is over. Each write has its
deadline, as outside of transactions (`deadline.py`); a commit cannot have one, so a step's leases outlive the
transaction (`coherence/steps.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

import pymongo
import pymongo.errors as pe
from bson import ObjectId
from pymongo import MongoClient, ReturnDocument, UpdateOne
from pymongo.client_session import ClientSession
from pymongo.collection import Collection

from backtest_kit_mongo import locks
from backtest_kit_mongo.backends.mongo import indexes as mongo_indexes
from backtest_kit_mongo.backends.mongo.concerns import is_replicated
from backtest_kit_mongo.backends.mongo.deadline import Deadline, Deadlines
from backtest_kit_mongo.backends.mongo.decoding import RAW, Moments, fields, record
from backtest_kit_mongo.backends.mongo.encoding import ONE, first_row, only, row_update, store, was_first
from backtest_kit_mongo.backends.mongo.errors import DUPLICATE_KEY, IndexGone, NoRevision, brief, own_duplicate, writing
from backtest_kit_mongo.backends.mongo.layout import hint, payload_field
from backtest_kit_mongo.coherence.codec import pack
from backtest_kit_mongo.coherence.effects import Published
from backtest_kit_mongo.coherence.record import Change, Domain, Key, Record
from backtest_kit_mongo.coherence.steps import (
    LIFETIME_SHARE,
    LIFETIME_SPARE_MS,
    Atomic,
    Drop,
    ExpectedRows,
    Guard,
    Put,
    Ready,
)
from backtest_kit_mongo.errors import (
    Conflict,
    Contended,
    ServerUnreachable,
    UnsafeServer,
    WriteOutcomeUnknown,
    WriteRefused,
    WriteTooLate,
)

logger = locks.logger(__name__)

Document = dict[str, Any]
LIFETIME_S: Final = 60
"""`transactionLifetimeLimitSeconds` where nobody set it, taken for true where this user may not ask."""
GUARD: Final = "guard"
"""A field that a step writes anew into a document that it only wants unchanged, so that MongoDB sees who else writes
it.
"""


class Transactions:
    """Thread-safe.

    Args:
        collections: by domain, once they are prepared.
        timeout_s: bound on a commit, with its retries.
        begin_revisions: what to do where another program stored a revision that is no number.
    """

    def __init__(
        self,
        client: Callable[[], MongoClient[Document]],
        collections: Mapping[Domain, Collection[Document]],
        deadlines: Deadlines,
        timeout_s: float,
        moments: Moments,
        begin_revisions: Callable[[Key], None],
    ) -> None:
        self._client, self._collections, self._deadlines = client, collections, deadlines
        self._timeout_s, self._moments, self._begin_revisions = timeout_s, moments, begin_revisions
        self._lifetime_ms: int | None = None
        self.hello: Mapping[str, Any] = {}

    def require(self) -> None:
        """See that there are transactions here.

        Raises:
            UnsafeServer: there are none.
        """
        if not is_replicated(self.hello):
            raise UnsafeServer(
                "this MongoDB is no replica set, so it has no transactions, and a step could be written in part. Make "
                "it a set of one (start mongod with --replSet rs, then rs.initiate() in mongosh), or say "
                "step(atomic=False): then the writes happen "
                "one after the other when the block ends. Nothing was written."
            )

    def lifetime_ms(self) -> int:
        """How long the server lets a transaction live."""
        if self._lifetime_ms is None:
            self._lifetime_ms = 1000 * self._asked_lifetime_s()
        return self._lifetime_ms

    def _asked_lifetime_s(self) -> int:
        name = "transactionLifetimeLimitSeconds"
        try:
            with pymongo.timeout(self._timeout_s):
                answer = self._client().admin.command({"getParameter": 1, name: 1})
            return int(answer[name])
        except (pe.OperationFailure, KeyError, ValueError) as cause:
            logger.warning("%s cannot be asked for, and is taken to be %d: %s", name, LIFETIME_S, cause)
            return LIFETIME_S
        except pe.PyMongoError as cause:
            raise ServerUnreachable(f"MongoDB cannot be reached, nothing was written: {brief(cause)}") from cause

    def perform(self, effect: Atomic) -> tuple[tuple[Published, ...], ...]:
        """All writes or none; errors as `Truth.atomic`."""
        self.require()
        try:
            return self._attempt(effect)
        except WriteTooLate:
            self._deadlines.ask("a step")
            return self._attempt(effect)
        except IndexGone as cause:
            for domain in {write.key.domain for write in effect.writes}:
                mongo_indexes.rebuild(self._collections[domain], domain)
            raise Contended(str(cause)) from cause
        except NoRevision as cause:
            for write in effect.writes:
                if isinstance(write, Put | Drop):
                    self._begin_revisions(write.key)
            raise Contended(str(cause)) from cause

    def _attempt(self, effect: Atomic) -> tuple[tuple[Published, ...], ...]:
        end_s, arrival_s = self._deadlines.bounds("a step", effect.deadline_s)
        deadline = Deadline(self._deadlines.clocks.least_ms, end_s, arrival_s)
        concern = next(iter(self._collections.values())).write_concern
        with self._client().start_session() as session:
            try:
                with pymongo.timeout(max(0.001, end_s - time.monotonic())):
                    session.start_transaction(write_concern=concern)
                    answers = tuple(self._written(write, session, {"inTime": deadline}) for write in effect.writes)
            except (ServerUnreachable, WriteRefused) as cause:
                if time.monotonic() >= end_s:
                    raise Contended(
                        f"a step was held up until its leases were nearly over, nothing was written: {cause}"
                    ) from cause
                raise
            self._commit(session)
        return answers

    # -- the commit

    def _commit(self, session: ClientSession) -> None:
        is_unknown = False
        end_s = time.monotonic() + self._timeout_s
        with pymongo.timeout(self._timeout_s):
            while True:
                try:
                    session.commit_transaction()
                    return
                except pe.PyMongoError as cause:
                    if cause.has_error_label("UnknownTransactionCommitResult"):
                        is_unknown = True
                        if time.monotonic() < end_s:
                            time.sleep(0.01)
                            continue
                    self._judge_commit(cause, is_unknown=is_unknown)

    def _judge_commit(self, cause: pe.PyMongoError, *, is_unknown: bool) -> NoReturn:
        if cause.has_error_label("TransientTransactionError"):
            raise Contended(f"the step was not committed, nothing was written: {brief(cause)}") from cause
        if not is_unknown:
            raise WriteRefused(f"MongoDB refused to commit the step, nothing was written: {brief(cause)}") from cause
        settled_ms = int(self.lifetime_ms() * LIFETIME_SHARE) + LIFETIME_SPARE_MS
        raise WriteOutcomeUnknown(
            f"the step may or may not have happened, as a whole; if it has not {settled_ms} ms from now it never "
            "will. Read one of its "
            f"values to learn which, or repeat the step: {brief(cause)}"
        ) from cause

    # -- the writes

    def _written(self, write: Ready, session: ClientSession, let: Document) -> tuple[Published, ...]:
        try:
            with writing(write.key):
                match write:
                    case Put():
                        return self._put(write, session, let)
                    case Drop():
                        return self._drop(write, session, let)
                    case Guard():
                        return self._guard(write, session, let)
                    case ExpectedRows():
                        return self._rows(write, session, let)
        except Conflict:
            raise
        except (WriteRefused, WriteOutcomeUnknown, ServerUnreachable) as error:
            self._judge_write(error, write)

    def _judge_write(self, error: WriteRefused | WriteOutcomeUnknown | ServerUnreachable, write: Ready) -> NoReturn:
        """Nothing is committed yet, so nothing is unknown."""
        cause = error.__cause__
        is_nobody = isinstance(cause, pe.ServerSelectionTimeoutError)
        if isinstance(cause, pe.PyMongoError) and cause.has_error_label("TransientTransactionError") and not is_nobody:
            raise Contended(f"{write.key}: others write it, nothing was written: {brief(cause)}") from cause
        if isinstance(error, WriteOutcomeUnknown):
            said = brief(cause) if cause is not None else str(error)
            raise Contended(f"{write.key}: MongoDB did not answer in time, nothing was written: {said}") from error
        raise error

    def _put(self, write: Put, session: ClientSession, let: Document) -> tuple[Published, ...]:
        change = write.change
        found = store(self._collections[change.key.domain], change, write.expected_rev, let, session)
        return (Published(found, "remove" if change.removed else "upsert", change.body),)

    def _drop(self, write: Drop, session: ClientSession, let: Document) -> tuple[Published, ...]:
        key = write.key
        update = {
            "$set": {"removed": True, f"{payload_field(key.domain)}.removed": True, "updatedDate": datetime.now(UTC)},
            "$inc": {"rev": ONE},
        }
        found = self._collections[key.domain].with_options(RAW).find_one_and_update(
            {**key.query(), "removed": {"$ne": True}, **only(write.expected_rev)}, update,
            projection=fields(key.domain), return_document=ReturnDocument.AFTER, let=let, session=session,
        )  # fmt: skip
        if found is None:
            if write.expected_rev is not None:
                raise was_first(key, write.expected_rev)
            return ()
        removed = record(key, found)
        return (Published(removed, "remove", pack(removed.payload)),)

    def _guard(self, write: Guard, session: ClientSession, let: Document) -> tuple[Published, ...]:
        key = write.key
        found = self._collections[key.domain].find_one_and_update(
            {**key.query(), **only(write.expected_rev)}, {"$set": {GUARD: ObjectId()}},
            projection={"_id": 1}, let=let, session=session,
        )  # fmt: skip
        if found is None:
            raise was_first(key, write.expected_rev)
        return ()

    def _rows(self, write: ExpectedRows, session: ClientSession, let: Document) -> tuple[Published, ...]:
        if not write.rows:
            return ()
        moments = self._moments.take(len(write.rows))
        unique = hint(write.key.domain)
        updates = [
            UpdateOne(row.change.key.query(), first_row(row.change, moment), upsert=True, hint=unique)
            if row.rev is None
            else row_update(row, moment)
            for row, moment in zip(write.rows, moments, strict=True)
        ]
        try:
            result = self._collections[write.key.domain].bulk_write(updates, ordered=True, let=let, session=session)
        except pe.BulkWriteError as cause:
            for error in (cause.details or {}).get("writeErrors", ()):
                if error.get("code") == DUPLICATE_KEY:
                    own_duplicate(write.key.domain, error, cause)
                    raise Contended(f"{write.key}: others write its rows, nothing was written") from cause
            raise
        ids = dict(result.upserted_ids or {})
        if any(row.rev is None and place not in ids for place, row in enumerate(write.rows)):
            raise Contended(f"{write.key}: others write its rows, nothing was written")
        return tuple(
            _row(row.change, (row.rev or 0) + 1, ids.get(place, row.id)) for place, row in enumerate(write.rows)
        )


def _row(change: Change, rev: int, name: Any) -> Published:
    return Published(Record(change.key, rev, change.payload, change.when, False, str(name)), "upsert", change.body)
