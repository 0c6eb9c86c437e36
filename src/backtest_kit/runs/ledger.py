"""Who does a run, and what came of it: one row per run in the store, written by compare-and-set alone.

| R1 | one holder | a claim is a write that expects the revision which was read; of two, one fails |
| R2 | one result | a result expects the claim's revision: whoever lost the claim, asleep or cut off, stores nothing |
| R3 | no clock is compared | a claim is over when its row has not changed for its lease, by the watcher's own clock |
| R4 | nothing is done again | a row with a result is answered, not claimed, unless it is asked for again |

The holder of a long run renews its claim; a run that is done within a sixth of its lease costs two writes.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from typing import Any, Final, Literal, Protocol, TypeAlias

import backtest_kit_mongo as bk
from backtest_kit.errors import DeclarationError
from backtest_kit.identity import digest
from backtest_kit.results import Result
from backtest_kit.runs.packing import pack_trades, unpacked
from backtest_kit.runs.plan import Plan, Run, package_version

__all__ = ["Claim", "ClaimLost", "Ledger", "Row", "Rows", "Status", "root_of"]

Status: TypeAlias = Literal["planned", "claimed", "done", "failed"]

LEASE_S: Final = 20.0
"""A claim whose row does not change for so long is taken over."""
ERROR_MAX: Final = 8000
"""Characters of a traceback that are kept: its end."""
NOTES_MAX: Final = 20


class ClaimLost(bk.EnvironmentFault):
    """Another worker has taken the run over. Nothing was stored."""


class Rows(Protocol):
    """Where rows are: a value and its revision by key; 0 is the revision of what is not there."""

    def read(self, key: str) -> tuple[dict[str, Any] | None, int]: ...

    def write(self, key: str, row: Mapping[str, Any], expected: int) -> int:
        """The new revision.

        Raises:
            bk.Conflict: the row has another revision than `expected`; nothing was written.
        """
        ...

    def remove(self, key: str) -> None: ...


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
    def planned(cls, plan: Plan, run: Run) -> Row:
        return cls(
            run.run_id, plan.source.strategy, plan.code, package_version(), dict(run.params), run.symbol, plan.exchange,
            run.frame, run.start, run.end, run.candles,
        )  # fmt: skip

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Row:
        known = {name: stored[name] for name in cls.__slots__ if name in stored}
        return cls(**{**known, "notes": tuple(known.get("notes", ()))})

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "notes": list(self.notes)}


class Claim:
    """A run that this worker does. The ledger renews it until it has ended."""

    def __init__(self, ledger: Ledger, row: Row, revision: int) -> None:
        self.row, self._ledger, self._revision = row, ledger, revision
        self._lock = threading.Lock()
        self._is_lost = self._has_ended = False
        self.since = time.monotonic()

    def done(self, result: Result) -> Row:
        """Store what came of it.

        Raises:
            ClaimLost: another worker has taken it over.
        """
        trades = pack_trades(result.trades)
        ended = replace(
            self.row, status="done", ended_at=_now(), elapsed_s=round(result.elapsed_s, 4), asked=result.asked,
            stats=result.to_dict()["stats"], trades=trades, notes=result.notes[:NOTES_MAX],
            result=_result_hash(self.row.run_id, "done", trades),
        )  # fmt: skip
        return self._end(ended)

    def failed(self, error: str) -> Row:
        """Store that the strategy failed.

        Raises:
            ClaimLost: another worker has taken it over.
        """
        return self._end(_failed(self.row, error))

    def abandon(self) -> None:
        """Renew it no longer."""
        with self._lock:
            self._has_ended = True
        self._ledger.leave(self)

    def renew(self) -> None:
        """Write it again as it is, so that whoever watches sees that its worker lives."""
        with self._lock:
            if self._has_ended or self._is_lost:
                return
            try:
                self._revision = self._ledger.rows.write(self.row.run_id, self.row.to_dict(), self._revision)
            except bk.Conflict:
                self._is_lost = True
            except bk.BacktestKitError:
                pass  # It is tried again; the next write tells whether somebody came between.

    def _end(self, row: Row) -> Row:
        self.abandon()
        try:
            if not self._is_lost:
                self._ledger.rows.write(row.run_id, row.to_dict(), self._revision)
                return row
        except bk.Conflict:
            pass
        raise ClaimLost(
            f"run {row.run_id} was taken over while {row.holder} did it: its claim was not renewed for "
            f"{self._ledger.lease_s:g} s. The other worker's result stays; nothing was stored."
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
        self._keeper: threading.Thread | None = None

    def read(self, run_id: str) -> Row | None:
        stored, _ = self.rows.read(run_id)
        return None if stored is None else Row.of(stored)

    def claim(self, plan: Plan, run: Run, *, again: bool = False, over: int = -1, dead: tuple[str, ...] = ()) -> Found:
        """Take a run, or learn what came of it.

        Args:
            again: do it although there is a result, unless that is of this pool or of one before it.
            over: the revision of a claim that `watch` saw end.
            dead: pools that have ended; their claims are taken at once.

        Returns:
            The claim; the row, if there is a result; None, if another worker does it now.
        """
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
        claimed = replace(
            Row.planned(plan, run), status="claimed", attempt=attempt, holder=self.holder, claimed_at=_now()
        )
        try:
            return self._keep(Claim(self, claimed, self.rows.write(run.run_id, claimed.to_dict(), revision)))
        except bk.Conflict:
            return None

    def _keep(self, claim: Claim) -> Claim:
        self._held.add(claim)
        if self._keeper is None:
            self._keeper = threading.Thread(target=self._renew_long_ones, name="claims of runs", daemon=True)
            self._keeper.start()
        return claim

    def _renew_long_ones(self) -> None:
        while True:
            time.sleep(self.lease_s / 6)
            for claim in tuple(self._held):
                if time.monotonic() - claim.since > self.lease_s / 6:
                    claim.renew()

    def leave(self, claim: Claim) -> None:
        """Renew it no longer."""
        self._held.discard(claim)

    def watch(self, run_id: str) -> Row | int | None:
        """Look after a run that another worker does.

        Returns:
            Its row when it has ended; the revision of a claim that is over (R3); None: wait on.
        """
        stored, revision = self.rows.read(run_id)
        if stored is not None and (row := Row.of(stored)).has_ended:
            return row
        now = self._clock()
        seen, since = self._seen.get(run_id, (-1, now))
        if seen != revision:
            self._seen[run_id] = (revision, now)
            return None
        return revision if now - since > self.lease_s else None

    def _give_up(self, row: Row, revision: int) -> Row | None:
        error = (
            f"{row.attempt} workers ended while they did it, the last was {row.holder}; see their logs (memory, a "
            "crash)"
        )
        failed = _failed(row, error)
        try:
            self.rows.write(row.run_id, failed.to_dict(), revision)
        except bk.Conflict:
            return None
        return failed


def _now() -> int:
    return time.time_ns() // 1_000_000


def _failed(row: Row, error: str) -> Row:
    result = _result_hash(row.run_id, "failed", "")
    return replace(row, status="failed", ended_at=_now(), error=error[-ERROR_MAX:], result=result)


def _result_hash(run_id: str, status: str, trades: str) -> str:
    """Of the trades as they were before they were compressed. Statistics are made of them; wall time, host and notes
    differ.
    """
    return digest("result", run_id, status, sha256(unpacked(trades)).hexdigest() if trades else "")


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
