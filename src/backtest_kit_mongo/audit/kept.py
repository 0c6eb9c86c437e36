"""The tree over the seals, kept in a file of this host: what was hashed once is not hashed again.

Hashing ten million records takes a minute. With the inner nodes kept, an anchor or a proof reads the seals that came
since, one seal more, and a few nodes.

A kept tree says what the log was when it was read, not what it is. So an anchor made from it holds on to the log as
this host saw it first, and does not bend to what was rewritten meanwhile: `verify` reads everything, and finds the
difference. Whether the newest seal that was read is still there and the same is looked at each time; if not, that is a
finding, and everything is read again.

The file is a cache: without it, everything is read.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

from platformdirs import user_cache_path
from pymongo.database import Database

from backtest_kit_mongo import locks
from backtest_kit_mongo.audit import merkle
from backtest_kit_mongo.audit.chain import ORIGIN, seal_hash
from backtest_kit_mongo.audit.seals import numbered_seals, record_leaves, seal_leaf
from backtest_kit_mongo.errors import EnvironmentFault

WAIT_S: Final = 60.0
"""For another process that is taking up a piece at this moment."""
PIECE: Final = 64
"""Seals taken up at once: a few seconds, if all are full."""
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS nodes (
    level INTEGER, position INTEGER, hash BLOB, PRIMARY KEY (level, position)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS seals (number INTEGER PRIMARY KEY, position INTEGER, records INTEGER, hash BLOB);
"""
logger = locks.logger(__name__)

Document = dict[str, Any]


class State(NamedTuple):
    """The tree up to some seal.

    Attributes:
        number, hash: of that seal; 0 and `ORIGIN` before the first.
        seals, records: how many there are up to it.
    """

    number: int = 0
    seals: int = 0
    records: int = 0
    hash: bytes = ORIGIN


class KeptTree:
    """The nodes of a tree, in SQLite.

    Args:
        path: of the file; None keeps them in memory, for one use.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._file = sqlite3.connect(path or ":memory:", timeout=WAIT_S, isolation_level=None, check_same_thread=False)
        self._file.executescript(_TABLES)
        self.path = path

    def close(self) -> None:
        self._file.close()

    # -- asking

    def state(self, up_to: int | None = None) -> State:
        """The tree up to a seal's number (None: all)."""
        query = "SELECT number, position + 1, records, hash FROM seals WHERE number <= ? ORDER BY number DESC LIMIT 1"
        found = self._file.execute(query, (2**62 if up_to is None else up_to,)).fetchone()
        return State(*found) if found else State()

    def root(self, state: State) -> bytes:
        return merkle.root(self.full, state.seals)

    def full(self, level: int, position: int) -> bytes:
        """As `merkle.Full`."""
        found = self._file.execute(
            "SELECT hash FROM nodes WHERE level = ? AND position = ?", (level, position)
        ).fetchone()
        if found is None:
            raise sqlite3.DatabaseError(f"a node is missing ({level}, {position})")
        return bytes(found[0])

    # -- growing

    def grow(self, database: Database[Document]) -> None:
        """Take up the seals that came since; the first time, all.

        Raises:
            ServerUnreachable, ReadFailed: what was taken up before stays.
        """
        while self.grow_by(database, PIECE):
            pass

    def grow_by(self, database: Database[Document], seals_max: int) -> int:
        """Take up the next few seals; returns how many there were. All of them, or none if something fails."""
        with self._writing():
            before = self.state()
            for stored in islice(numbered_seals(database, after=before.number), seals_max):
                self.append(int(stored["_id"]), seal_hash(stored), record_leaves(stored))
            return self.state().seals - before.seals

    def append(self, number: int, sealed_hash: bytes, batch: list[bytes]) -> None:
        """Add a seal and the nodes that it completes."""
        before = self.state()
        carried, level, position = seal_leaf(number, sealed_hash, batch), 0, before.seals
        put = "INSERT INTO nodes VALUES (?, ?, ?)"
        self._file.execute(put, (level, position, carried))
        while position & 1:
            carried = merkle.node(self.full(level, position - 1), carried)
            level, position = level + 1, position >> 1
            self._file.execute(put, (level, position, carried))
        row = (number, before.seals, before.records + len(batch), sealed_hash)
        self._file.execute("INSERT INTO seals VALUES (?, ?, ?, ?)", row)

    def forget(self) -> None:
        """Begin anew."""
        with self._writing():
            self._file.execute("DELETE FROM nodes")
            self._file.execute("DELETE FROM seals")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        self._file.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._file.execute("ROLLBACK")
            raise
        self._file.execute("COMMIT")

    def differs(self, newest: Mapping[str, Any] | None) -> str | None:
        """Why the log is not the one that was read; None if it is, as far as its newest seal says.

        Args:
            newest: the seal of the number that `state()` names, as it is stored now.
        """
        last = self.state()
        if not last.seals or (newest is not None and seal_hash(newest) == last.hash):
            return None
        now = "it is gone" if newest is None else f"it is {seal_hash(newest).hex()[:16]}..."
        return f"when this host read it, its hash was {last.hash.hex()[:16]}...; now {now}. Everything is read again"


@contextmanager
def kept_tree(database: Database[Document], directory: Path | None = None) -> Iterator[KeptTree]:
    """The tree of a log as this host keeps it, a file a log.

    Args:
        directory: for the files; default: this user's cache directory.
    """
    first = next(numbered_seals(database), None)
    tree = KeptTree() if first is None else _opened(seal_hash(first).hex()[:32], directory)
    try:
        yield tree
    except sqlite3.Error as cause:
        raise EnvironmentFault(
            f"the kept nodes of the log in {tree.path}: {cause}; remove the file and run this again"
        ) from cause
    finally:
        tree.close()


def _opened(name: str, directory: Path | None) -> KeptTree:
    path = (directory or user_cache_path("backtest-kit-mongo", appauthor=False) / "audit-trees") / f"{name}.sqlite"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return KeptTree(path)
    except (OSError, sqlite3.Error) as cause:
        logger.warning("%s cannot be used (%s); all seals are read", path, cause)
        return KeptTree()
