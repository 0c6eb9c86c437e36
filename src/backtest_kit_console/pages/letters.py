"""Dead letters: what no role could apply, why, and what replaying would do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from backtest_kit_console import words
from backtest_kit_mongo.audit.keytext import format_key
from backtest_kit_mongo.coherence.events import UnknownEvent
from backtest_kit_mongo.domains.table import BY_NAME
from backtest_kit_mongo.errors import CallerError
from backtest_kit_mongo.feed.dead_letters import DeadLetter, DeadLetters, count_open

from .asking import Answer, Asked

__all__ = ["show", "show_one"]

SHOWN_MAX: Final = 100
BYTES_MAX: Final = 2_048
"""Of a field that is shown as bytes."""


class Letter(NamedTuple):
    """A dead letter.

    Attributes:
        change: the change's identity; empty if this version cannot read it.
        key: the key of its document, for a link to its timeline; empty if it has none.
        refused: why it cannot be replayed; empty if it can.
    """

    item: DeadLetter
    change: str
    key: str
    refused: str


def show(asked: Asked) -> Answer:
    parked, role = asked.sources.feed.parked, asked.exact("role")
    counts = count_open(asked.sources.database)
    values = {
        "letters": [_letter(parked, item) for item in parked.list(role or None, SHOWN_MAX)],
        "counts": counts,
        "total": sum(counts.values()),
        "role": role,
        "shown_max": SHOWN_MAX,
        "done": asked.text("done"),
    }
    return Answer("letters.html", values)


def show_one(asked: Asked) -> Answer:
    parked = asked.sources.feed.parked
    item = parked.find(asked.exact("id"))
    values = {
        "letter": _letter(parked, item),
        "event": _event(item),
        "fields": {name.decode("utf-8", "replace"): _bytes(value) for name, value in item.fields.items()},
        "form_value": asked.form_value,
    }
    return Answer("letter.html", values)


def _letter(parked: DeadLetters, item: DeadLetter) -> Letter:
    event, refused = item.event, ""
    try:
        parked.require_replayable(item)
    except CallerError as cause:
        refused = str(cause)
    has_key = event is not None and event.domain in BY_NAME
    key = format_key(event.domain, event.key) if event is not None and has_key else ""
    return Letter(item, event.id if event is not None else "", key, refused)


def _event(item: DeadLetter) -> Mapping[str, Any] | None:
    event = item.event
    if event is None:
        return None
    try:
        payload = words.json_text(event.payload, indent=2)
    except UnknownEvent as cause:
        payload = str(cause)
    return {"event": event, "payload": payload}


def _bytes(value: bytes) -> str:
    left = f" ... ({len(value):,} bytes)" if len(value) > BYTES_MAX else ""
    return value[:BYTES_MAX].hex(" ", 2) + left
