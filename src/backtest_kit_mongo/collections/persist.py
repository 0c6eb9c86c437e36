"""Ready classes of values by id: in Redis, MongoDB, PostgreSQL and SQLite. That of files is `PersistBase` itself."""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from pymongo.collection import Collection
from pymongo.errors import PyMongoError

from backtest_kit_mongo import locks
from backtest_kit_mongo.backends.files.names import natural_order
from backtest_kit_mongo.backends.persist.base import BASE_DIR, PersistBase
from backtest_kit_mongo.backends.postgres.link import NoTable, PostgresLink
from backtest_kit_mongo.collections.cached import CachedPersist
from backtest_kit_mongo.collections.replicated import ReplicatedPersist
from backtest_kit_mongo.connect import DURABLE
from backtest_kit_mongo.errors import NotFound, NotSetUp, WriteRefused
from backtest_kit_mongo.setup import get_config, get_mongo, get_redis
from backtest_kit_mongo.stored import PERSIST_VALUES

logger = locks.logger(__name__)

Id = str | int
LISTEN_AGAIN_S: Final = 1.0


class _Text(PersistBase):
    """Values are JSON text, kept somewhere by entity and id."""

    def read_value(self, id: Id) -> Any:  # noqa: A002 - the original's name
        text = self._get(str(id))
        if text is None:
            raise NotFound(f"Entity {self.entity_name}:{id} not found")
        return json.loads(text)

    def has_value(self, id: Id) -> bool:  # noqa: A002 - the original's name
        return self._get(str(id)) is not None

    def write_value(self, id: Id, value: Any) -> None:  # noqa: A002 - the original's name
        self._set(str(id), json.dumps(value, ensure_ascii=False, separators=(",", ":")))

    def remove_value(self, id: Id) -> None:  # noqa: A002 - the original's name
        if not self._delete(str(id)):
            raise NotFound(f"Entity {self.entity_name}:{id} not found")

    def keys(self) -> Iterator[str]:
        return iter(sorted(self._ids(), key=natural_order))

    def wait_for_init(self, initial: bool) -> None:
        """Nothing is to be put aside: texts are whole."""

    def _get(self, id: str) -> str | bytes | None:  # noqa: A002 - the original's name
        raise NotImplementedError

    def _set(self, id: str, text: str) -> None:  # noqa: A002 - the original's name
        raise NotImplementedError

    def _delete(self, id: str) -> bool:  # noqa: A002 - the original's name
        raise NotImplementedError

    def _ids(self) -> list[str]:
        raise NotImplementedError


class RedisPersist(_Text):
    """One hash an entity, in the Redis of `setup()`. As durable as that Redis: a power failure may take the last second
    of an append-only file.
    """

    needs = "redis"

    @property
    def _hash(self) -> str:
        return f"persist:{get_config().database}:{self.base_dir}:{self.entity_name}"

    def _get(self, id: str) -> str | bytes | None:  # noqa: A002 - the original's name
        found: Any = get_redis().hget(self._hash, id)
        return found  # type: ignore[no-any-return]

    def _set(self, id: str, text: str) -> None:  # noqa: A002 - the original's name
        get_redis().hset(self._hash, id, text)

    def _delete(self, id: str) -> bool:  # noqa: A002 - the original's name
        return bool(get_redis().hdel(self._hash, id))

    def _ids(self) -> list[str]:
        found: Any = get_redis().hkeys(self._hash)
        return [name.decode() if isinstance(name, bytes) else name for name in found]


class MongoPersist(_Text):
    """One document a value in the collection `persist-values` of `setup()`'s database; durable when a write returns."""

    needs = "mongo"

    @property
    def _collection(self) -> Collection[dict[str, Any]]:
        return get_mongo()[get_config().database].get_collection(PERSIST_VALUES, write_concern=DURABLE)

    def _at(self, id: str) -> dict[str, Any]:  # noqa: A002 - the original's name
        return {"_id": {"base": str(self.base_dir), "entity": self.entity_name, "id": id}}

    def _get(self, id: str) -> str | bytes | None:  # noqa: A002 - the original's name
        found = self._collection.find_one(self._at(id))
        return None if found is None else found["text"]

    def _set(self, id: str, text: str) -> None:  # noqa: A002 - the original's name
        self._collection.find_one_and_update(self._at(id), {"$set": {"text": text}}, upsert=True)

    def _delete(self, id: str) -> bool:  # noqa: A002 - the original's name
        return bool(self._collection.delete_one(self._at(id)).deleted_count)

    def _ids(self) -> list[str]:
        first = {"base": str(self.base_dir), "entity": self.entity_name}
        after = {**first, "id": {}}  # Objects come after texts, so this ends the range of the entity.
        found = self._collection.find({"_id": {"$gte": {**first, "id": ""}, "$lt": after}}, {"_id": 1})
        return [one["_id"]["id"] for one in found]

    @classmethod
    def listen(cls, heard: Callable[[tuple[str, str, str]], object]) -> None:
        """From now on tell which values anybody has written or removed (base directory, entity, id), from a thread of
        its own. Ends with `shutdown()`; what happens while MongoDB cannot be reached is not told.
        """
        threading.Thread(target=cls._listen, args=(heard,), name="values of others", daemon=True).start()

    @classmethod
    def _listen(cls, heard: Callable[[tuple[str, str, str]], object]) -> None:
        pause = threading.Event()
        while True:
            try:
                with cls("")._collection.watch([{"$project": {"documentKey": 1}}]) as changes:
                    for change in changes:
                        name = change["documentKey"]["_id"]
                        heard((name["base"], name["entity"], name["id"]))
            except NotSetUp:
                return
            except (PyMongoError, KeyError) as cause:
                logger.info("what others write is not heard of for now: %s", cause)
                pause.wait(LISTEN_AGAIN_S)


class PostgresPersist(_Text):
    """One row a value; a table for each `base_dir`, which the first write makes. Durable when a write returns."""

    needs = "postgres"

    def _get(self, id: str) -> str | bytes | None:  # noqa: A002 - the original's name
        found = self._read("SELECT value FROM {} WHERE entity = %s AND id = %s", _fitting(id))
        return found[0][0] if found else None

    def _set(self, id: str, text: str) -> None:  # noqa: A002 - the original's name
        whole = _without_nul(id)
        key = _fitting(id)
        statement = self._with_table(
            "INSERT INTO {} (entity, id, value, long_id) VALUES (%s, %s, %s, %s) "
            "ON CONFLICT (entity, id) DO UPDATE SET value = excluded.value"
        )
        row = (_fitting(self.entity_name), key, text, None if key == whole else whole)
        try:
            _postgres().write(statement, *row)
        except NoTable:
            self._make_table()
            _postgres().write(statement, *row)

    def _delete(self, id: str) -> bool:  # noqa: A002 - the original's name
        statement = self._with_table("DELETE FROM {} WHERE entity = %s AND id = %s")
        try:
            return _postgres().write(statement, _fitting(self.entity_name), _fitting(id)) > 0
        except NoTable:
            return False

    def _ids(self) -> list[str]:
        found = self._read("SELECT coalesce(long_id, id) FROM {} WHERE entity = %s")
        return [id.replace("%00", "\0").replace("%25", "%") for (id,) in found]  # noqa: A001

    def _read(self, statement: str, *values: str) -> list[tuple[Any, ...]]:
        try:
            return _postgres().read(self._with_table(statement), _fitting(self.entity_name), *values)
        except NoTable:
            return []

    def _with_table(self, statement: str) -> Any:
        sql: Any = import_module("psycopg.sql")
        base = str(self.base_dir)
        name = f"bkm_{re.sub('[^a-z0-9]+', '_', base.lower())[-40:].strip('_')}_{_digest(base)[:8]}"
        return sql.SQL(statement).format(sql.Identifier(name))

    def _make_table(self) -> None:
        statement = self._with_table(
            # The order of the index must not depend on the server's locale, whose rules change with its libraries.
            'CREATE TABLE IF NOT EXISTS {} (entity text COLLATE "C", id text COLLATE "C", value text NOT NULL, '
            "long_id text, PRIMARY KEY (entity, id))"
        )
        try:
            _postgres().write(statement)
        except WriteRefused as cause:
            if getattr(cause.__cause__, "sqlstate", "") not in ("23505", "42P07"):  # Another process made it just now.
                raise


_KEY_MAX_BYTES: Final = 1_000
"""Two of them fit into an entry of an index."""


def _without_nul(id: str) -> str:  # noqa: A002 - the original's name
    """PostgreSQL's texts hold all characters but one."""
    return id.replace("%", "%25").replace("\0", "%00")


def _fitting(id: str) -> str:  # noqa: A002 - the original's name
    """What an id is found by: itself, or if it is too long for an index its beginning and a digest."""
    text = _without_nul(id)
    return text if len(text.encode()) <= _KEY_MAX_BYTES else f"{text[:200]}%~{_digest(text)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _postgres() -> PostgresLink:
    settings = get_config()
    return _postgres_of(
        os.getpid(),
        settings.postgres_connection_string.get_secret_value(),
        settings.postgres_timeout_ms,
        settings.postgres_connections_max,
    )


@lru_cache(maxsize=1)
def _postgres_of(process: int, uri: str, timeout_ms: int, connections_max: int) -> PostgresLink:
    made = PostgresLink(uri, timeout_ms, connections_max)
    atexit.register(made.close)
    return made


class SqlitePersist(_Text):
    """All entities of a `base_dir` in one file there, `values.sqlite`; durable when a write returns."""

    def _get(self, id: str) -> str | bytes | None:  # noqa: A002 - the original's name
        found = self._run("SELECT text FROM item WHERE entity = ? AND id = ?", self.entity_name, id).fetchone()
        return None if found is None else found[0]

    def _set(self, id: str, text: str) -> None:  # noqa: A002 - the original's name
        self._run("INSERT OR REPLACE INTO item VALUES (?, ?, ?)", self.entity_name, id, text)

    def _delete(self, id: str) -> bool:  # noqa: A002 - the original's name
        return self._run("DELETE FROM item WHERE entity = ? AND id = ?", self.entity_name, id).rowcount > 0

    def _ids(self) -> list[str]:
        return [one[0] for one in self._run("SELECT id FROM item WHERE entity = ?", self.entity_name)]

    def _run(self, statement: str, *values: str) -> sqlite3.Cursor:
        return _sqlite(Path(self.base_dir).absolute(), os.getpid(), threading.get_ident()).execute(statement, values)


@lru_cache(maxsize=1_000)
def _sqlite(directory: Path, process: int, thread: int) -> sqlite3.Connection:
    """One connection for a thread: SQLite's own locks exclude writers, also those of other processes."""
    directory.mkdir(parents=True, exist_ok=True)
    made = sqlite3.connect(directory / "values.sqlite", timeout=30, isolation_level=None, check_same_thread=False)
    made.execute("PRAGMA journal_mode = WAL")
    made.execute("PRAGMA synchronous = FULL")
    made.execute(
        "CREATE TABLE IF NOT EXISTS item (entity TEXT, id TEXT, text TEXT NOT NULL, PRIMARY KEY (entity, id)) "
        "WITHOUT ROWID"
    )
    return made


__all__ = [
    "BASE_DIR",
    "CachedPersist",
    "MongoPersist",
    "PersistBase",
    "PostgresPersist",
    "RedisPersist",
    "ReplicatedPersist",
    "SqlitePersist",
]
