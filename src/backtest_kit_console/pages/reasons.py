"""Why a signal was opened and closed, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from backtest_kit_console import words
from backtest_kit_mongo.audit.tracing import Mark, Trace

__all__ = ["Reason", "reasons"]


class Reason(NamedTuple):
    """Attributes:
    what: in a word.
    at: simulated time, ms; None: unknown.
    """

    what: str
    at: float | None
    said: str


def reasons(found: Trace) -> list[Reason]:
    """What led to the end, the opening and the proposal, the end first: it is what people ask about."""
    return [*_of_end(found), *reversed(list(_of_opening(found)))]


def _of_end(found: Trace) -> Iterator[Reason]:
    row, price = found.row, words.price(found.row.get("currentPrice"))
    if found.status == "closed":
        minutes = row.get("minuteEstimatedTime")
        said = {
            "take_profit": f"The price reached its target {price}{_moved(found, 'take')}.",
            "stop_loss": f"The price reached its stop {price}{_moved(found, 'stop')}.",
            "time_expired": f"Its {words.number(minutes)} minutes were over; the price was {price}.",
            "closed": f"The strategy closed it at {price}.",
        }
        reason = str(row.get("closeReason") or "unknown")
        told = said.get(reason, f"{reason.replace('_', ' ')}, at {price}.")
        yield Reason("Closed", words.millis_of(row.get("closeTimestamp")), _sentences(told, _order(found, "close")))
    elif found.status == "cancelled":
        yield Reason("Cancelled", words.millis_of(row.get("updatedAt")), "The order that waited was given up.")


def _of_opening(found: Trace) -> Iterator[Reason]:
    asked = next((step for step in found.walk() if step.detail.get("kind") == "asked"), None)
    opened = words.millis_of(found.row.get("pendingAt"))
    if asked is None:
        return
    proposal = asked.detail.get("proposal")
    proposal = proposal if isinstance(proposal, Mapping) else {}
    side = str(proposal.get("position") or found.row.get("position") or "a position")
    told = f"The strategy was asked at price {words.price(asked.detail.get('price'))} and proposed {side}"
    if note := proposal.get("note") or found.row.get("note"):
        told += f": “{words.cut(note, 300)}”"
    reads = [change.record for change in asked.changes if change.is_read]
    read = [f"It had read {one.key[0]} = {words.cut(_data(one.payload), 200)}." for one in reads[:3] if one.key]
    yield Reason("Proposed", asked.at, _sentences(f"{told}.", *read))
    if opened is not None:
        price = words.price(found.row.get("originalPriceOpen", found.row.get("priceOpen")))
        yield Reason("Opened", opened, _sentences(f"Entry at {price}.", _order(found, "open")))


def _data(payload: Any) -> Any:
    """What was stored, without what stands around it."""
    return payload["data"] if isinstance(payload, Mapping) and "data" in payload else payload


def _moved(found: Trace, kind: str) -> str:
    """How a level came to where it was, if it was moved."""
    marks: list[Mark] = [mark for mark in found.marks if mark.kind == kind]
    if len(marks) < 2:
        return ""
    times = "once" if len(marks) == 2 else f"{len(marks) - 1} times"
    return f", which was moved {times} from {words.price(marks[0].price)}, last at {words.iso(marks[-1].at)[11:16]}"


def _order(found: Trace, action: str) -> str:
    """What became of the last order of its kind."""
    orders = [step.detail for step in found.walk() if step.detail.get("kind") == "order"]
    last = next((one for one in reversed(orders) if one.get("action") == action), None)
    if last is None:
        return ""
    is_done, replies = last.get("isDone"), last.get("replies")
    done = "was done" if is_done is True else "was refused" if is_done is False else "has no answer"
    reply = replies[-1] if isinstance(replies, list) and replies else None
    filled = words.price(reply.get("average") if isinstance(reply, Mapping) else None)
    return f"The order to {last.get('side')} {done}" + (f", filled at {filled}." if filled != "-" else ".")


def _sentences(*told: str) -> str:
    return " ".join(one for one in told if one)
