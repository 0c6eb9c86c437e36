"""A recorded session again, and once more by a strategy with another constant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import backtest_kit_mongo as bk
from backtest_kit.declare import Exchange
from backtest_kit.identity import MINUTE_MS
from backtest_kit.moments import minute_text
from backtest_kit.running import Job
from backtest_kit.sessions import Rerun, rerun
from backtest_kit_verify.bots.hosts import Seat
from backtest_kit_verify.bots.noted import NAME, TAKE, noted

HISTORY_MS: Final = 3_600_000
CHANGED: Final = TAKE + 0.0001


def judge(seats: Sequence[Seat], restarts: int, directory: Path, on_line: Callable[[str], None]) -> list[str]:
    """Replay it from a file; what is wrong."""
    first = seats[0]
    bk.setup(**first.settings)
    try:
        session = bk.read_session(NAME, first.mode, first.begin_ms, first.end_ms + MINUTE_MS, HISTORY_MS)
        session.save(directory / "day.session.gz")
    finally:
        bk.shutdown()
    kept = bk.load_session(directory / "day.session.gz")
    found = again(kept, first)
    size = (directory / "day.session.gz").stat().st_size
    speed = found.minutes * 60 / found.elapsed_s
    on_line(
        f"{found.minutes} minutes, {found.matched} writes equal, {found.restarts} restarts, "
        f"{found.skipped} minutes left out; {found.elapsed_s:.1f} s, {speed:,.0f} times real time; "
        f"{size / 1024:,.0f} KiB; missing: {sorted(set(kept.missing))}"
    )
    problems = [] if found.divergence is None else found.divergence.lines()
    if found.divergence is None and found.restarts < restarts:  # A tick that failed is one more.
        problems.append(f"{found.restarts} restarts, not {restarts}")
    changed = again(kept, first, CHANGED).divergence
    asked = [one for one in kept.changes if one.domain == "memory" and one.step.endswith("/asked")]
    first_at = min((one.at for one in asked if one.at is not None and one.order), default=0)
    if changed is None or not changed.step.endswith("/asked"):
        problems.append(f"a changed constant was not named where it first matters: {changed}")
    else:
        on_line(f"a changed constant is named at {minute_text(changed.at)} (the first answer: {minute_text(first_at)})")
        on_line("\n".join(changed.lines()))
    return problems


def again(session: bk.Session, seat: Seat, take: float = TAKE) -> Rerun:
    """The session replayed."""
    strategy = noted(seat.end_ms - seat.quiet_minutes * MINUTE_MS, take)
    return rerun(session, lambda symbol, exchange: Job(strategy, Exchange(exchange), (), symbol, seat.mode))
