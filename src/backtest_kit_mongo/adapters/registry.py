"""What all registries share: one instance per context, made by whichever implementation is registered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Final, overload

from backtest_kit_mongo import inheritance, stores
from backtest_kit_mongo.adapters import verbs
from backtest_kit_mongo.adapters.contracts import PersistInstance
from backtest_kit_mongo.coherence.codec import plain_scalar
from backtest_kit_mongo.coherence.inventory import Entry, Selection
from backtest_kit_mongo.coherence.record import Domain, Part
from backtest_kit_mongo.domains.table import DOMAINS, context_names
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.errors import InvalidKey, InvalidSetting, LookAhead
from backtest_kit_mongo.locks import Lock
from backtest_kit_mongo.look_ahead import simulation_now

Factory = Callable[..., Any]
VALUES: Final = ("read_value", "has_value", "write_value")
"""What a class that keeps values by id must have, at least."""
Choice = str | Factory
"""What a registry was set to use: `json`, `memory`, `dummy`, or an implementation."""


class _Slot:
    """A context's instance, once it is made, and whether it has been initialised once without an error.

    Attributes:
        lock: held while a user's implementation is made and initialised; only who wants the same context waits for it.
    """

    __slots__ = ("factory", "instance", "lock", "ready")

    def __init__(self, factory: Factory) -> None:
        self.factory = factory
        self.instance: PersistInstance | None = None
        self.ready = False
        self.lock = Lock()

    def prepared(self, context: tuple[Any, ...]) -> PersistInstance:
        with self.lock.quietly():
            instance = self.instance
            if instance is None:
                self.instance = instance = self.factory(*map(plain_scalar, context))
            instance.wait_for_init(not self.ready)
            self.ready = True
            return instance


class Registry:
    """One domain's registry: `class PersistStateRegistry(Registry, domain=STATE)` with a signature per method
    (`verbs.py`). Thread-safe; contexts are tuples, so no two of them can collide.

    Attributes:
        domain: its row.
        calls: its methods, by name.
        builtin: the instance that ships with the package, made of a store and a context.
    """

    domain: ClassVar[Domain]
    calls: ClassVar[Mapping[str, verbs.Call]] = {}
    builtin: ClassVar[Callable[..., Any]]

    def __init_subclass__(cls, *, domain: Domain | None = None, builtin: Callable[..., Any] | None = None) -> None:
        """
        Args:
            builtin: an instance written by hand; default: one that the signatures are made into.

        Raises:
            TypeError: a signature does not fit the domain's key.
        """
        if domain is not None:
            cls.domain, cls.calls = domain, verbs.calls_of(cls, domain)
            cls.builtin = builtin or verbs.instance_class(cls, domain, cls.calls)
            verbs.serve(cls, cls.calls)

    def __init__(self) -> None:
        self._lock = Lock()
        self.use_default()

    def __repr__(self) -> str:
        return f"<{self.name}: {self.serves}>"

    def __reduce__(self) -> str:
        """The adapter's name: a copy, and what another process unpickles, is the one of that name: a strategy that
        holds an adapter travels.
        """
        return self.name

    @property
    def name(self) -> str:
        """The name that the package exports it by."""
        return type(self).__name__.replace("Registry", "Adapter")

    @property
    def serves(self) -> str:
        """What serves it now, in words."""
        if self._choice is None:
            inheritance.accept()  # Perhaps this process's parent has chosen.
        return self._says()

    def _bind(self, store: Callable[[], Store]) -> Factory:
        builtin = self.builtin
        return lambda *context: builtin(store(), *context)

    def use_adapter(self, factory: Factory) -> None:
        """Serve every context from now on by `factory(*context)`, or over the values of a class like `PersistBase`;
        instances made before are dropped.

        Call it before trading starts. `setup()` changes nothing of it.

        Raises:
            InvalidSetting: it is a class that has neither the methods of this domain nor those of `PersistBase`.
        """
        if self.keeps_values(factory):
            self._serve(lambda: stores.persist_store(factory), factory, lambda: stores.persist_name(factory))
        else:
            self._use(factory, factory, lambda: stores.name_of(factory))

    def keeps_values(self, factory: Factory) -> bool:
        """Whether it is like `PersistBase`; otherwise it makes instances of this domain.

        Raises:
            InvalidSetting: it is a class that can do neither.
        """
        if not isinstance(factory, type | stores.Wrapper):
            return False  # What a function makes is seen when it has made it.
        lacking = [name for name in self._expected() if not hasattr(factory, name)]
        if not lacking:
            return False
        if isinstance(factory, stores.Wrapper) or all(hasattr(factory, name) for name in VALUES):
            return True
        raise InvalidSetting(
            f"{self.name}: {factory.__qualname__} cannot serve it: it has no {', '.join(lacking)}. It must have "
            f"these methods, or those of bk.PersistBase ({', '.join(VALUES)}). Nothing was changed."
        )

    def _expected(self) -> list[str]:
        """What an implementation must have."""
        own = [call.name for call in self.calls.values() if call.verb.body and not call.verb.optional]
        return ["wait_for_init", *(own or [f"{verb}_candles_data" for verb in ("read", "write")])]

    def _use(
        self, factory: Factory, choice: Choice | None, says: Callable[[], str], store: Callable[[], Store] | None = None
    ) -> None:
        with self._lock:
            self._factory, self._choice, self._says, self._store = factory, choice, says, store
            self._slots: dict[tuple[Any, ...], _Slot] = {}

    def use(self, backend: Store | Factory) -> None:
        """`use_store` or `use_adapter`, whichever it is."""
        if isinstance(backend, Store):
            self.use_store(lambda: backend)
        else:
            self.use_adapter(backend)

    def _serve(self, store: Callable[[], Store], choice: Choice | None, says: Callable[[], str]) -> None:
        self._use(self._bind(store), choice, says, store)

    def use_store(self, store: Callable[[], Store]) -> None:
        """Serve every context by the built-in instance over the store that `store()` returns."""
        self._serve(store, self._bind(store), lambda: store().name)

    def use_default(self) -> None:
        """As if nothing had been chosen: MongoDB from `setup()` on, files before it."""
        self._serve(stores.default_store, None, stores.default_name)

    def use_json(self) -> None:
        """Files below ./dump, in the original's layout."""
        self._serve(stores.file_store, "json", stores.files_name)

    def use_memory(self) -> None:
        """Memory of this process."""
        self._serve(stores.memory_store, "memory", lambda: "memory of this process")

    def use_dummy(self) -> None:
        """Nothing is kept."""
        self._serve(stores.dummy_store, "dummy", lambda: "dummy: nothing is kept")

    @property
    def choice(self) -> Choice | None:
        """What it was set to use; None is the default."""
        return self._choice

    @contextmanager
    def serving(self, store: Store) -> Iterator[None]:
        """Serve every context over this store within the block, and after it as before."""
        with self._as_before():
            self.use_store(lambda: store)
            yield

    @contextmanager
    def serving_by(self, factory: Factory) -> Iterator[None]:
        """The same by an implementation."""
        with self._as_before():
            self.use_adapter(factory)
            yield

    @contextmanager
    def _as_before(self) -> Iterator[None]:
        with self._lock:
            before = self._factory, self._slots, self._choice, self._says, self._store
        try:
            yield
        finally:
            with self._lock:
                self._factory, self._slots, self._choice, self._says, self._store = before

    # ---- what there is

    @property
    def store(self) -> Store | None:
        """The store that serves it now; None if an implementation of one's own does."""
        return None if self._store is None else self._store()

    def entries(self, /, **where: Part) -> Iterator[Entry]:
        """What is stored of this domain now: every document, of candles every series.

        Args:
            where: only those with these key columns, as `symbol="BTC/USDT"`; rows of a list carry them in themselves.

        Raises:
            InvalidKey: the domain has no such column.
            InvalidSetting: an implementation of one's own serves the domain, and nobody knows what it has.
            LookAhead: a simulation time is in force, and an inventory is of now.
        """
        if simulation_now(self.name) is not None:
            raise LookAhead(f"{self.name}: an inventory is of now, but a simulation time is in force. Nothing was read")
        store = self.store
        if store is None:
            raise InvalidSetting(f"{self.name}: {self.serves} serves it, and nobody knows what that has.")
        return store.browse(self.domain, selection(self.domain, where))

    def list_contexts(self, /, **where: Part) -> list[dict[str, Any]]:
        """The contexts of which a read gives something now, each as its arguments:
        `[read_signal_data(**context) for context in list_contexts()]` are the open positions.

        Args, Raises: as `entries`.
        """
        names = [verbs.snake(name) for name in context_names(self.domain)]
        found = (one.key.parts[: len(names)] for one in self.entries(**where) if not one.is_empty)
        return [dict(zip(names, parts, strict=True)) for parts in dict.fromkeys(found)]

    def clear(self) -> None:
        """Drop all instances; the registered implementation stays. Needed after the working directory changed."""
        with self._lock:
            self._slots = {}

    def forget_after_fork(self) -> None:
        """Instances of the parent hold its sockets; the child makes its own."""
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

    def _at(self, *context: Any) -> Any:
        """The context's instance, initialised. A failed initialisation is tried again by the next call."""
        try:
            slot = self._slots.get(context)
        except TypeError as cause:
            raise InvalidKey(
                f"key fields must be text, booleans or integers, not {context!r:.200}. Nothing was written."
            ) from cause
        if slot is not None and slot.ready and slot.instance is not None:
            return slot.instance
        if slot is None:
            if self._choice is None:
                inheritance.accept()  # Perhaps this process's parent has chosen.
            with self._lock:
                slot = self._slots.get(context)
                if slot is None:
                    slot = self._slots[context] = _Slot(self._factory)
        return slot.prepared(context)


def selection(domain: Domain, where: Mapping[str, Part]) -> Selection:
    """Entries with these values of columns, which are called as parameters are, or as they are stored.

    Raises:
        InvalidKey: the domain has no such column.
    """
    stored = {verbs.snake(name): name for name in domain.columns}
    chosen = Selection(tuple((stored.get(name, camel(name)), value) for name, value in where.items()))
    known = {*domain.filters, *(column for one in DOMAINS for column in one.columns)}
    for name, value in chosen.names:
        if name not in known or not Selection(((name, value),)).concerns(domain):
            raise InvalidKey(f"{domain.name} has no {name}, only {', '.join(domain.columns)}. Nothing was read.")
    return chosen


def camel(name: str) -> str:
    """A parameter as a stored name: strategy_name is strategyName."""
    first, *others = name.split("_")
    return first + "".join(map(str.title, others))


class Registries(Sequence[Registry]):
    """The registries of the process, in the order of the domain table."""

    def __init__(self, made: Iterable[Registry]) -> None:
        self._by_domain = {registry.domain: registry for registry in made}

    @overload
    def __getitem__(self, index: int) -> Registry: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Registry]: ...
    def __getitem__(self, index: int | slice) -> Registry | Sequence[Registry]:
        return [self._by_domain[domain] for domain in DOMAINS if domain in self._by_domain][index]

    def __iter__(self) -> Iterator[Registry]:
        return iter(self[:])

    def __len__(self) -> int:
        return len(self._by_domain)

    def of(self, domain: Domain) -> Registry:
        """The registry of a domain."""
        return self._by_domain[domain]

    def add(self, registry: Registry) -> None:
        """One of a domain that was added to the table at run time."""
        self._by_domain[registry.domain] = registry
