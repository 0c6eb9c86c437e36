"""Where anchors are kept: a file, a collection of another database, or whatever a command does with a line."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any, Final, Protocol

import pymongo
from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_uri

from backtest_kit_mongo.audit.anchors import TreeAnchor, parsed, read_anchors
from backtest_kit_mongo.connect import DURABLE, mongo_client
from backtest_kit_mongo.errors import EnvironmentFault, InvalidSetting

COLLECTION: Final = "audit-anchors"
BOUND_S: Final = 60
"""On what a command or the other database takes."""


class AnchorNotKept(EnvironmentFault):
    """The anchor was made but could not be handed over. It may or may not have arrived."""


class Target(Protocol):
    """A place for anchors. `name` is for messages and holds no secret."""

    name: str

    def known(self) -> list[TreeAnchor]:
        """What is kept there, oldest first; nothing where it cannot be asked.

        Raises:
            InvalidSetting: something else is kept there.
            OSError, EnvironmentFault: it cannot be read.
        """

    def keep(self, anchor: TreeAnchor) -> None:
        """Add one; durable when it returns.

        Raises:
            OSError, EnvironmentFault: it may not have been kept.
        """


class AnchorFile:
    """Lines of JSON, one file for one log."""

    def __init__(self, path: Path) -> None:
        self._path, self.name = path, str(path)

    def known(self) -> list[TreeAnchor]:
        return read_anchors(self._path) if self._path.exists() and self._path.stat().st_size else []

    def keep(self, anchor: TreeAnchor) -> None:
        """One write, on the disk before it returns; a line cut off by a crash is closed first."""
        with self._path.open("ab+") as file:
            end = file.seek(0, os.SEEK_END)
            is_cut = False
            if end:
                file.seek(end - 1)
                is_cut = file.read(1) != b"\n"
            file.write(b"\n" * is_cut + anchor.line().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


class AnchorDatabase:
    """The collection `audit-anchors` of another database, which the users of the first may not change.

    Args:
        uri: of MongoDB; its path names the database.
        witnessed: hosts and database of the log, as `Settings.mongo_address` and `.database` say them.

    Raises (the constructor): InvalidSetting: it names no database, or the one that the anchors are to witness for.
    """

    def __init__(self, uri: str, witnessed: tuple[str, str]) -> None:
        try:
            found = parse_uri(uri, validate=True, warn=False)
        except (PyMongoError, ValueError):
            # The parser's message may quote a part of the password.
            raise InvalidSetting(
                "anchors: not a MongoDB connection string (mongodb://user:password@host:port/database)"
            ) from None
        address = ",".join(f"{host}:{port}" if port else host for host, port in found["nodelist"])
        if not found["database"] or (address, found["database"]) == witnessed:
            raise InvalidSetting(
                f"anchors: {address}/{found['database'] or ''} is not another database than the log's; nothing was "
                "written"
            )
        self.name = f"{COLLECTION} of {address}/{found['database']}"
        self._uri, self._database = uri, found["database"]

    def known(self) -> list[TreeAnchor]:
        found = self._asked(lambda anchors: list(anchors.find({}, {"_id": 0}).sort("_id", 1)))
        return [parsed(each, self.name) for each in found]

    def keep(self, anchor: TreeAnchor) -> None:
        self._asked(lambda anchors: anchors.insert_one(anchor.fields()))

    def _asked(self, ask: Any) -> Any:
        try:
            client = mongo_client(self._uri, "backtest-kit-mongo", find_ms=BOUND_S * 250)
            with client, pymongo.timeout(BOUND_S):
                return ask(client[self._database].get_collection(COLLECTION, write_concern=DURABLE))
        except PyMongoError as cause:
            raise AnchorNotKept(
                f"{self.name}: {type(cause).__name__}: {cause!s:.300}; the anchor may not have been kept"
            ) from cause


class AnchorCommand:
    """A command that gets the line on its standard input. What it has kept cannot be asked for."""

    def __init__(self, command: str) -> None:
        self.name, self._command = "the command", command

    def known(self) -> list[TreeAnchor]:
        return []

    def keep(self, anchor: TreeAnchor) -> None:
        try:
            words = shlex.split(self._command)
            done = subprocess.run(words, input=anchor.line() + "\n", text=True, timeout=BOUND_S, capture_output=True)
        except (ValueError, IndexError, OSError, subprocess.SubprocessError) as cause:
            raise AnchorNotKept(f"the command: {cause}; the anchor may not have been kept, run it again") from cause
        if done.returncode:
            said = done.stderr.strip()[-500:]
            raise AnchorNotKept(
                f"the command ended with status {done.returncode}: {said}; the anchor may not have been kept"
            )
