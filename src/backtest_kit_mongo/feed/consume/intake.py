"""What is known of every change that was fetched: handed out, acknowledged, or passed over."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import NamedTuple

from backtest_kit_mongo import locks
from backtest_kit_mongo.coherence.events import UnknownEvent, decode
from backtest_kit_mongo.errors import CorruptData
from backtest_kit_mongo.feed.consume.audit_log import Record
from backtest_kit_mongo.feed.consume.errors import FeedClosed, TooManyUnacknowledged
from backtest_kit_mongo.feed.consume.event import ChangeEvent, Receipt, from_audit, from_stream
from backtest_kit_mongo.feed.consume.groups import Entry, Group
from backtest_kit_mongo.feed.consume.membership import Membership
from backtest_kit_mongo.feed.consume.replay import Replay
from backtest_kit_mongo.feed.consume.window import Window

logger = locks.logger(__name__)


class Item(NamedTuple):
    """Fetched, not yet handed out: an entry, a record of the audit log, or an entry whose content is only there."""

    entry: Entry | None
    record: Record | None = None


class Intake:
    """Decides what is handed out, and keeps the acknowledgements until Redis has them. Thread-safe.

    Attributes:
        lock: also guards the replay, which learns of acknowledgements here.
    """

    def __init__(
        self, membership: Membership, group: Group, replay: Replay, window: int, open_max: int, claim_idle_ms: int
    ) -> None:
        self.lock = locks.Lock()
        self._membership = membership
        self._group = group
        self._replay = replay
        self._window = Window(window)
        self._open_max = open_max
        self._open_count = 0
        # Half: an entry's idle time began when it was fetched, this one's when it was handed out.
        self._again_s = claim_idle_ms / 2000
        self._owed: list[tuple[str, str]] = []
        self._closed = False

    def require_room(self) -> None:
        """Raises:
        TooManyUnacknowledged: no more events may be handed out.
        """
        if self._open_count >= self._open_max:
            raise TooManyUnacknowledged(
                f"{self._open_count} events of group {self._membership.name!r} were taken and not acknowledged. Call "
                "event.ack() when an event has been dealt with, then go on iterating; nothing is lost."
            )

    def admit(self, item: Item) -> ChangeEvent | None:
        """The event to hand out; None if it is not wanted, or known."""
        with self.lock.quietly():
            try:
                return self._event(item)
            except (UnknownEvent, CorruptData) as cause:
                what = item.entry[:2] if item.entry is not None else "a record of the audit log"
                logger.error(
                    "group %s passes over %s: %s. The worker parks such entries: `bkm park list`",
                    self._membership.name, what, cause,
                )  # fmt: skip
                self.pass_over(item)
                return None

    def _event(self, item: Item) -> ChangeEvent | None:
        if item.record is not None:
            receipt = self._recognise(item, str(item.record["_id"]))
            return None if receipt is None else from_audit(item.record, receipt)
        assert item.entry is not None
        event = decode(item.entry.fields or {})
        if not self._membership.wants(event.domain, event.written_ms):
            self.pass_over(item)
            return None
        receipt = self._recognise(item, event.id)
        return None if receipt is None else from_stream(event, receipt)

    def _recognise(self, item: Item, event_id: str) -> Receipt | None:
        """The receipt of a change that is to be handed out now."""
        receipt = self._window.find(event_id)
        if receipt is None:
            receipt = Receipt(event_id, self._settle_one)
            self._window.add(receipt)
            self._open_count += 1
        elif receipt.acknowledged:
            self.pass_over(item)
            return None
        if item.entry is None:
            receipt.record = event_id
        elif item.entry[:2] not in receipt.entries:
            receipt.entries.append(item.entry[:2])
        now_s = time.monotonic()
        if receipt.given_s is not None and now_s - receipt.given_s < self._again_s:
            return None
        receipt.given_s = now_s
        return receipt

    def pass_over(self, item: Item) -> None:
        """Acknowledge what is not handed out."""
        with self.lock:
            if item.entry is not None:
                self._owed.append(item.entry[:2])
            elif item.record is not None:
                self._replay.acknowledge(str(item.record["_id"]))

    def _settle_one(self, receipt: Receipt) -> None:
        self.settle([receipt])

    def settle(self, receipts: Iterable[Receipt]) -> None:
        """Acknowledge what was handed out.

        Raises:
            FeedClosed: too late.
        """
        with self.lock:
            for receipt in receipts:
                if receipt.acknowledged:
                    continue
                if self._closed:
                    raise FeedClosed(
                        f"the feed of group {self._membership.name!r} is closed: {receipt.event_id} was not "
                        "acknowledged and will be delivered again. Acknowledge before closing."
                    )
                receipt.acknowledged = True
                self._open_count -= 1
                self._owed += receipt.entries
                if receipt.record is not None:
                    self._replay.acknowledge(receipt.record)
        try:
            self.pay()
        except Exception as cause:
            # The iterating thread tries again before it fetches, and deals with what is wrong.
            logger.debug("group %s: an acknowledgement waits for Redis: %s", self._membership.name, cause)

    def pay(self) -> None:
        """Send the acknowledgements that Redis does not know of yet.

        Raises:
            redis.RedisError, OSError: they are kept.
        """
        with self.lock:
            owed, self._owed = self._owed, []
        if not owed:
            return
        try:
            self._group.acknowledge(owed)
        except BaseException:
            with self.lock:
                self._owed += owed
            raise

    def close(self) -> None:
        with self.lock:
            self._closed = True
