"""What a revision held, from what is left of it. Nothing is ever made up: what is not known raises `Unrecoverable`."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, NamedTuple

from backtest_kit_mongo.backends.mongo.layout import payload_field
from backtest_kit_mongo.coherence.codec import pack, unpack
from backtest_kit_mongo.coherence.record import Domain
from backtest_kit_mongo.coherence.restoring import restoration, restore
from backtest_kit_worker.recovery.changes import LoggedChange, decode, deletion_of, is_complete


class Unrecoverable(Exception):
    """The payload of a revision is lost; the text says why."""


class State(NamedTuple):
    """What a document held: plain data, and the simulation time in ms."""

    payload: Any
    when: int | None


def rebuild(change: LoggedChange, before: State | None) -> State:
    """The state that a change left.

    Args:
        before: the state that it met, if that is known.

    Raises:
        Unrecoverable: neither the change nor the document nor the state before tells it all.
    """
    if (note := deletion_of(change)) is not None:
        return State(note, None)
    if change.whole:
        return _of_document(change.domain, decode(change.body))
    fields = decode(change.body)
    if change.intact and is_complete(change.domain, fields):
        return _of_document(change.domain, fields)
    if change.found:
        return _of_document(change.domain, decode(change.found))
    if not change.intact:
        raise Unrecoverable("the change removed or cut fields, and the document has changed since")
    if before is None:
        raise Unrecoverable("MongoDB's log tells only some fields, and the state before them is not known")
    return _applied(change.domain, fields, before)


def _of_document(domain: Domain, document: Mapping[str, Any]) -> State:
    columns = {name: document.get(name) for name in domain.fields}
    stored = columns if domain.fields else document.get(payload_field(domain))
    return State(plain(domain, stored), moment(document.get("when")))


def moment(value: Any) -> int | None:
    """A stored simulation time.

    Raises:
        Unrecoverable: it is none.
    """
    if value is None:
        return None
    # Foreign writers store doubles.
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63:
        return int(value)
    raise Unrecoverable(f"the document's time `when` is {value!r:.50}, which is none")


def plain(domain: Domain, payload: Any) -> Any:
    """A stored payload as the writer's plain data, so that packing it gives the writer's bytes.

    Raises:
        Unrecoverable: a foreign writer stored what this package never does.
    """
    try:
        return restore(unpack(pack(payload)), restoration(domain.model, "integer"))
    except Exception as cause:
        # Not only what packing is known to refuse: whatever a foreign writer stored costs its own record, nobody
        # else's.
        raise Unrecoverable(f"the document holds what this package never stores: {cause!r:.300}") from cause


def _applied(domain: Domain, fields: Mapping[str, Any], before: State) -> State:
    payload = fields[payload_field(domain)] if payload_field(domain) in fields else deepcopy(before.payload)
    for path, value in fields.items():
        column, _, inner = path.partition(".")
        if column == payload_field(domain) and inner:
            _set(payload, inner.split("."), value)
    return State(plain(domain, payload), moment(fields.get("when", before.when)))


def _set(payload: Any, path: list[str], value: Any) -> None:
    for name in path[:-1]:
        payload = payload.get(name) if isinstance(payload, dict) else None
    if not isinstance(payload, dict):
        raise Unrecoverable(f"the change set {'.'.join(path)!r} inside a list or where nothing was")
    payload[path[-1]] = value
