"""One group's replay of the audit log: which records are due, which have been acknowledged, who reads them.

Only one process of a group replays at a time, and the others wait until it has read everything, so the stream is not
consumed (and not trimmed) meanwhile: a record whose entry is still in the stream will come from there, and one whose
entry is not will not.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from backtest_kit_mongo.errors import EnvironmentFault
from backtest_kit_mongo.feed.consume.audit_log import AuditLog, Record, position
from backtest_kit_mongo.feed.consume.groups import Group, order
from backtest_kit_mongo.feed.consume.progress import Job, Progress
from backtest_kit_mongo.feed.scripts import BYTES_MAX

SAVE_S = 1.0
"""How often progress is stored; what was acknowledged since comes again after a crash."""
NEVER_S = float("-inf")


@dataclass(slots=True)
class _Open:
    """A record that was read. `taken_s` is when it was last given to the feed (monotonic)."""

    record: Record
    taken_s: float
    acknowledged: bool


class Replay:
    """The feed's other source. Not thread-safe; its caller holds a lock."""

    def __init__(self, progress: Progress, log: AuditLog, group: Group, lease_ms: int) -> None:
        self._progress = progress
        self._log = log
        self._group = group
        self._lease_ms = lease_ms
        self._adopt(None, None)

    def _adopt(self, job: Job | None, since: datetime | None) -> None:
        """Start from what is stored, as a process does that knows nothing else."""
        self._job = job
        self._since = since
        self._records: Iterator[tuple[Record, int]] | None = None
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._after = self._seen = None if job is None else job.after
        self._held_s = self._saved_s = NEVER_S
        self._read_all = False
        self._changed = False

    def load(self) -> None:
        """Learn from MongoDB what is to be replayed."""
        state = self._progress.load()
        self._adopt(None if state is None else state.job, None if state is None else state.since)

    @property
    def is_due(self) -> bool:
        """Whether records are still to be read, here or elsewhere, before the stream is."""
        return self._job is not None and not self._read_all

    @property
    def is_held(self) -> bool:
        """Whether this process is the one that replays."""
        return self._held_s != NEVER_S

    def take(self, count: int) -> list[Record] | None:
        """The next records that the stream does not hold; None while another process replays.

        An empty list is not the end: that is when `is_due` is false.
        """
        if not (self.keep() if self.is_held else self._gain()) or self._job is None:
            return None
        if self._job.left is not None:
            # Everything was read by a process that has ended; these it did not acknowledge.
            page = due = self._log.by_id(self._job.left)
            self._read_all = True
        else:
            try:
                page, is_end = self._page(count)
                due = self._due(page)
            except BaseException:
                self._records = None  # What was read here and not noted is read again.
                raise
            self._read_all = is_end
        self._note(page, due)
        self._changed = True
        return due

    def _page(self, count: int) -> tuple[list[Record], bool]:
        """The next records, at most so many and about `BYTES_MAX`; and whether there are no more."""
        page: list[Record] = []
        left = BYTES_MAX
        for record, size in self._stored():
            page.append(record)
            left -= size
            if len(page) == count or left <= 0:
                return page, False
        return page, True

    def _stored(self) -> Iterator[tuple[Record, int]]:
        if self._records is None:
            assert self._job is not None
            self._records = self._log.records(Job(self._job.spans, self._seen), self._since)
        return self._records

    def _gain(self) -> bool:
        gained = self._progress.hold(self._lease_ms)
        self.load()
        if gained:
            self._held_s = time.monotonic()
        elif self._job is not None and self._job.left is not None:
            self._read_all = True  # By another process; what is left is its business, and the stream is everybody's.
        return gained

    def keep(self) -> bool:
        """Go on being the one that replays; False if another process was quicker, or if nobody here ever was."""
        if self.is_held and time.monotonic() - self._held_s >= self._lease_ms / 3000:
            if self._progress.hold(self._lease_ms):
                self._held_s = time.monotonic()
            else:
                self.load()
        return self.is_held

    def _due(self, page: Iterable[Record]) -> list[Record]:
        """The records that the stream will not deliver, of the streams that are concerned."""
        assert self._job is not None
        spans = {span.stream: span for span in self._job.spans}
        asked: dict[str, tuple[str, str]] = {}
        due: list[Record] = []
        for record in page:
            stream, entry = self._log.stream(record), record.get("entry")
            span = spans.get(stream)
            if span is None or (entry and order(entry) <= order(span.lower)):
                continue
            due.append(record)
            if entry and order(entry) > order(span.position):
                asked[record["_id"]] = (stream, entry)
        held = self._group.holds(list(asked.values())) if asked else set()
        return [record for record in due if asked.get(record["_id"]) not in held]

    def _note(self, page: Iterable[Record], due: Iterable[Record]) -> None:
        wanted = {record["_id"] for record in due}
        now_s = time.monotonic()
        for record in page:
            self._seen = position(record)
            # What is not due counts as acknowledged; the position moves over it.
            self._open[record["_id"]] = _Open(record, now_s, record["_id"] not in wanted)
        self._advance()

    def _advance(self) -> None:
        while self._open:
            record_id, first = next(iter(self._open.items()))
            if not first.acknowledged:
                return
            self._after = position(first.record)
            del self._open[record_id]

    def acknowledge(self, record_id: str) -> None:
        held = self._open.get(record_id)
        if held is not None:
            held.acknowledged = self._changed = True
            self._advance()

    def overdue(self, idle_s: float) -> list[Record]:
        """Records that were given out so long ago that they are due again."""
        now_s = time.monotonic()
        late = [held for held in self._open.values() if not held.acknowledged and now_s - held.taken_s >= idle_s]
        for held in late:
            held.taken_s = now_s
        return [held.record for held in late]

    def save(self, *, at_once: bool = False) -> None:
        """Store how far the replay is, at most once a second; at once when everything is read: others wait for that."""
        now_s = time.monotonic()
        if self._job is None or not self._changed or not self.is_held:
            return
        if not at_once and not self._read_all and now_s - self._saved_s < SAVE_S:
            return
        left = tuple(name for name, held in self._open.items() if not held.acknowledged) if self._read_all else None
        if not self._progress.save(Job(self._job.spans, self._after, left)):
            self.load()
            return
        self._saved_s = now_s
        self._changed = False
        if left == ():
            self._adopt(None, self._since)

    def close(self) -> None:
        """Let another process go on from here at once."""
        with suppress(EnvironmentFault):
            self.save(at_once=True)
            if self.is_held:
                self._progress.release()
