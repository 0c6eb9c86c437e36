"""Who may do what only one process may: leases in MongoDB, by its clock; without servers, file locks of this host.

A lease in MongoDB ends by itself when its holder dies or sleeps. The holder knows when at the latest: it counts from
before it asked, on its own monotonic clock. What it writes carries that moment as a deadline (`bk.write_until`), so a
process that was only asleep can write nothing after its lease. Hosts' clocks are never compared.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Final, Protocol
from urllib.parse import quote

import pymongo
from filelock import FileLock, Timeout
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError, PyMongoError
from pymongo.write_concern import WriteConcern

import backtest_kit_mongo as bk
from backtest_kit.identity import digest
from backtest_kit.living import HOST, birth

__all__ = [
    "COLLECTION",
    "FileLeases",
    "Keeping",
    "Lease",
    "LeaseExpired",
    "LeaseLost",
    "Leases",
    "MongoLeases",
    "make_leases",
    "taking_turns",
]

logger = logging.getLogger(__name__)

COLLECTION: Final = "engine-leases"
FOREVER_S: Final = float("inf")
WRITE_S: Final = 1.5
"""A row of a live context is executed so soon after it was sent, or never: so long is a dead process waited for."""
WRITE_MS: Final = round(WRITE_S * 1000)
TIMEOUT_S: Final = 5.0
"""Bound on each question to MongoDB."""


class LeaseLost(bk.EnvironmentFault):
    """Another process has taken over. This one stops, and writes nothing more."""


class LeaseExpired(bk.EnvironmentFault):
    """The lease could not be prolonged in time, or its turn never came. Nothing was written; it is tried again."""


class Lease:
    """A lease in force. `with` gives it back at the end: at once, or if an error may have left a write on its way, when
    that has been executed or never will be.

    Attributes:
        until_s: it is in force at least until then, on the monotonic clock.
        fence: counts the holders; another number means that somebody else had it in between.
    """

    def __init__(self, owner: Leases, name: str, until_s: float, fence: int = 0) -> None:
        self.owner, self.name, self.until_s, self.fence = owner, name, until_s, fence

    def require(self) -> None:
        """Raises:
        LeaseExpired: it is not in force now.
        """
        if monotonic() >= self.until_s:
            raise LeaseExpired(f"the lease {self.name!r} could not be prolonged in time. Nothing was written.")

    def release(self, pause_ms: int = 0) -> None:
        """Give it back; nobody gets it for `pause_ms`. Does nothing if it cannot be: it ends by itself."""
        self.until_s = 0.0
        with suppress(bk.BacktestKitError):
            self.owner.give_back(self.name, pause_ms)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release(0 if error is None else WRITE_MS)


class Leases(Protocol):
    """Where leases are kept."""

    def acquire(self, name: str, lease_ms: int, despite: str = "") -> Lease | None:
        """Take a lease, or prolong one that this process holds. None: another holds it.

        Args:
            despite: a holder that is known to be dead.

        Raises:
            bk.EnvironmentFault: the place cannot be reached.
        """

    def give_back(self, name: str, pause_ms: int) -> None: ...

    def holder(self, name: str) -> str:
        """Who holds it: host, process, and what distinguishes them."""


class MongoLeases:
    """One document for each name. Its own times are the server's."""

    def __init__(self) -> None:
        concern = WriteConcern(w="majority", j=True, wtimeout=10_000)
        database = bk.get_mongo()[bk.get_config().database]
        self._leases = database.get_collection(COLLECTION, write_concern=concern)
        self._me = "/".join((socket.gethostname(), str(os.getpid()), birth(os.getpid()), HOST, secrets.token_hex(4)))

    def acquire(self, name: str, lease_ms: int, despite: str = "") -> Lease | None:
        since_s = monotonic()
        is_mine: dict[str, Any] = {"$eq": ["$holder", self._me]}
        is_free: dict[str, Any] = {"$lte": [{"$ifNull": ["$until", "$$NOW"]}, "$$NOW"]}
        taken: dict[str, Any] = {
            "holder": self._me,
            "until": {"$add": ["$$NOW", lease_ms]},
            "fence": {"$add": [{"$ifNull": ["$fence", 0]}, {"$cond": [is_mine, 0, 1]}]},
        }
        kept = {field: f"${field}" for field in taken}
        is_dead = {"$and": [bool(despite), {"$eq": ["$holder", despite]}]}
        chosen: dict[str, Any] = {"$cond": [{"$or": [is_mine, is_free, is_dead]}, taken, kept]}
        with _reached(name):
            found = self._upserted(name, [{"$replaceWith": {"$mergeObjects": ["$$ROOT", chosen]}}])
        if found["holder"] != self._me:
            return None
        return Lease(self, name, since_s + lease_ms / 1000, int(found["fence"]))

    def _upserted(self, name: str, pipeline: list[dict[str, Any]]) -> dict[str, Any]:
        for _ in range(2):
            with suppress(DuplicateKeyError):  # Two made the first document at once; now there is one.
                found = self._leases.find_one_and_update(
                    {"_id": name}, pipeline, upsert=True, return_document=ReturnDocument.AFTER
                )
                if found is not None:
                    return found
        raise LeaseExpired(f"the lease {name!r} could not be taken")

    def give_back(self, name: str, pause_ms: int) -> None:
        pipeline = [{"$set": {"holder": "", "until": {"$add": ["$$NOW", pause_ms]}}}]
        with _reached(name):
            self._leases.update_one({"_id": name, "holder": self._me}, pipeline)

    def holder(self, name: str) -> str:
        with _reached(name):
            found = self._leases.find_one({"_id": name}) or {}
        return str(found.get("holder") or "another process")


@contextmanager
def _reached(name: str) -> Iterator[None]:
    try:
        with pymongo.timeout(TIMEOUT_S):
            yield
    except PyMongoError as cause:
        raise bk.ServerUnreachable(f"the lease {name!r}: MongoDB did not answer: {cause!s:.200}") from cause


class FileLeases:
    """Locks of this host's system: a process that dies gives them back, one that sleeps keeps them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._held: dict[str, FileLock] = {}

    def acquire(self, name: str, lease_ms: int, despite: str = "") -> Lease | None:
        if name not in self._held:
            self._directory.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self._directory / f"{_file_name(name)}.lock", thread_local=False)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                return None
            self._held[name] = lock
        return Lease(self, name, FOREVER_S)

    def give_back(self, name: str, pause_ms: int) -> None:
        lock = self._held.pop(name, None)
        if lock is not None:
            lock.release()

    def holder(self, name: str) -> str:
        return "another process of this host"


def _file_name(name: str) -> str:
    """No two names have one, however long they are."""
    text = quote(name, safe="")
    return text if len(text) <= 200 else f"{text[:160]}~{digest(name)}"


def make_leases() -> Leases:
    """In MongoDB after `setup()`, else on this host."""
    try:
        return MongoLeases()
    except bk.NotSetUp:
        return FileLeases(Path("dump") / "leases")


@contextmanager
def taking_turns(leases: Leases, name: str, lease_ms: int = 10_000, patience_s: float = 20.0) -> Iterator[Lease]:
    """A short section that one process at a time is in.

    Raises:
        LeaseExpired: it was not free within `patience_s`.
    """
    until_s = monotonic() + patience_s
    while (lease := leases.acquire(name, lease_ms)) is None:
        if monotonic() >= until_s:
            raise LeaseExpired(f"the lease {name!r} was not free within {patience_s:g} s; {leases.holder(name)} has it")
        sleep(0.02)
    with lease:
        yield lease


class Keeping:
    """Prolongs a lease from a thread of its own, as long as the block lasts.

    Attributes:
        lease: in force while `require` does not raise.
    """

    def __init__(self, leases: Leases, lease: Lease, lease_ms: int) -> None:
        self.lease = lease
        self._leases, self._lease_ms = leases, lease_ms
        self._stop = threading.Event()
        self._taken = False
        self._thread = threading.Thread(target=self._run, name=f"lease {lease.name}", daemon=True)

    def require(self) -> None:
        """Raises:
        LeaseLost: another process has it.
        LeaseExpired: another process may get it at any moment.
        """
        self.require_not_taken()
        self.lease.require()

    def require_not_taken(self) -> None:
        """Raises:
        LeaseLost: another process has it.
        """
        if self._taken:
            raise LeaseLost(
                f"{self._leases.holder(self.lease.name)} has taken over {self.lease.name!r}; this process stops."
            )

    @contextmanager
    def writing(self, within_s: float = float("inf")) -> Iterator[None]:
        """What the block writes reaches MongoDB while the lease is in force, or never.

        Raises:
            LeaseLost, LeaseExpired: nothing was written.
        """
        self.require()
        with bk.write_until(min(self.lease.until_s, monotonic() + within_s)):
            yield

    def _run(self) -> None:
        while not self._stop.wait(self._lease_ms / 3000):
            try:
                renewed = self._leases.acquire(self.lease.name, self._lease_ms)
            except bk.BacktestKitError as cause:
                logger.warning("the lease %r is not prolonged: %s", self.lease.name, cause)
                continue
            if renewed is None or renewed.fence != self.lease.fence:
                self._taken = True
                return
            self.lease.until_s = renewed.until_s

    def __enter__(self) -> Keeping:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if not self._taken:
            self.lease.release(0 if error is None else WRITE_MS)
