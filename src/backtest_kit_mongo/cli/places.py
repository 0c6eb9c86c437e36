"""Where a command looks: the servers of the settings, a directory of files, or another database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer

from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.errors import NotFound
from backtest_kit_mongo.settings import Settings, load
from backtest_kit_mongo.setup import make_reader, make_store
from backtest_kit_mongo.stores import new_file_store

from .opening import opened, told

__all__ = ["At", "is_directory", "place"]

SCHEMES: Final = ("mongodb://", "mongodb+srv://")

At = Annotated[
    str | None,
    typer.Option("--at", metavar="PLACE", help="A directory of files, such as ./dump, or mongodb://host/database."),
]


def is_directory(written: str) -> bool:
    return not written.startswith(SCHEMES)


@contextmanager
def place(written: str | None, *, is_new: bool = False, reads: bool = False) -> Iterator[Store]:
    """The store there; None: that of the CC_ variables. Whatever goes wrong inside is a message and an exit status.

    Args:
        reads: another database is only looked at.
        is_new: a directory that does not exist is as good as an empty one.
    """
    if written is not None and is_directory(written):
        with told():
            directory = Path(written)
            if not is_new and not directory.is_dir():
                raise NotFound(f"There is no directory {directory.absolute()}.")
            store = new_file_store(directory)
            store.name = f"files below {directory}"
            yield store
        return
    with opened(partial(_servers, written, reads)) as store:
        yield store


@contextmanager
def _servers(written: str | None, reads: bool, settings: Settings) -> Iterator[Store]:
    if written is not None:
        named = load(mongo_connection_string=written).mongo_connection_string
        settings = settings.model_copy(update={"mongo_connection_string": named})
    store = make_reader(settings) if reads and written is not None else make_store(settings)
    try:
        yield store
    finally:
        store.close()
