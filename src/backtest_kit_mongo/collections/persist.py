"""Ready classes of values by id: in Redis, MongoDB and SQLite. That of files is `PersistBase` itself."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import redis
from pymongo.collection import Collection

from backtest_kit_mongo.backends.files.names import natural_order
from backtest_kit_mongo.backends.persist.base import BASE_DIR, PersistBase
from backtest_kit_mongo.connect import DURABLE
from backtest_kit_mongo.errors import NotFound
from backtest_kit_mongo.setup import get_config, get_mongo, get_redis
from backtest_kit_mongo.stored import PERSIST_VALUES

Id = str | int


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

    @property
    def _hash(self) -> str:
        return f"persist:{get_config().database}:{self.base_dir}:{self.entity_name}"

    def _get(self, id: str) -> str | bytes | None:  # noqa: A002 - the original's name
        found: Any = _redis(os.getpid()).hget(self._hash, id)
        return found  # type: ignore[no-any-return]

    def _set(self, id: str, text: str) -> None:  # noqa: A002 - the original's name
        _redis(os.getpid()).hset(self._hash, id, text)

    def _delete(self, id: str) -> bool:  # noqa: A002 - the original's name
        return bool(_redis(os.getpid()).hdel(self._hash, id))

    def _ids(self) -> list[str]:
        found: Any = _redis(os.getpid()).hkeys(self._hash)
        return [name.decode() if isinstance(name, bytes) else name for name in found]


@lru_cache(maxsize=1)
def _redis(process: int) -> redis.Redis:
    """One client for a process."""
    return get_redis()


class MongoPersist(_Text):
    """One document a value in the collection `persist-values` of `setup()`'s database; durable when a write returns."""

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


__all__ = ["BASE_DIR", "MongoPersist", "PersistBase", "RedisPersist", "SqlitePersist"]
