"""`BaseCRUD` for event loops."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel

from backtest_kit_mongo.collections.crud import BaseCRUD as Sync
from backtest_kit_mongo.drivers.offloading import Offloading, as_async_iterator, as_coroutine


class BaseCRUD(Offloading[Sync]):
    """Create, read and update documents of one collection, as `backtest_kit_mongo.BaseCRUD` does.

    Args:
        collection: the collection's name in the configured database.
        model: pydantic model that documents must fit; None accepts any fields.
        unique: fields that no two documents may have in common.
        events: publish a change event after each write.

    Raises (the constructor):
        InvalidSetting: a collection of this package, or a name that MongoDB does not have.
    """

    def __init__(
        self,
        collection: str,
        model: type[BaseModel] | None = None,
        *,
        unique: Sequence[str] | str = (),
        events: bool = False,
    ) -> None:
        super().__init__(Sync(collection, model, unique=unique, events=events))

    create = as_coroutine(Sync.create)
    upsert = as_coroutine(Sync.upsert)
    update = as_coroutine(Sync.update)
    remove = as_coroutine(Sync.remove)
    delete = as_coroutine(Sync.delete)
    changes = as_coroutine(Sync.changes)
    find_by_id = as_coroutine(Sync.find_by_id)
    find_by_filter = as_coroutine(Sync.find_by_filter)
    find_all = as_coroutine(Sync.find_all)
    iterate = as_async_iterator(Sync.iterate)
    paginate = as_coroutine(Sync.paginate)
