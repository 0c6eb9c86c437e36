"""What all 17 registries share: one instance a context, made by whichever implementation is registered."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from backtest_kit_mongo import stores
from backtest_kit_mongo.adapters.contracts import PersistInstance
from backtest_kit_mongo.coherence.codec import plain_scalar
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.errors import InvalidKey

I = TypeVar("I", bound=PersistInstance)  # noqa: E741
Factory = Callable[..., Any]


class _Slot(Generic[I]):
    """A memoized instance and whether it has been initialised once without an error."""

    __slots__ = ("instance", "lock", "ready")

    def __init__(self, instance: I) -> None:
        self.instance = instance
        self.ready = False
        self.lock = threading.Lock()


class Registry(Generic[I]):
    """One domain's registry. Thread-safe; contexts are tuples, so no two of them can collide."""

    def __init__(self, builtin: Callable[..., I]) -> None:
        self._builtin = builtin
        self._lock = threading.Lock()
        self._slots: dict[tuple[Any, ...], _Slot[I]] = {}
        self._factory: Factory = self._bind(stores.file_store)

    def _bind(self, store: Callable[[], Store]) -> Factory:
        builtin = self._builtin
        return lambda *context: builtin(store(), *context)

    def use_adapter(self, factory: Factory) -> None:
        """Serve every context from now on by `factory(*context)`;

        instances made before are dropped. Call it before trading starts.
        """
        with self._lock:
            self._factory = factory
            self._slots = {}

    def use_store(self, store: Callable[[], Store]) -> None:
        """Serve every context by the built-in instance over the store that `store()` returns."""
        self.use_adapter(self._bind(store))

    def use_json(self) -> None:
        """Files below ./dump, in the original's layout. This is the default."""
        self.use_store(stores.file_store)

    def use_memory(self) -> None:
        """Memory of this process."""
        self.use_store(stores.memory_store)

    def use_dummy(self) -> None:
        """Nothing is kept."""
        self.use_store(stores.dummy_store)

    @contextmanager
    def serving(self, store: Store) -> Iterator[None]:
        """Serve every context over this store within the block, and after it as before: for tests."""
        with self._lock:
            before = self._factory, self._slots
        self.use_store(lambda: store)
        try:
            yield
        finally:
            with self._lock:
                self._factory, self._slots = before

    def clear(self) -> None:
        """Drop all instances; the registered implementation stays. Needed after the working directory changed."""
        with self._lock:
            self._slots = {}

    def forget_after_fork(self) -> None:
        """Instances of the parent hold its sockets and perhaps a lock; the child makes its own."""
        self._lock = threading.Lock()
        self._slots = {}

    @property
    def context_count(self) -> int:
        """How many contexts have an instance."""
        return len(self._slots)

    def _drop(self, *context: Any) -> None:
        with self._lock:
            self._slots.pop(context, None)

    def _init(self, initial: bool, *context: Any) -> None:
        """Initialise a context ahead of its first use; with `initial` false only if it has been used before."""
        if initial or context in self._slots:
            self._at(*context)

    def _at(self, *context: Any) -> I:
        """The context's instance, initialised. A failed initialisation is tried again by the next call."""
        try:
            slot = self._slots.get(context)
        except TypeError as cause:
            raise InvalidKey(
                f"key fields must be text, booleans or integers, not {context!r:.200}. Nothing was written."
            ) from cause
        if slot is not None and slot.ready:
            return slot.instance
        if slot is None:
            with self._lock:
                slot = self._slots.get(context)
                if slot is None:
                    slot = _Slot(self._factory(*map(plain_scalar, context)))
                    self._slots[context] = slot
        with slot.lock:
            slot.instance.wait_for_init(not slot.ready)
            slot.ready = True
        return slot.instance
