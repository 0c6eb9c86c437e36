"""Giving a strategy another name: its documents under new keys, through the ordinary write path.

The name is a part of keys, of the fields `strategyName` in payloads, of the keys in books of risk, and of the names
that the engine gives to state, memory and dictionaries. All of these are renamed. First everything is written under the
new name, then what is under the old one is deleted for good, with who, when and why: so whoever interrupts it leaves
each document under one name at least, and it goes on when it is run again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from backtest_kit_mongo.backends.mongo.documents import MongoTruth
from backtest_kit_mongo.backends.mongo.settings import DEFAULT_DATABASE
from backtest_kit_mongo.coherence.codec import pack
from backtest_kit_mongo.coherence.effects import Find
from backtest_kit_mongo.coherence.inventory import Selection, is_nothing, path_in_payload
from backtest_kit_mongo.coherence.record import Change, Domain, Key, OnConflict, Record, Shape
from backtest_kit_mongo.domains.checks import make_change, make_key
from backtest_kit_mongo.domains.table import DOMAINS, RISK, RUN
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.errors import CorruptData, InvalidKey, InvalidPayload
from backtest_kit_mongo.operate.deletion import SIGNAL, delete, note
from backtest_kit_mongo.stored import ENGINE_LEASES

__all__ = ["Renaming", "plan_renaming", "rename"]

STRATEGY: Final = "strategyName"
MODES: Final = frozenset({"backtest", "paper", "live"})
THREADS: Final = 8


class Move(NamedTuple):
    """A document: under which key it is, and what is to be written."""

    old: Key
    change: Change

    @property
    def stays(self) -> bool:
        """Under its key, with another payload."""
        return self.old == self.change.key


@dataclass(slots=True)
class Renaming:
    """What a strategy's new name touches.

    Attributes:
        moves: documents.
        taken: keys under the new name that hold another value: nothing can be renamed.
        left: what keeps the old name, and why.
    """

    moves: list[Move] = field(default_factory=list)
    taken: list[Key] = field(default_factory=list)
    left: list[tuple[Key, str]] = field(default_factory=list)


def plan_renaming(store: Store, old: str, new: str) -> Renaming:
    """Find out what is to be done; nothing is written.

    Raises:
        InvalidKey: a process runs the strategy, or the names are one.
        EnvironmentFault: it cannot be found out now.
    """
    if old == new or not new:
        raise InvalidKey(f"{old!r} and {new!r}: give two names. Nothing was renamed.")
    store.open()
    _require_stopped(store, old, new)
    plan = Renaming()
    for domain in DOMAINS:
        for key in _concerned(store, domain, old):
            _plan_one(store, plan, key, old, new)
    return plan


def rename(store: Store, plan: Renaming, old: str, new: str, why: str, on_done: Callable[[], object]) -> None:
    """Carry it out.

    Args:
        on_done: told of each document that is written, and of each that is deleted.

    Raises:
        InvalidKey: a key under the new name holds another value. Nothing was renamed.
        Conflict, EnvironmentFault: some documents are renamed, the others are whole: run it again.
    """
    if plan.taken:
        shown = ", ".join(map(str, plan.taken[:3]))
        raise InvalidKey(f"{new!r} has documents of its own ({shown}). Nothing was renamed.")
    rows = [move.change for move in plan.moves if move.change.key.domain.shape is Shape.LIST]
    singles = [move for move in plan.moves if move.change.key.domain.shape is not Shape.LIST]
    for scope, changes in groupby(sorted(rows, key=_scope_text), key=lambda change: change.key.scope):
        page = list(changes)
        store.merge(scope, page)
        for _ in page:
            on_done()
    with ThreadPoolExecutor(THREADS, thread_name_prefix="bkm-rename") as pool:
        for _ in pool.map(lambda move: _write(store, move), singles):
            on_done()
    gone = [move.old for move in singles if not move.stays]
    delete(store, gone, note(f"{old} renamed to {new}" + (f": {why}" if why else "")), lambda key: on_done())


def _scope_text(change: Change) -> str:
    return str(change.key.scope)


def _write(store: Store, move: Move) -> None:
    key = move.change.key
    if move.stays:
        store.write_alone(move.change)
        return
    there = store.truth.find(Find(key))
    if not (there.exists and _is_same(there, move.change)):
        store.write_alone(move.change, there.rev)  # Whoever has written it since the plan is not written over.


def _require_stopped(store: Store, *names: str) -> None:
    truth = store.truth
    if not isinstance(truth, MongoTruth):
        return
    for name in names:
        escaped = name.replace("%", "%25").replace("/", "%2F")
        held = {"$expr": {"$and": [{"$gt": ["$until", "$$NOW"]}, {"$ne": ["$holder", ""]}]}}
        leases = truth.client.get_default_database(DEFAULT_DATABASE)[ENGINE_LEASES]
        for lease in leases.find({"_id": {"$regex": "^context/"}, **held}):
            if str(lease["_id"]).rpartition("/")[2] == escaped:
                raise InvalidKey(
                    f"{lease['_id']} runs in {str(lease.get('holder')).partition('/')[0]}: stop the strategy first. "
                    "Nothing was renamed."
                )


def _concerned(store: Store, domain: Domain, old: str) -> Iterator[Key]:
    """Keys of documents that have the name where it can be looked for."""
    if domain.shape is Shape.SERIES:
        return
    if STRATEGY in domain.columns or path_in_payload(domain, STRATEGY):
        yield from (entry.key for entry in store.browse(domain, Selection(((STRATEGY, old),))))
    elif domain in (RISK, RUN) or SIGNAL in domain.columns:
        yield from (entry.key for entry in store.browse(domain))


def _plan_one(store: Store, plan: Renaming, key: Key, old: str, new: str) -> None:
    domain = key.domain
    target = make_key(domain, tuple(_part(name, part, old, new) for name, part in key.query().items()))
    if target == key and domain not in (RISK, RUN) and domain.shape is not Shape.LIST:
        return  # A signal's own, whose name is not the strategy's.
    try:
        record = store.truth.find(Find(key))
        payload = _under_new_name(domain, record.payload, old, new)
        is_as_before = target == key and pack(payload) == pack(record.payload)
        if why := _why_left(domain, payload, old, is_as_before=is_as_before):
            plan.left.append((key, why))
        if why or is_as_before:
            return
        change = make_change(target, payload, record.when)
        if target != key and _is_another(store.truth.find(Find(target)), change):
            plan.taken.append(target)
    except (CorruptData, InvalidPayload, InvalidKey, TypeError, LookupError) as cause:
        plan.left.append((key, f"it is not what this package stores, and cannot be renamed: {cause}"))
        return
    if _mentions(payload, old):
        plan.left.append((target, "its payload says the old name elsewhere"))
    plan.moves.append(Move(key, change))


def _under_new_name(domain: Domain, payload: Any, old: str, new: str) -> Any:
    renamed = _renamed(payload, old, new)
    return [[_holder(row, old, new), *row[1:]] for row in renamed] if domain is RISK and renamed else renamed


def _why_left(domain: Domain, payload: Any, old: str, *, is_as_before: bool) -> str:
    if domain is RUN:
        is_its = not is_as_before or _mentions(payload, old)
        return "a run is known by what it was made of, its strategy's name too" if is_its else ""
    return "of such a row the first write stays" if domain.on_conflict is OnConflict.KEEP and not is_as_before else ""


def _is_another(there: Record, change: Change) -> bool:
    """Whether a document under the new name holds another value."""
    return there.exists and not there.removed and not is_nothing(there.payload) and not _is_same(there, change)


def _part(name: str, part: Any, old: str, new: str) -> Any:
    """A part of a key, renamed if it is the strategy's name, or the engine's name of one of its contexts."""
    if name == STRATEGY and part == old:
        return new
    if name == SIGNAL:
        names = str(part).split(":")
        # symbol:strategy:exchange, perhaps a frame, and the mode (`Context._place` of the engine).
        if len(names) > 3 and names[1] == _escaped(old) and MODES & set(names[3:]):
            return ":".join([names[0], _escaped(new), *names[2:]])
    return part


def _escaped(name: str) -> str:
    return name.replace("%", "%25").replace(":", quote(":"))


def _renamed(value: Any, old: str, new: str) -> Any:
    """A payload in which each field of the strategy's name has the new one."""
    if isinstance(value, Mapping):
        return {
            name: new if name == STRATEGY and held == old else _renamed(held, old, new) for name, held in value.items()
        }
    return [_renamed(held, old, new) for held in value] if isinstance(value, list | tuple) else value


def _holder(row: Any, old: str, new: str) -> Any:
    """The key of a position in a book of risk, which begins with the strategy's name."""
    text = row[0]
    is_its = len(row) > 1 and isinstance(row[1], Mapping) and row[1].get(STRATEGY) == new
    return new + text.removeprefix(old) if is_its and str(text).startswith(f"{old}_") else text


def _mentions(value: Any, old: str) -> bool:
    if isinstance(value, Mapping):
        return any(old == name or _mentions(held, old) for name, held in value.items())
    if isinstance(value, list | tuple):
        return any(_mentions(held, old) for held in value)
    return isinstance(value, str) and value == old


def _is_same(there: Record, change: Change) -> bool:
    return there.removed == change.removed and pack(there.payload) == change.body and there.when == change.when
