"""One consumer's place in its group: the group is made, found again, or made again after Redis has lost it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from backtest_kit_mongo import locks
from backtest_kit_mongo.coherence.codec import millis
from backtest_kit_mongo.feed.consume.groups import Group, Span
from backtest_kit_mongo.feed.consume.progress import Job, Progress, State

logger = locks.logger(__name__)

CLOCKS_MS = 60_000
"""By how much the clocks of writers and Redis may differ where times are turned into places in the stream."""
ORIGIN = "0-0"

Start = Literal["new", "beginning"] | datetime


@dataclass(slots=True)
class Membership:
    """Where a group begins, and where it goes on.

    Attributes:
        start: for a group that does not exist yet.
        domains: what is wanted; None: everything.
    """

    name: str
    group: Group
    progress: Progress
    start: Start
    domains: frozenset[str] | None
    _since_ms: int | None = field(default=None, init=False)
    _reported: bool = field(default=False, init=False)

    def wants(self, domain: str, written_ms: int) -> bool:
        chosen = self.domains is None or domain in self.domains
        return chosen and (self._since_ms is None or written_ms >= self._since_ms)

    def prepare(self) -> None:
        """Make the group exist on every stream. What Redis may have lost is noted for a replay before anything else is
        done, so that a crash in between loses nothing.
        """
        state = self.progress.load()
        if state is None:
            state = self.progress.begin(self._fresh())
        elif self.start != "new" and not self._reported:
            logger.info("group %s exists and goes on where it was; start=%s is for new groups", self.name, self.start)
        self._reported = True
        self._since_ms = None if state.since is None else millis(state.since)
        if state.created:
            self._find_again(state)
            return
        for stream in self.group.streams:
            position = state.positions.get(stream, ORIGIN)
            if not self.group.create(stream, position):
                # Of another process that is just doing the same, or left by a group whose document is gone.
                self.group.move(stream, position)
        self.progress.made()

    def _fresh(self) -> State:
        reached_ms, start_ms = self.group.now_ms(), None
        since = self.start if isinstance(self.start, datetime) else None
        if self.start != "new":
            reached_ms = start_ms = 0 if since is None else millis(since) - CLOCKS_MS
        positions = {stream: self.group.position(stream, start_ms) for stream in self.group.streams}
        spans = tuple(Span(stream, ORIGIN, position) for stream, position in positions.items())
        return State(since, False, positions, reached_ms, None if self.start == "new" else Job(spans))

    def _find_again(self, state: State) -> None:
        missing = self.group.missing()
        holes = [span for span in self.group.holes() if not _covers(state.job, span.stream)]
        lost = list(self._lost(state, missing))
        if lost or holes:
            self.progress.request_replay([*lost, *holes])
        for stream in missing:
            self.group.create(stream, ORIGIN)
        for span in holes:
            self.group.move(span.stream, span.position)

    def _lost(self, state: State, missing: list[str]) -> Iterator[Span]:
        if missing:
            logger.warning("group %s is gone from %d of %d streams: Redis was flushed, or lost its last writes. It is "
            "made again; what the audit log has since then is read from there, some of it for the second time",
                           self.name, len(missing), len(self.group.streams))  # fmt: skip
        for stream in missing:
            yield Span(stream, f"{max(0, state.reached_ms - CLOCKS_MS)}-0", ORIGIN)

    def store_reached(self) -> None:
        """Store how far the group is in the stream, unless a replay is still to be done: then that says it."""
        state = self.progress.load()
        if state is not None and state.job is None:
            self.progress.reached(self.group.reached_ms())


def _covers(job: Job | None, stream: str) -> bool:
    return job is not None and any(span.stream == stream for span in job.spans)
