"""A fence between what was read and what is written because of it, in which MongoDB may have been set back to older
files.

Files are not put back under a running mongod: its process ends. So whatever the primary's process acknowledged or
answered is in the database as long as that process has been the primary ever since. Which one it is, MongoDB tells:
each process draws a name when it starts, each election another one.

What rests on something that was read or written before is written in a transaction, in which the primary is asked once
more who it is. A transaction ends with its process, so it is committed by the primary that all the rest is of, or not
at all. Whoever is refused drops what it remembers and begins again from what is stored.

Behind a mongos the name is that of the mongos, so there only the transaction itself protects, and a database is
restored with its workers stopped.

`bkm restore` goes through the same process. It says so in `cache-identity` before it puts the first collection in the
place of another, and counts when it is done; both are looked at there, too. Its renaming waits for transactions that
are open.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from bson import ObjectId
from pymongo import ReadPreference
from pymongo.client_session import ClientSession
from pymongo.database import Database
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from backtest_kit_mongo.backends.mongo.identity import IDENTITY
from backtest_kit_mongo.connect import DURABLE
from backtest_kit_mongo.stored import CACHE_IDENTITY


class PrimaryChanged(ConnectionError):
    """Another process of MongoDB is the primary, or a backup was restored: the database may have been set back since.
    Nothing was written; begin again from what is stored.
    """


class Primary(NamedTuple):
    """A primary from its election to its end.

    Attributes:
        process: drawn by mongod when it starts.
        election: None for a mongos.
        restored: how many backups `bkm restore` had put in force; None while it is about to.
    """

    process: ObjectId
    election: ObjectId | None
    restored: int | None = 0


class Fence:
    """Thread-safe."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._client = database.client
        self._identity = database.get_collection(
            CACHE_IDENTITY, read_preference=ReadPreference.PRIMARY, read_concern=ReadConcern("local")
        )

    def primary(self) -> Primary:
        """Who is the primary now.

        Raises:
            PyMongoError: nobody knows.
        """
        told = self._client.admin.command("hello", read_preference=ReadPreference.PRIMARY)
        found = self._identity.find_one({"_id": IDENTITY}, {"restoring": 1, "restored": 1}) or {}
        restored = None if "restoring" in found else int(found.get("restored", 0))
        return Primary(told["topologyVersion"]["processId"], told.get("electionId"), restored)

    @contextmanager
    def writes(self, since: Primary, concern: WriteConcern = DURABLE) -> Iterator[ClientSession]:
        """A transaction that is committed only if this has been the primary all the time. The first command in it must
        be one of the caller's.

        Raises:
            PrimaryChanged: it is another one.
            PyMongoError: unknown whether it was committed, unless the error says so.
        """
        with (
            self._client.start_session() as session,
            session.start_transaction(write_concern=concern, read_preference=ReadPreference.PRIMARY),
        ):
            yield session
            # Asked while the transaction is open, because one that is asked before it may end in between.
            now = self.primary()
            if now.restored is None:
                raise PrimaryChanged("a backup is being restored; if `bkm restore` was interrupted, run it again")
            if now.restored != since.restored:
                raise PrimaryChanged("a backup was restored")
            if now != since:
                raise PrimaryChanged(f"another mongod is the primary ({now.process}, not {since.process})")
