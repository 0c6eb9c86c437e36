"""`PersistBase`: values by id, in files; the base class of backends of one's own. The original has a class of this name
and these methods.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Final

from backtest_kit_mongo import locks
from backtest_kit_mongo.backends.files import disk, names
from backtest_kit_mongo.errors import NotFound

logger = locks.logger(__name__)

BASE_DIR: Final = "dump/persist"
EXTENSION: Final = ".json"
CORRUPT: Final = ".corrupt"
"""What the name of a file that cannot be read ends with from then on."""


UNFINISHED_S: Final = 120.0
"""A temporary file that is older is nobody's any more, as in the original."""


class PersistBase:
    """The values of one entity, by id. Thread-safe; several processes may write, each value as a whole.

    Override `read_value`, `has_value` and `write_value`, and all of `keys`, `remove_value` and whatever else your store
    does better. An instance is made for each entity; `wait_for_init` is called before its first use.

    Args:
        entity_name: which values: the domain and its context, as `signal/BTCUSDT/my-strategy`. Its parts are separated
            by `/`, and hold none.
        base_dir: where files are; another store may take it for a prefix, or ignore it.
    """

    needs: ClassVar[str] = ""
    """Which server of the settings its values are on: `redis`, `mongo`, `postgres`; empty for none of them."""

    def __init__(self, entity_name: str, base_dir: str | Path = BASE_DIR) -> None:
        self.entity_name = entity_name
        self.base_dir = Path(base_dir)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.entity_name}>"

    @property
    def _directory(self) -> Path:
        return self.base_dir.joinpath(*(names.chunked(part) for part in self.entity_name.split("/")))

    def _path(self, id: str | int) -> Path:  # noqa: A002 - the original's name
        return self._directory / f"{names.chunked(names.escape(str(id)))}{EXTENSION}"

    def wait_for_init(self, initial: bool) -> None:
        """Be ready. `initial` is true for the first call of an instance: what cannot be read is put aside then, and
        what killed writers left half-written is taken away.
        """
        if not initial:
            return
        for path in self._files():
            with suppress(NotFound, FileNotFoundError):
                self._loaded(path)
        for unfinished in self._directory.rglob(f"{names.TEMPORARY}*"):
            with suppress(OSError):
                if time.time() - unfinished.stat().st_mtime > UNFINISHED_S:
                    unfinished.unlink()

    def read_value(self, id: str | int) -> Any:  # noqa: A002 - the original's name
        """The value.

        Raises:
            NotFound: there is none, or its file could not be read and was put aside.
        """
        try:
            return self._loaded(self._path(id))
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"Entity {self.entity_name}:{id} not found") from None

    def _loaded(self, path: Path) -> Any:
        text = path.read_bytes()
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as cause:
            aside = path.with_name(path.name + CORRUPT)
            path.replace(aside)
            if aside.read_bytes() != text:  # Another process has written it just now.
                with suppress(FileExistsError):
                    os.link(aside, path)
                aside.unlink()
                return self._loaded(path)
            logger.error("%s cannot be read (%s) and is now %s%s: it counts as absent", path, cause, path, CORRUPT)
            raise NotFound(f"{path} could not be read and was put aside") from cause

    def has_value(self, id: str | int) -> bool:  # noqa: A002 - the original's name
        return self._path(id).is_file()

    def write_value(self, id: str | int, value: Any) -> None:  # noqa: A002 - the original's name
        """Store or replace it: when this returns it is on the disk, and whoever reads meanwhile gets the old value or
        the new one.
        """
        path = self._path(id)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{names.TEMPORARY}{secrets.token_hex(6)}")
        try:
            with unfinished.open("w", encoding="utf-8") as file:
                json.dump(value, file, ensure_ascii=False, separators=(",", ":"))
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
            disk.sync_directory(str(path.parent))
        finally:
            unfinished.unlink(missing_ok=True)

    def remove_value(self, id: str | int) -> None:  # noqa: A002 - the original's name
        """
        Raises:
            NotFound: there is none.
        """
        path = self._path(id)
        try:
            path.unlink()
            disk.sync_directory(str(path.parent))
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"Entity {self.entity_name}:{id} not found") from None

    def remove_all(self) -> None:
        for id in list(self.keys()):  # noqa: A001 - the original's name
            self.remove_value(id)

    def keys(self) -> Iterator[str]:
        """All ids in natural order: `a2` before `a10`."""
        root = self._directory
        found = (names.item(str(path.relative_to(root)).removesuffix(EXTENSION)) for path in self._files())
        return iter(sorted((id for id in found if id is not None), key=names.natural_order))  # noqa: A001

    def values(self) -> Iterator[Any]:
        """All values in the order of their ids."""
        return map(self.read_value, self.keys())

    def filter(self, predicate: Callable[[Any], bool]) -> Iterator[Any]:
        """Values of which it is true."""
        return filter(predicate, self.values())

    def take(self, total: int, predicate: Callable[[Any], bool] | None = None) -> Iterator[Any]:
        """The first so many of them."""
        return islice(self.values() if predicate is None else self.filter(predicate), total)

    def _files(self) -> list[Path]:
        root = self._directory
        return [
            root / f"{found.name}{EXTENSION}"
            for found in disk.listing(str(root), timed=False)
            if not found.name.startswith(names.TEMPORARY)
        ]
