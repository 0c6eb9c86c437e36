"""Each write of a replay against the recorded one of the same document, process by process.

A process that was killed wrote a beginning of what it would have written. So the replay is that process as long as its
recorded writes last; the first write beyond them is where it died, and the replay goes on as the next process, from
what is stored. A write that differs, or that comes while the process still had others to make, is a divergence.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import backtest_kit_mongo as bk
from backtest_kit.moments import minute_text

__all__ = ["Differs", "Divergence", "Life", "LifeOver", "Matcher", "MinuteSkipped", "lives_of"]

RESUMED: Final = "resumed"
NOT_COMPARED: Final = frozenset({"measure", "interval", "candle", "log"})
INCIDENTAL: Final = {"order": ("sentMs", "repliedMs"), "asked": ("candles",)}
"""Of the engine's own rows: the wall clock, and what happened to be at hand because an answer was computed here."""
DIFFERENCES_MAX: Final = 8
TEXT_MAX: Final = 600
Name = tuple[str, tuple[Any, ...]]


class LifeOver(BaseException):
    """The process has made all of its recorded writes. No error of a strategy's: nothing may catch it."""


class MinuteSkipped(BaseException):
    """The recorded process left this minute out, and lived `at` next."""

    def __init__(self, at: int) -> None:
        self.at = at


class Differs(BaseException):
    """The replay decides otherwise."""

    def __init__(self, divergence: Divergence) -> None:
        self.divergence = divergence


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first write that is not the recorded one.

    Attributes:
        at: the simulated minute, ms.
        step: what the replay was doing; `recorded_step` the recorded process.
        recorded, replayed: the payloads; None also where one of them wrote nothing.
        differences: fields, a text each, recorded before replayed.
    """

    at: int
    symbol: str
    name: str
    step: str
    recorded_step: str
    recorded: Any
    replayed: Any
    why: str
    differences: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """For people; long values are cut."""
        shown = [f"  {_cut(text)}" for text in self.differences[:DIFFERENCES_MAX]]
        if len(self.differences) > DIFFERENCES_MAX:
            shown.append(f"  and {len(self.differences) - DIFFERENCES_MAX} more fields")
        return [
            f"first divergence: {self.symbol} at {minute_text(self.at)}, {self.name}: {self.why}",
            *shown,
            f"  recorded ({self.recorded_step or 'nothing'}): {_cut(repr(self.recorded))}",
            f"  replayed ({self.step or 'nothing'}): {_cut(repr(self.replayed)) if self.step else 'nothing'}",
        ]


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_MAX else f"{text[:TEXT_MAX]} .. ({len(text):,} characters; --json has all)"


@dataclass(slots=True)
class Life:
    """What one process wrote from one start or restart on.

    Attributes:
        begin: the minute of its clock when it began, ms.
        left: its writes that the replay has not made yet, in their order.
    """

    writer: str
    begin: int
    left: dict[int, bk.SessionChange] = field(default_factory=dict)


def lives_of(changes: Iterable[bk.SessionChange]) -> list[Life]:
    """Of the writes of one context, in their order: a life begins with a process, or when it reads its state anew."""
    lives: list[Life] = []
    newest: dict[str, Life] = {}
    was_resumed: dict[str, bool] = {}
    for number, change in enumerate(changes):
        if not change.step:
            continue
        resumed = change.step.endswith(f"/{RESUMED}")
        if change.writer not in newest or (resumed and not was_resumed[change.writer]):
            newest[change.writer] = Life(change.writer, change.at or 0)
            lives.append(newest[change.writer])
        was_resumed[change.writer] = resumed
        newest[change.writer].left[number] = change
    return lives


class Matcher:
    """Of one context.

    Args:
        changes: its writes, and those of others to documents that it shares with them.

    Attributes:
        store: where the replay keeps its documents.
        matched: writes that were equal.
        lost: writes that were not compared, because the log has not what they wrote.
        skipped: minutes that the recorded processes left out.
    """

    def __init__(self, symbol: str, changes: list[bk.SessionChange], writers: frozenset[str]) -> None:
        self.symbol = symbol
        self.store: bk.Rehearsal | None = None
        self.matched = self.lost = 0
        self.skipped: list[int] = []
        own = [(number, one) for number, one in enumerate(changes) if one.writer in writers or not one.step]
        self.lives = lives_of(one for _, one in own)
        places = {id(one): (life, number) for life in self.lives for number, one in life.left.items()}
        self._life_of = {id(one): places[id(one)] for one in changes if id(one) in places}
        self._queues: dict[Name, deque[bk.SessionChange]] = defaultdict(deque)
        for one in sorted(changes, key=lambda change: change.rev):
            self._queues[one.domain, one.parts].append(one)
        self._writers = writers
        self._current = 0

    @property
    def life(self) -> Life:
        return self.lives[self._current]

    def next_life(self) -> bool:
        """False: there is none."""
        self._current += 1
        return self._current < len(self.lives)

    def on_write(self, row: bk.RehearsedRow) -> None:
        """
        Raises:
            LifeOver, MinuteSkipped, Differs.
        """
        if row.domain in NOT_COMPARED:
            return
        self.on_read(row.domain, row.parts)
        queue = self._queues[row.name]
        head = queue[0] if queue else None
        place = None if head is None else self._life_of.get(id(head))
        if head is not None and (place is None or place[0] is self.life):
            self._compare(head, row)
            queue.popleft()
            if place is not None:
                del self.life.left[place[1]]
            self.matched += not head.lost
            self.lost += bool(head.lost)
            return
        if not self.life.left:
            raise LifeOver
        expected = next(iter(self.life.left.values()))
        self._require_lived(expected)
        self._require_in_time(expected)
        raise Differs(self._divergence(expected, row, "the recorded process wrote something else next"))

    def on_read(self, domain: str, parts: tuple[Any, ...]) -> None:
        """What others have written to a shared document by now."""
        queue = self._queues.get((domain, parts))
        if not queue:
            return
        upcoming = next(iter(self.life.left.values()), None)
        until = float("inf") if upcoming is None else upcoming.written_ms
        while queue and queue[0].step and queue[0].writer not in self._writers and queue[0].written_ms <= until:
            other = queue.popleft()
            if self.store is not None:
                self.store.install(bk.RehearsedRow(other.domain, other.parts, other.payload, other.when))

    def recorded(self, domain: str, parts: tuple[Any, ...]) -> Mapping[str, Any]:
        """The payload of the next recorded write of a document; empty: there is none."""
        queue = self._queues.get((domain, parts))
        payload = queue[0].payload if queue else None
        return payload if isinstance(payload, dict) else {}

    def left_over(self) -> Divergence | None:
        """What the recorded process wrote and the replay did not."""
        if self._current >= len(self.lives) or not self.life.left:
            return None
        expected = next(iter(self.life.left.values()))
        return self._divergence(expected, None, "the replay ended without it")

    def _require_lived(self, expected: bk.SessionChange) -> None:
        """A process that was late leaves minutes out while nothing is held: it has no write of them, the slot's not
        either.
        """
        cause = bk.present_cause()
        is_slot = cause is not None and cause.step.endswith("/tick")
        if is_slot and cause is not None and cause.at is not None and (expected.at or 0) > cause.at:
            self.skipped.append(cause.at)
            raise MinuteSkipped(expected.at or 0)

    def _require_in_time(self, expected: bk.SessionChange | None) -> None:
        """What the recorded process wrote in an earlier minute, and the replay did not, is where they parted."""
        cause = bk.present_cause()
        if expected is None or cause is None or cause.at is None or expected.at is None or expected.at >= cause.at:
            return
        raise Differs(self._divergence(expected, None, "the replay wrote nothing of it"))

    def _compare(self, head: bk.SessionChange, row: bk.RehearsedRow) -> None:
        if not head.lost and _decided(head.payload) != _decided(row.payload):
            self._require_in_time(next(iter(self.life.left.values()), None))
            raise Differs(self._divergence(head, row, "another value"))

    def _divergence(self, head: bk.SessionChange, row: bk.RehearsedRow | None, why: str) -> Divergence:
        cause = bk.present_cause()
        step = "" if row is None or cause is None else cause.step
        name = "/".join(map(str, (head.domain, *head.parts)))
        if row is not None and row.name != (head.domain, head.parts):
            name = f"{'/'.join(map(str, (row.domain, *row.parts)))}, recorded {name}"
        at = head.at if head.at is not None and row is None else (cause and cause.at) or head.at or 0
        payload = None if row is None else row.payload
        is_same = row is not None and row.name == (head.domain, head.parts)
        fields = head.differences(payload) if is_same else ()
        return Divergence(at, self.symbol, name, step, head.step, head.payload, payload, why, fields)


def _decided(payload: Any) -> Any:
    """What was decided, without what differs from process to process."""
    data = payload.get("data") if isinstance(payload, dict) else None
    left_out = INCIDENTAL.get(str(data.get("kind")), ()) if isinstance(data, dict) else ()
    if not left_out or not isinstance(data, dict):
        return payload
    return {**payload, "data": {name: value for name, value in data.items() if name not in left_out}}
