"""Leadership: of all workers, one at a time runs a service. A lease document a service in `worker-leases`.

All times in the documents are MongoDB's own, read in the update itself (`$$NOW`), so no two hosts' clocks are compared.
The holder counts from when it asked, by its own monotonic clock, and stops believing a third of the lease before
MongoDB does: a piece of work that has begun then has that third to end in. A process that is stopped for longer may
work beside the next holder for a moment; services are made for that.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pymongo
from pymongo import ReturnDocument
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError, PyMongoError

from backtest_kit_mongo.connect import DURABLE
from backtest_kit_mongo.stored import WORKER_LEASES as COLLECTION

LEASE_MS = 15_000
TROUBLE_MAX = 500
"""Characters of an error that are reported with the lease."""
_EPOCH = datetime.fromtimestamp(0, UTC)
logger = logging.getLogger(__name__)


class Leadership:
    """This process's leases.

    Args:
        holder: a name that no other process uses.
        names: services to lead.
        lease_ms: how long a lease lasts unless renewed; renewed at a third.
        clock: monotonic seconds.

    Attributes:
        troubles: by service, the error that its attempts here end with; reported with the lease, so that others see it.
    """

    def __init__(
        self,
        database: Database[dict[str, Any]],
        holder: str,
        names: Sequence[str],
        lease_ms: int = LEASE_MS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._leases = database.get_collection(COLLECTION, write_concern=DURABLE)
        self._holder = holder
        self._names = tuple(names)
        self._lease_ms = lease_ms
        self._bound_s = max(1.0, lease_ms / 3_000)
        self._clock = clock
        self.troubles: dict[str, str] = {}
        self._until_s = dict.fromkeys(self._names, 0.0)

    def holds(self, name: str) -> bool:
        """Whether this process may begin a piece of work of the service."""
        return self._clock() < self._until_s[name]

    def attempt(self, name: str) -> bool:
        """Take the lease if it is free or expired, renew it if it is ours; returns whether it is ours.

        Raises:
            PyMongoError: unknown; what was held before is still held until its time is up.
        """
        asked_s = self._clock()
        try:
            with pymongo.timeout(self._bound_s):
                lease: Any = self._leases.find_one_and_update(
                    {"_id": name},
                    self._taking(self.troubles.get(name, "")),
                    upsert=True,
                    return_document=ReturnDocument.AFTER,
                )
        except DuplicateKeyError:
            return False  # Two first attempts at once; the other was faster.
        ours: bool = lease["holder"] == self._holder
        if ours != self.holds(name):
            logger.info("%s: %s", name, f"led here, term {lease['term']}" if ours else f"led by {lease['holder']}")
        self._until_s[name] = asked_s + self._lease_ms / 1_500 if ours else 0.0
        return ours

    def _taking(self, trouble: str) -> list[dict[str, Any]]:
        """Compare and set in one update. `term` counts the changes of holder; what fails has failed since it first
        did.
        """
        me = {"$literal": self._holder}
        is_ours = {"$eq": ["$holder", me]}
        is_free = {"$lte": [{"$ifNull": ["$expiresAt", _EPOCH]}, "$$NOW"]}
        ended = {"$add": ["$$NOW", self._lease_ms]}
        term = {"$add": [{"$ifNull": ["$term", 0]}, {"$cond": [is_ours, 0, 1]}]}
        mine = {"holder": me, "expiresAt": ended, "renewedAt": "$$NOW", "term": term}
        if trouble:
            since = {"$cond": [is_ours, {"$ifNull": ["$failingSince", "$$NOW"]}, "$$NOW"]}
            mine.update({"trouble": {"$literal": trouble[:TROUBLE_MAX]}, "failingSince": since})
        return [{"$replaceWith": {"$cond": [{"$or": [is_ours, is_free]}, {"_id": "$_id", **mine}, "$$ROOT"]}}]

    def _renew(self) -> Sequence[str]:
        """Renew what is held without trouble, in one command: a stack that rests does little else. Returns what was
        renewed, all or nothing: where one of them is another's by now, each has to be asked for.
        """
        held = [name for name in self._names if self.holds(name) and name not in self.troubles]
        asked_s = self._clock()
        with pymongo.timeout(self._bound_s):
            mine = {"_id": {"$in": held}, "holder": self._holder}
            if not held or self._leases.update_many(mine, self._taking("")).matched_count < len(held):
                return ()
        self._until_s.update(dict.fromkeys(held, asked_s + self._lease_ms / 1_500))
        return held

    def attempt_all(self) -> None:
        """One round over all services; failures are logged, and the lease then runs out by itself."""
        try:
            renewed = self._renew()
        except PyMongoError as cause:
            logger.warning("the leases could not be renewed together, trying one by one: %s", cause)
            renewed = ()
        for name in self._names:
            if name in renewed:
                continue
            try:
                self.attempt(name)
            except PyMongoError as cause:
                logger.warning("%s: the lease could not be renewed: %s", name, cause)

    def run(self, stop: threading.Event) -> None:
        """Take and renew until `stop` is set."""
        while not stop.is_set():
            self.attempt_all()
            stop.wait(self._lease_ms / 3_000)

    def release(self) -> None:
        """Give up what is held, so that the next holder need not wait. For after the services have stopped."""
        for name in self._names:
            self._until_s[name] = 0.0
            try:
                with pymongo.timeout(self._bound_s):
                    self._leases.update_one({"_id": name, "holder": self._holder}, [{"$set": {"expiresAt": "$$NOW"}}])
            except PyMongoError as cause:
                logger.warning("%s: the lease was not released and runs out by itself: %s", name, cause)
