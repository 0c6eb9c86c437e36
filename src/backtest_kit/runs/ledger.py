"""Who does a run, and what came of it: one row per run in the store, written by compare-and-set alone.

| R1 | one holder | a claim is a write that expects the revision which was read; of two, one fails |
| R2 | one result | a result expects the claim's revision: whoever lost the claim, asleep or cut off, stores nothing |
| R3 | no clock is compared | a claim is over when its row has not changed for its lease, by the watcher's own clock |
| R4 | nothing is done again | a row with a result is answered, not claimed, unless it is asked for again |

Claims of a batch are written together, and so are its results: a run costs a share of two writes. What is claimed for
longer than a sixth of its lease is renewed until it has ended.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, Final, Literal, TypeAlias

import backtest_kit_mongo as bk
from backtest_kit.errors import DeclarationError
from backtest_kit.identity import digest
from backtest_kit.results import Result
from backtest_kit.runs.packing import compressed, trades_text
from backtest_kit.runs.plan import Plan, Run, package_version
from backtest_kit.runs.rows import Rows, Write

__all__ = ["Claim", "Ledger", "Row", "Status", "root_of"]

Status: TypeAlias = Literal["planned", "claimed", "done", "failed"]

LEASE_S: Final = 20.0
"""A claim whose row does not change for so long is taken over."""
ERROR_MAX: Final = 8000
"""Characters of a traceback that are kept: its end."""
NOTES_MAX: Final = 20


@dataclass(frozen=True, slots=True)
class Row:
    """A run as it is stored.

    Attributes:
        attempt: how many workers have claimed it.
        holder: pool, host, process and a random part of the worker that claimed it last.
        claimed_at, ended_at: epoch ms by the worker's clock, for people.
        elapsed_s: wall time of the replay.
        asked: how often get_signal was asked.
        stats: as `Stats`, None for what cannot be said.
        trades: packed (`packing.py`).
        error: the end of a traceback.
        result: hash of what came of it, the same on every host; "" before.
    """

    run_id: str
    strategy: str
    code: str
    version: str
    params: Mapping[str, Any]
    symbol: str
    exchange: str
    frame: str
    start: int
    end: int
    candles: str
    status: Status = "planned"
    attempt: int = 0
    holder: str = ""
    claimed_at: int = 0
    ended_at: int = 0
    elapsed_s: float = 0.0
    asked: int = 0
    stats: Mapping[str, Any] = field(default_factory=dict)
    trades: str = ""
    notes: tuple[str, ...] = ()
    error: str = ""
    result: str = ""

    @property
    def has_ended(self) -> bool:
        return self.status in ("done", "failed")

    @classmethod
    def planned(cls, plan: Plan, run: Run, **more: Any) -> Row:
        return cls(
            run.run_id, plan.source.strategy, plan.code, package_version(), dict(run.params), run.symbol, plan.exchange,
            run.frame, run.start, run.end, run.candles, **more,
        )  # fmt: skip

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Row:
        known = {name: stored[name] for name in cls.__slots__ if name in stored}
        return cls(**{**known, "notes": tuple(known.get("notes", ()))})

    def to_dict(self) -> dict[str, Any]:
        """All of it."""
        return {name: getattr(self, name) for name in self.__slots__} | {"notes": list(self.notes)}

    def stored(self) -> dict[str, Any]:
        """What is kept: all but the defaults."""
        found = {name: getattr(self, name) for name in self.__slots__}
        kept = {name: value for name, value in found.items() if value or name not in _EMPTY}
        return kept | {"notes": list(self.notes)} if self.notes else kept


_EMPTY: Final = frozenset(Row.__slots__[list(Row.__slots__).index("status") :])
"""Fields of which `Row.of` makes the same if they are left out where they are empty."""


@dataclass(eq=False, slots=True)
class Claim:
    """A run that this worker does.

    Attributes:
        revision: which its row has since it was claimed or renewed.
        since_s: when that was, monotonic.
    """

    row: Row
    revision: int
    since_s: float
    is_lost: bool = False

    def done(self, result: Result) -> Row:
        """The row with what came of it."""
        trades = trades_text(result.trades)
        return replace(
            self.row, status="done", ended_at=_now(), elapsed_s=round(result.elapsed_s, 4), asked=result.asked,
            stats=result.stats.to_dict(), trades=compressed(trades), notes=result.notes[:NOTES_MAX],
            result=_result_hash(self.row.run_id, "done", sha256(trades).hexdigest()),
        )  # fmt: skip

    def failed(self, error: str) -> Row:
        """The row with the end of a traceback."""
        return _failed(self.row, error)

    def __str__(self) -> str:
        return (
            f"run {self.row.run_id} was taken over while {self.row.holder} did it: its claim was not renewed in time. "
            "The other worker's result stays; nothing was stored."
        )


Found: TypeAlias = "Claim | Row | None"


class Ledger:
    """The rows of runs, as one worker sees them.

    Args:
        lease_s: of claims.
        attempts: a run that ended so many workers is failed.
        pool: whose worker this is: the first part of its name as a holder.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        rows: Rows,
        lease_s: float = LEASE_S,
        attempts: int = 5,
        pool: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rows, self.lease_s, self.attempts, self._clock = rows, lease_s, attempts, clock
        self.pool = pool
        self.holder = f"{pool}/{socket.gethostname()}/{os.getpid()}/{os.urandom(3).hex()}"
        self._seen: dict[str, tuple[int, float]] = {}
        self._held: set[Claim] = set()
        self._lock = threading.Lock()
        self._keeper: threading.Thread | None = None

    def read(self, run_id: str) -> Row | None:
        stored, _ = self.rows.read(run_id)
        return None if stored is None else Row.of(stored)

    # -- claims

    def claim(
        self,
        plan: Plan,
        runs: Sequence[Run],
        *,
        are_new: bool = False,
        again: bool = False,
        over: Mapping[str, int] | None = None,
        dead: Collection[str] = (),
    ) -> dict[str, Found]:
        """Take runs, or learn what came of them.

        Args:
            are_new: probably nobody knows them yet, so try before reading.
            again: do them although there is a result, unless that is of this pool or of one before it.
            over: by run id, the revision of a claim that `watch` saw end.
            dead: pools that have ended; their claims are taken at once.

        Returns:
            For each run id the claim; the row, if there is a result; None, if another worker does it now.
        """
        found: dict[str, Found] = {}
        if are_new:
            rows = [self._claimed(plan, run, 1) for run in runs]
            revisions = self._try([Write(row.run_id, row.stored(), 0) for row in rows])
            pairs = zip(rows, revisions, strict=True)
            found = {row.run_id: self._held_as(row, revision) for row, revision in pairs if revision is not None}
        late: list[Write] = []
        for run in runs:
            if run.run_id in found:
                continue
            answer = self._look(plan, run, again=again, over=(over or {}).get(run.run_id, -1), dead=dead)
            if isinstance(answer, Write):
                late.append(answer)
            else:
                found[run.run_id] = answer
        for one, revision in zip(late, self._try(late), strict=True):
            found[one.key] = None if revision is None else self._held_as(Row.of(one.row), revision)
        return found

    def _try(self, writes: Sequence[Write]) -> Sequence[int | None]:
        try:
            return self.rows.write_all(writes)
        except bk.WriteOutcomeUnknown:
            return [None] * len(writes)  # A claim that comes late is one that nobody does: it ends by itself.

    def _claimed(self, plan: Plan, run: Run, attempt: int) -> Row:
        return Row.planned(plan, run, status="claimed", attempt=attempt, holder=self.holder, claimed_at=_now())

    def _look(self, plan: Plan, run: Run, *, again: bool, over: int, dead: Collection[str]) -> Write | Row | None:
        stored, revision = self.rows.read(run.run_id)
        row = Row.planned(plan, run) if stored is None else Row.of(stored)
        pool = row.holder.partition("/")[0]
        if row.has_ended and not (again and pool not in (self.pool, *dead)):
            return row
        is_held = row.status == "claimed"
        if is_held and revision != over and pool not in dead:
            return None
        if is_held and row.attempt >= self.attempts:
            return self._give_up(row, revision)
        attempt = row.attempt + 1 if is_held else 1
        return Write(run.run_id, self._claimed(plan, run, attempt).stored(), revision)

    def _give_up(self, row: Row, revision: int) -> Row | None:
        error = (
            f"{row.attempt} workers ended while they did it, the last was {row.holder}; see their logs (memory, a "
            "crash)"
        )
        failed = _failed(row, error)
        return None if self.rows.write_all([Write(row.run_id, failed.stored(), revision)])[0] is None else failed

    def _held_as(self, row: Row, revision: int) -> Claim:
        claim = Claim(row, revision, self._clock())
        with self._lock:
            self._held.add(claim)
        if self._keeper is None:
            self._keeper = threading.Thread(target=self._renew_long_ones, name="claims of runs", daemon=True)
            self._keeper.start()
        return claim

    def _renew_long_ones(self) -> None:
        while True:
            time.sleep(self.lease_s / 6)
            with self._lock:
                long = [claim for claim in self._held if self._clock() - claim.since_s > self.lease_s / 6]
            with suppress(bk.BacktestKitError):  # It is tried again; the result's write tells whether somebody came.
                self.renew(long)

    def renew(self, claims: Collection[Claim]) -> None:
        """Write them again as they are, so that whoever watches sees that their worker lives."""
        with self._lock:
            mine = [claim for claim in claims if claim in self._held and not claim.is_lost]
            writes = [Write(claim.row.run_id, claim.row.stored(), claim.revision) for claim in mine]
            for claim, revision in zip(mine, self.rows.write_all(writes) if writes else (), strict=True):
                if revision is None:
                    claim.is_lost = True
                else:
                    claim.revision, claim.since_s = revision, self._clock()

    # -- their ends

    def store(self, ended: Sequence[tuple[Claim, Row]]) -> list[bool]:
        """Store what came of claimed runs; false where another worker has taken one over, and nothing was stored."""
        with self._lock:
            self._held.difference_update(claim for claim, _ in ended)
            mine = [(claim, row) for claim, row in ended if not claim.is_lost]
            writes = [Write(row.run_id, row.stored(), claim.revision) for claim, row in mine]
            for (claim, _), revision in zip(mine, self.rows.write_all(writes) if writes else (), strict=True):
                claim.is_lost = revision is None
        return [not claim.is_lost for claim, _ in ended]

    def give_back(self, claims: Collection[Claim]) -> None:
        """Runs that this worker claimed and will not do: anybody may."""
        self.store([(claim, replace(claim.row, status="planned", holder="")) for claim in claims])

    # -- others

    def watch(self, run_id: str) -> Row | int | None:
        """Look after a run that another worker does.

        Returns:
            Its row when it has ended; the revision of a claim that is over (R3); None: wait on.
        """
        stored, revision = self.rows.read(run_id)
        row = None if stored is None else Row.of(stored)
        if row is not None and row.has_ended:
            return row
        if row is None or row.status == "planned":
            return revision
        now = self._clock()
        seen, since = self._seen.get(run_id, (-1, now))
        if seen != revision:
            self._seen[run_id] = (revision, now)
            return None
        return revision if now - since > self.lease_s else None


def _now() -> int:
    return time.time_ns() // 1_000_000


def _failed(row: Row, error: str) -> Row:
    result = _result_hash(row.run_id, "failed", "")
    return replace(row, status="failed", ended_at=_now(), error=error[-ERROR_MAX:], result=result)


def _result_hash(run_id: str, status: str, trades: str) -> str:
    """Of the hash of the trades. Statistics are made of them; wall time, host and notes differ."""
    return digest("result", run_id, status, trades)


def root_of(results: Mapping[str, str]) -> str:
    """Merkle root over results by run id: the same for any number of workers, in any order.

    Raises:
        DeclarationError: a run has no result yet.
    """
    if missing := [run_id for run_id, result in results.items() if not result]:
        raise DeclarationError(f"{len(missing)} of {len(results)} runs have no result yet, the first is {missing[0]}")
    level = [digest("leaf", run_id, results[run_id]) for run_id in sorted(results)]
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=False)
        level = [digest("node", left, right) for left, right in pairs] + level[len(level) - len(level) % 2 :]
    return level[0] if level else digest("none")
