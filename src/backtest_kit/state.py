"""All there is of one context, explicit, and its stored form.

The strategy row carries the whole state below `engine`: one row, replaced at once, is what a restart begins with. The
rows of the signal, schedule, partial and breakeven domains are written after it, for readers; they are what a restart
begins with when the original wrote them (then the strategy row has no `engine`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from backtest_kit.held import Held
from backtest_kit.identity import MINUTE_MS, ContextId
from backtest_kit.rows import Row, held_from, proposal_from, proposal_row, signal_row
from backtest_kit.rules import Rules
from backtest_kit.signals import Proposal

VERSION: Final = 1


class Commit(NamedTuple):
    """An operation of a callback, not reported yet and, if it is an order, not executed yet.

    Attributes:
        price: that it was judged by.
        at: ms.
        cost: of an order (partial-profit, partial-loss, average-buy); 0: none.
        number: of the signal's commits and orders.
    """

    kind: str
    amount: float | None
    price: float
    at: int
    cost: float = 0.0
    number: int = 0


@dataclass(slots=True)
class State:
    """Attributes:
    signal: the open position.
    schedule: the signal that waits for its price. Never both.
    accepted: a signal that is about to be opened (`is_opening`) or scheduled; the minute that accepted it goes on
        with it, also after a restart.
    served_slot: the newest interval slot in which the strategy was asked, -1 if it may be asked at once.
    last_id: of the newest opened signal: it is not opened again.
    created: queued by the strategy for when the context is idle.
    closing, cancelling, activating: asked for in a callback, done in the next step.
    note: of that.
    as_of: the newest minute (ms) that is wholly part of this state; a restart lives the ones after it.
    is_changed: something happened that the stored rows do not tell yet.
    """

    context: ContextId
    signal: Held | None = None
    schedule: Held | None = None
    accepted: Held | None = None
    is_opening: bool = False
    served_slot: int = -1
    last_id: str | None = None
    created: Proposal | None = None
    closing: bool = False
    cancelling: bool = False
    activating: bool = False
    is_paused: bool = False
    note: str = ""
    commits: list[Commit] = field(default_factory=list)
    as_of: int = 0
    is_changed: bool = field(default=False, compare=False)

    @property
    def held(self) -> Held | None:
        return self.signal or self.schedule

    @property
    def is_busy(self) -> bool:
        """Whether the minutes since `as_of` have to be lived after a restart."""
        return self.held is not None or self.accepted is not None

    def next_minute(self, now_ms: int) -> int:
        """The minute (ms) that a driver tells first: the one after `as_of` while a signal is held, else the present
        one.

        It can be the one after the present minute, when that was lived to its end.
        """
        after = self.as_of + MINUTE_MS
        return after if self.is_busy else max(after, now_ms)

    def to_rows(self) -> dict[str, Row | None]:
        """The rows of the strategy, signal and schedule domains."""
        signal = signal_row(self.signal, self.context) if self.signal else None
        schedule = signal_row(self.schedule, self.context) if self.schedule else None
        return {"strategy": self._strategy_row(signal, schedule), "signal": signal, "schedule": schedule}

    def _strategy_row(self, signal: Row | None, schedule: Row | None) -> Row:
        accepted = signal_row(self.accepted, self.context) if self.accepted else None
        return {
            "pendingSignalId": self.signal.id if self.signal else None,
            "lastPendingId": self.last_id,
            "createdSignal": proposal_row(self.created) if self.created else None,
            "commitQueue": [],
            "closedSignal": {**signal, "closeNote": self.note} if self.closing and signal else None,
            "cancelledSignal": {**schedule, "cancelNote": self.note} if self.cancelling and schedule else None,
            "activatedSignal": {**schedule, "activateNote": self.note} if self.activating and schedule else None,
            "takeProfitSignal": None,
            "stopLossSignal": None,
            "retryOpenSignal": accepted if self.is_opening else None,
            "retryOpenCount": int(self.is_opening),
            "retryCloseCount": 0,
            "isPaused": self.is_paused,
            "engine": {
                "version": VERSION,
                "asOf": self.as_of,
                "servedSlot": self.served_slot,
                "signal": _whole(self.signal, signal),
                "schedule": _whole(self.schedule, schedule),
                "accepted": _whole(self.accepted, accepted),
                "commits": [list(commit) for commit in self.commits],
            },
        }

    @classmethod
    def from_rows(cls, context: ContextId, rows: Mapping[str, Any], rules: Rules) -> State:
        """Begin with what is stored: rows of strategy, signal, schedule, partial and breakeven, absent if None.

        partial and breakeven are those of the signal's id; they count if the original wrote the rows.
        """
        strategy = rows.get("strategy") or {}
        state = cls(context)
        state.last_id = strategy.get("lastPendingId")
        state.is_paused = bool(strategy.get("isPaused"))
        state.is_opening = bool(strategy.get("retryOpenSignal"))
        if created := strategy.get("createdSignal"):
            state.created = proposal_from(created)
        for name in ("closed", "cancelled", "activated"):
            if row := strategy.get(f"{name}Signal"):
                setattr(state, {"closed": "closing", "cancelled": "cancelling", "activated": "activating"}[name], True)
                state.note = row.get({"closed": "closeNote", "cancelled": "cancelNote"}.get(name, "activateNote")) or ""
        engine = strategy.get("engine")
        if engine is None:
            state._take_foreign(rows, strategy, rules)
        else:
            state._take_own(engine, rules)
        return state

    def _take_own(self, engine: Mapping[str, Any], rules: Rules) -> None:
        if engine["version"] > VERSION:
            raise ValueError(f"the state of {self.context} was written by a newer version ({engine['version']})")
        self.as_of, self.served_slot = int(engine["asOf"]), int(engine["servedSlot"])
        self.signal = _from_whole(engine["signal"], rules)
        self.schedule = _from_whole(engine["schedule"], rules)
        self.accepted = _from_whole(engine["accepted"], rules)
        self.commits = [Commit(*commit) for commit in engine["commits"]]

    def _take_foreign(self, rows: Mapping[str, Any], strategy: Mapping[str, Any], rules: Rules) -> None:
        if row := rows.get("signal"):
            self.signal = held_from(row, rules)
            reported = (rows.get("partial") or {}).get(self.signal.id, {})
            self.signal.profit_levels = set(reported.get("profitLevels", ()))
            self.signal.loss_levels = set(reported.get("lossLevels", ()))
            self.signal.has_broken_even = bool((rows.get("breakeven") or {}).get(self.signal.id, {}).get("reached"))
        elif row := rows.get("schedule"):
            self.schedule = held_from(row, rules)
        elif row := strategy.get("retryOpenSignal"):
            self.accepted = held_from(row, rules)
        held = self.held or self.accepted
        self.as_of = max((moment for moment in _moments(held)), default=0) if held else 0


def level_rows(held: Held | None, signal_id: str) -> dict[str, Row]:
    """The rows of the partial and breakeven domains of a signal; empty ones when it is not open any more."""
    if held is None:
        return {"partial": {}, "breakeven": {}}
    levels = {"profitLevels": sorted(held.profit_levels), "lossLevels": sorted(held.loss_levels)}
    return {"partial": {signal_id: levels}, "breakeven": {signal_id: {"reached": held.has_broken_even}}}


def _whole(held: Held | None, row: Row | None) -> Row | None:
    if held is None or row is None:
        return None
    return {
        **row,
        "profitLevels": sorted(held.profit_levels),
        "lossLevels": sorted(held.loss_levels),
        "hasBrokenEven": held.has_broken_even,
        "orderCount": held.order_count,
    }


def _from_whole(row: Mapping[str, Any] | None, rules: Rules) -> Held | None:
    if row is None:
        return None
    held = held_from(row, rules)
    held.profit_levels, held.loss_levels = set(row["profitLevels"]), set(row["lossLevels"])
    held.has_broken_even, held.order_count = row["hasBrokenEven"], int(row["orderCount"])
    return held


def _moments(held: Held) -> Iterable[int]:
    """When something is known to have happened to a signal (ms)."""
    yield held.pending_at or held.scheduled_at
    yield held.peak.at
    yield held.fall.at
    yield from (entry.at for entry in held.entries)
    yield from (partial.at for partial in held.partials)
