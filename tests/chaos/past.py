"""Histories written by hand. Times are milliseconds; a span is (began, ended)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from backtest_kit_verify.chaos.checks import Evidence, Story, Violation, check_history, stories
from backtest_kit_verify.chaos.feed_checks import FeedVerdict, check_feed
from backtest_kit_verify.chaos.history import Flush, History, Operation, RedisKill, Reunion, Revision, Value
from backtest_kit_verify.chaos.journal import CallKind, Outcome

KEY = "state/a/b"
LIST = "storage/True"
ROW = f"{LIST}/row"
END_MS = 1_000_000
Span = tuple[float, float | None]


def ns(ms: float) -> int:
    return int(ms * 1e6)


@dataclass
class Past:
    """What happened; what MongoDB and Redis hold at the end follows from it unless a test says otherwise."""

    history: History = field(default_factory=History)
    stored: list[Operation] = field(default_factory=list)
    cached: list[Operation] = field(default_factory=list)
    events: dict[Revision, int] = field(default_factory=dict)

    def _add(self, process: str, kind: CallKind, span: Span, **more: Any) -> Operation:
        began, ended = span
        key = more.pop("key", KEY)
        guard = LIST if key.startswith(LIST) else key
        outcome = more.pop("outcome", Outcome.DONE if ended is not None else Outcome.PENDING)
        ended_ns = None if ended is None else ns(ended)
        op = Operation(process, len(self.history.operations), kind, key, guard, ns(began), ended_ns, outcome, **more)
        self.history.operations.append(op)
        return op

    def read(self, process: str, rev: int, mark: str | None, span: Span, **more: Any) -> Operation:
        more.setdefault("kind", CallKind.READ)
        return self._add(process, more.pop("kind"), span, rev=rev, value=Value(mark), **more)

    def write(self, process: str, rev: int | None, mark: str, span: Span, **more: Any) -> Operation:
        """A write that returned, with its event. Leases and outcome are decided right after its begin."""
        more.setdefault("decided_ns", ns(span[0]) + 1)
        more.setdefault("kind", CallKind.WRITE)
        value = Value(mark) if rev is not None else None
        op = self._add(process, more.pop("kind"), span, rev=rev, wanted=mark, value=value, **more)
        if rev is not None:
            self.events[Revision(op.key, rev)] = 1
        return op

    def bypass(self, process: str, rev: int | None, mark: str, span: Span, **more: Any) -> Operation:
        return self.write(process, rev, mark, span, is_bypass=True, is_deferred=rev is not None, **more)

    def reunion(self, process: str, at: float, *changes: Revision) -> None:
        self.history.reunions.append(Reunion(process, ns(at), frozenset(changes)))

    def killed(self, process: str, at: float) -> None:
        self.history.killed_ns[process] = ns(at)

    def redis_killed(self, kept: float, gone: float) -> None:
        self.history.redis_kills.append(RedisKill(ns(kept), ns(gone)))

    def flushed(self, span: tuple[float, float], *changes: Revision) -> None:
        self.history.flushes.append(Flush(ns(span[0]), ns(span[1]), frozenset(changes)))

    def store(self, rev: int, mark: str, key: str = KEY) -> None:
        """What MongoDB has at the end."""
        self.stored.append(_seen("mongod", CallKind.STORED, key, END_MS, rev, mark))

    def cache(self, rev: int, mark: str, key: str = KEY) -> None:
        self.cached.append(_seen("redis-server", CallKind.CACHED, key, END_MS + 1, rev, mark))

    # -- verdicts

    def _evidence(self) -> Evidence:
        stored = self.stored or list(self._newest())
        return Evidence(stored, self.cached, self.events, {})

    def _newest(self) -> Sequence[Operation]:
        """MongoDB has the newest revision that anybody got."""
        newest: dict[str, Operation] = {}
        for op in self.history.operations:
            if (
                op.is_observation
                and op.value is not None
                and (op.rev or 0) > (newest[op.key].rev or 0 if op.key in newest else 0)
            ):
                newest[op.key] = op
        return [
            _seen("mongod", CallKind.STORED, key, END_MS, op.rev or 0, op.value.mark or "")
            for key, op in newest.items()
            if op.value
        ]

    def stories(self) -> list[Story]:
        return stories(self.history, self._evidence())

    def check(self) -> list[Violation]:
        return check_history(self.stories())

    def kinds(self) -> set[str]:
        """The kinds of violations."""
        return {violation.kind for violation in self.check()}

    def feed(self) -> FeedVerdict:
        return check_feed(self.history, self._evidence(), self.stories())


def _seen(process: str, kind: CallKind, key: str, at: float, rev: int, mark: str) -> Operation:
    return Operation(process, 0, kind, key, key, ns(at), ns(at), Outcome.DONE, rev=rev, value=Value(mark))
