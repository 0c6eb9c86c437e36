"""Deleting a document for good, which leaves nothing but the event and the audit record of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from backtest_kit_mongo.coherence import steps
from backtest_kit_mongo.coherence.codec import pack
from backtest_kit_mongo.coherence.effects import Effect, Lease, Plan, Published, ask
from backtest_kit_mongo.coherence.plans import announce, give_up, release
from backtest_kit_mongo.coherence.record import Key, Record, Shape


@dataclass(frozen=True, slots=True)
class Delete(Effect["Record | None"]):
    """Delete one document for good. The answer is the deletion: it has the next revision, and `note` as its payload.
    None: there was none.

    Attributes:
        note: who, and why.
    """

    key: Key
    note: Mapping[str, str]
    deadline_s: float | None


@dataclass(frozen=True, slots=True)
class DeleteAll(Effect["tuple[Record | None, ...]"]):
    """Delete several documents of one domain for good. The answer has what `Delete` answers, for each of `keys`."""

    keys: tuple[Key, ...]
    note: Mapping[str, str]
    deadline_s: float | None


def one_by_one(delete: Callable[[Delete], Record | None], effect: DeleteAll) -> tuple[Record | None, ...]:
    """How a truth performs it that gains nothing by doing it in bulk."""
    return tuple(delete(Delete(key, effect.note, effect.deadline_s)) for key in effect.keys)


def deletion(record: Record, note: Mapping[str, str]) -> Record:
    """The record of a document's deletion for good: its next revision, with who did it and why."""
    return record._replace(rev=record.rev + 1, payload=dict(note), when=None, removed=True)


def delete(key: Key, note: Mapping[str, str]) -> Plan[Record | None]:
    """Delete one document for good; no later read sees it when the plan returns. None if there was none.

    A row of a list is deleted under the lease of its list, and leaves its stamp, so that whoever remembers the list
    asks anew.
    """
    place = key.scope if key.domain.shape is Shape.LIST else key
    leased = yield from ask(Lease(place))
    try:
        record = yield from ask(Delete(key, note, leased.deadline_s if leased else None))
    except BaseException as error:
        yield from give_up(place, leased, error)
        raise
    if record is None:
        yield from release(place, leased)
        return None
    # The entry that is installed says that there is none; of a list it is the stamp.
    entry = Record(place, id=leased.token) if leased and place != key else Record(place)
    published = (Published(record, "delete", pack(record.payload)),)
    yield from announce(place, leased, entry, pack(None), published)
    return record


def delete_all(keys: tuple[Key, ...], note: Mapping[str, str]) -> Plan[tuple[Record | None, ...]]:
    """The same of several documents of one domain: rows of one list, under its lease, or documents of one partition,
    whose leases are taken in one script and end in one. At each key it is what a single deletion is.
    """
    if keys[0].domain.shape is Shape.LIST:
        return (yield from _delete_rows(keys[0].scope, keys, note))
    leased = yield from ask(steps.LeaseAll(keys, 0))
    try:
        records = yield from ask(DeleteAll(keys, note, leased.deadline_s if leased else None))
    except BaseException as error:
        yield from steps.give_up({keys: leased}, error)
        raise
    nothing = pack(None)
    done = tuple(
        steps.Done(key, None if record is None else Record(key), nothing, _published((record,)))
        for key, record in zip(keys, records, strict=True)
    )
    yield from steps.announce(leased, done)
    return records


def _delete_rows(scope: Key, keys: tuple[Key, ...], note: Mapping[str, str]) -> Plan[tuple[Record | None, ...]]:
    leased = yield from ask(Lease(scope))
    try:
        records = yield from ask(DeleteAll(keys, note, leased.deadline_s if leased else None))
    except BaseException as error:
        yield from give_up(scope, leased, error)
        raise
    published = _published(records)
    if published:
        stamp = Record(scope, id=leased.token) if leased else Record(scope)
        yield from announce(scope, leased, stamp, pack(None), published)
    else:
        yield from release(scope, leased)
    return records


def _published(records: tuple[Record | None, ...]) -> tuple[Published, ...]:
    return tuple(Published(one, "delete", pack(one.payload)) for one in records if one is not None)
