"""The recovery service: whatever MongoDB holds gets into the feed and the audit log, even if its writer died before it
could publish, if Redis lost it, or if it was written past this package.

It tails MongoDB's change streams and keeps its place in MongoDB. The parts and the way of a change through them are in
`backtest_kit_worker/recovery/`. Two holders at a time do no harm: an event that both republish has one identity, and a
record is inserted once.

Changes that raised no revision were made by a foreign writer (the npm package, a shell). They are recorded in the audit
log as `foreign`, with `detail` insert, update, replace or delete, and their cache entries go; they are not published,
because the feed has no operation for them.

It judges by the audit log, so it needs the audit role somewhere in the deployment. What it cannot tell: foreign changes
made while MongoDB's log was lost, documents that went with their collection, and who raised a revision. After a restart
it takes a revision that a foreign writer put back for one that was recorded long ago.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp

from backtest_kit_mongo.coherence.events import Origin
from backtest_kit_mongo.feed.dead_letters import LOG
from backtest_kit_mongo.feed.troubles import ODD_REVISION, Notes
from backtest_kit_worker.dead_letters import DeadLetterWriter
from backtest_kit_worker.deployment import Deployment
from backtest_kit_worker.fence import PrimaryChanged
from backtest_kit_worker.loop import REFUSED
from backtest_kit_worker.recovery.caches import Caches, Relay
from backtest_kit_worker.recovery.changes import COLLECTIONS
from backtest_kit_worker.recovery.classifier import Classified, Classifier
from backtest_kit_worker.recovery.judge import Judge
from backtest_kit_worker.recovery.reconcile import Reconciler
from backtest_kit_worker.recovery.records import AuditRecords
from backtest_kit_worker.recovery.repair import Repair
from backtest_kit_worker.recovery.restores import Restores
from backtest_kit_worker.recovery.state import Position, RecoveryState
from backtest_kit_worker.recovery.streams import Feed
from backtest_kit_worker.recovery.tail import HistoryLost, Tail, oldest
from backtest_kit_worker.roles.audit import AuditRole
from backtest_kit_worker.services import Service

logger = logging.getLogger(__name__)

REST_AFTER_S: Final = 5.0
"""After so long without work the log is waited for and not asked again and again."""
IDLE_SAVE_S: Final = 10.0
"""How often the place is saved while nothing changes: often enough to stay within MongoDB's log."""


@dataclass(frozen=True, slots=True)
class RecoveryOptions:
    """Times are milliseconds.

    Attributes:
        grace_ms: how long a writer has to publish a change, and the audit role to record it, before it is looked for.
            Also how long recovery has to read on, before it believes that a document still is what a change made of it.
        await_ms: how long one read of the change stream waits for more; a stale cache entry lives about twice as long.
        batch_max, batch_bytes_max: changes read at once.
        unjudged_max, unjudged_bytes_max: beyond these nothing more is read until some are judged.
        save_ms: how often the place is saved. What was judged since is judged again after a crash, to no effect.
        look_back_ms: how far back the first reading of the log begins where strategies wrote before any worker ran.
    """

    grace_ms: int = 2_000
    await_ms: int = 50
    batch_max: int = 1_000
    batch_bytes_max: int = 8 * 1024 * 1024
    unjudged_max: int = 50_000
    unjudged_bytes_max: int = 64 * 1024 * 1024
    save_ms: int = 1_000
    look_back_ms: int = 600_000


class RecoveryService(Service):
    """See the module.

    Args:
        relay: how stale cache entries are forgotten; by default by the protocol's RELAY.
    """

    name = "recovery"
    interval_ms = 10

    def __init__(
        self,
        deployment: Deployment,
        options: RecoveryOptions = RecoveryOptions(),
        *,
        relay: Relay | None = None,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._deployment = deployment
        self._options = options
        self._monotonic_s = monotonic_s
        settings = deployment.settings
        origin = Origin(socket.gethostname(), os.getpid())
        self._records = AuditRecords(deployment.database, origin)
        self._caches = Caches(deployment.redis, settings.database, settings.partitions, relay)
        self._feed = Feed(deployment.redis, deployment.streams, AuditRole.name)
        self._notes = Notes(deployment.database)
        self._repair = Repair(self._records, self._feed, self._caches, origin, self._notes)
        self._state = RecoveryState(deployment.database)
        self._dead_letters = DeadLetterWriter(deployment.database)
        self._restores = Restores(deployment, monotonic_s)
        self._tail: Tail | None = None
        self._busy_s = monotonic_s()

    @classmethod
    def build(cls, deployment: Deployment) -> RecoveryService:
        return cls(deployment)

    def open(self) -> None:
        """Take over at the place in MongoDB; what another holder had read but not judged is read again.

        Raises:
            UnsafeServer: MongoDB is no replica set, so it has no change streams.
            PyMongoError: it cannot be reached.
        """
        self.close()
        self._state.open()
        self._records.open(self._state.since)
        self._judge = Judge(self._records, self._feed, self._repair, self._options.grace_ms / 1000, self._monotonic_s)
        self._classifier = Classifier(self._deployment.database, self._records, self._caches)
        self._reconciler = Reconciler(self._deployment.database, self._records, self._state, self._judge)
        self._saved_s, self._unsaved_count = self._monotonic_s(), 0
        position = self._state.position()
        if position is None:
            position = self._start("recovery never ran on this database", self._now(self._options.look_back_ms))
        else:
            self._reconciler.resume()
        self._saved = position
        self._tail = Tail(self._deployment.database, position, self._options.await_ms)

    def close(self) -> None:
        tail, self._tail = self._tail, None
        if tail is not None:
            tail.reset()

    def run_once(self) -> int:
        """Judge what is due, read a piece of the log, compare a page of documents if a scan is under way; returns how
        many changes were read or settled.

        Raises:
            PyMongoError, RedisError: a server failed. Nothing is lost; call again.
            PrimaryChanged: MongoDB may have been set back. What was remembered is dropped; call again.
        """
        if self._tail is None:
            self.open()
        try:
            return self._work()
        except PrimaryChanged:
            self.close()
            raise

    def _work(self) -> int:
        for found in self._restores.look():
            self._record_restore(found)
        done = self._judge.work()
        self._unsaved_count += done
        try:
            done += self._read()
        except HistoryLost as cause:
            self._lose(cause)
            done += 1
        done += self._reconciler.step()
        self._save()
        if done:
            self._busy_s = self._monotonic_s()
        return done

    def _record_restore(self, found: Mapping[str, Any]) -> None:
        """The database went back: say so for good, and begin anew, because what is remembered of documents is of
        before.
        """
        reported = self._restores.reported(found, self._restores.clear_feed(found))
        logger.error("%s (era %s, at %s)", reported, found["over"], found["at"])
        self._records.write([self._records.restore(found, reported)])
        self._repair.counts["restore"] += 1
        self._state.begin(reported)
        self._restores.done(found)
        self.open()

    def _read(self) -> int:
        """Read and classify a piece of the log. If anything fails it is read again."""
        options, tail = self._options, self._tail
        assert tail is not None  # Opened by run_once.
        is_full = self._judge.unjudged_count >= options.unjudged_max
        if is_full or self._judge.unjudged_bytes >= options.unjudged_bytes_max:
            self._classifier.give_up()  # Nothing more is read until some are judged, so none of them may wait for that.
            return 0
        try:
            is_quiet = self._judge.unjudged_count == 0 and self._monotonic_s() - self._busy_s > REST_AFTER_S
            raws = tail.read(options.batch_max, options.batch_bytes_max, rests=is_quiet)
            piece = self._classify(raws)
            tail.keep()
            self._classifier.confirm(tail.moment)
        except BaseException:
            tail.reset()
            raise
        for odd in piece.odd:
            self._notes.note(ODD_REVISION, odd)
        self._judge.add(piece.changes, tail.position, piece.marks)
        return len(raws)

    def _classify(self, raws: Sequence[RawBSONDocument]) -> Classified:
        """Understand a piece of the log. What in it cannot be understood is set aside, so that it costs nothing but
        itself.
        """
        try:
            return self._classifier.classify(raws)
        except REFUSED:
            raise
        except Exception as cause:
            logger.warning("a piece of MongoDB's log is looked at change by change: %r", cause)
        try:
            pieces = [self._classify_one(raw) for raw in raws]
        except REFUSED:
            # The piece will be read again, and what is remembered is of a part of it.
            self._classifier = Classifier(self._deployment.database, self._records, self._caches)
            raise
        changes = [change for piece in pieces for change in piece.changes]
        odd = tuple(each for piece in pieces for each in piece.odd)
        return Classified(changes, frozenset().union(*(piece.marks for piece in pieces)), odd)

    def _classify_one(self, raw: RawBSONDocument) -> Classified:
        try:
            return self._classifier.classify([raw])
        except REFUSED:
            raise
        except Exception as cause:
            entry = sha256(raw.raw).hexdigest()[:32]
            why = f"a change in MongoDB's log that recovery cannot understand: {cause!r}"
            self._dead_letters.park(LOG, self.name, entry, {b"change": bytes(raw.raw)}, why)
            return Classified([], frozenset())

    def _start(self, reason: str, since: Timestamp) -> Position:
        """Read the log from `since` on, and compare what there is already. What the log held by the time of the
        comparison has its payloads from there.
        """
        # Asked before the scan: whatever is committed later is reported by the log.
        position = self._now()
        if not self._is_new():
            position = since
            self._reconciler.begin(reason)
        self._state.move(position)
        return position

    def _now(self, before_ms: int = 0) -> Timestamp:
        """The moment after everything committed so far, by MongoDB's clock, or so long before it."""
        now = self._deployment.mongo.admin.command("ping")["operationTime"]
        return Timestamp(now.time - before_ms // 1000, 0) if before_ms else Timestamp(now.time, now.inc + 1)

    def _is_new(self) -> bool:
        """Whether nothing was ever stored here."""
        database = self._deployment.database
        return self._records.is_empty() and all(database[name].find_one({}, {"_id": 1}) is None for name in COLLECTIONS)

    def _lose(self, cause: HistoryLost) -> None:
        """Go on with what is left of the log. What was read before is still judged."""
        logger.error("MongoDB's log cannot be read on from where recovery stood: %s", cause)
        left = None if cause.is_blocked else oldest(self._deployment.mongo)
        self._judge.forget_positions()
        self._classifier.give_up()
        # What it remembers is newer than what may be read again.
        self._classifier = Classifier(self._deployment.database, self._records, self._caches)
        self._saved = self._start("MongoDB's log lost the changes since", left or self._now())
        self._tail = Tail(self._deployment.database, self._saved, self._options.await_ms)

    def _save(self) -> None:
        position = self._judge.position
        if position is None or position == self._saved:
            return
        pause_s = self._options.save_ms / 1000 if self._unsaved_count else IDLE_SAVE_S
        if self._monotonic_s() - self._saved_s >= pause_s:
            self._state.move(position)
            self._saved, self._saved_s, self._unsaved_count = position, self._monotonic_s(), 0

    # -- for metrics

    @property
    def counts(self) -> Mapping[str, int]:
        """Changes by outcome, as `repair.py` names them; `restore`: how often the database went back."""
        return dict(self._repair.counts)

    @property
    def relayed_count(self) -> int:
        """Cache entries that were, or may have been, stale."""
        return self._caches.relayed_count

    @property
    def unjudged_count(self) -> int:
        """Changes that were read and are not settled."""
        return self._judge.unjudged_count if self._tail is not None else 0

    @property
    def oldest_s(self) -> float:
        """Age of the oldest of them, from first sight; the grace is part of it."""
        return self._judge.oldest_s if self._tail is not None else 0.0
