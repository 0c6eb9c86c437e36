"""A bot's process: forked, given everything, and killed whenever the campaign likes."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import backtest_kit_mongo as bk
from backtest_kit import bot
from backtest_kit.declare import Exchange
from backtest_kit.errors import AlreadyRunning
from backtest_kit.identity import MINUTE_MS
from backtest_kit.leases import LeaseLost
from backtest_kit_verify.bots.desk import CandlesAtDesk, Desk
from backtest_kit_verify.bots.plan import EXCHANGE, job, strategy, walk
from backtest_kit_verify.chaos.faulty_servers import DATABASE
from backtest_kit_verify.made_up import START_MS

DONE, LOST, REFUSED, CRASHED = 0, 3, 4, 5


@dataclass(frozen=True, slots=True)
class Task:
    """Attributes:
    settings: of `bk.setup`.
    directory: of the desk, and of what the process says.
    minutes: how many are lived at most.
    """

    settings: dict[str, Any]
    directory: Path
    seed: str
    minutes: int
    lease_ms: int
    database: str = DATABASE


def start(task: Task) -> int:
    """Fork a bot; its process number."""
    return forked(task.directory, lambda: _run(task))


def forked(directory: Path, live: Callable[[], int]) -> int:
    """Fork a process that ends with what `live` answers, or writes to `crashes.txt` what it raised; its number."""
    pid = os.fork()
    if pid:
        return pid
    code = CRASHED
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        code = live()
    except BaseException:
        with (directory / "crashes.txt").open("a") as file:
            traceback.print_exc(file=file)
    finally:
        sys.stdout.flush()
        os._exit(code)


def _run(task: Task) -> int:
    bot.LEASE_MS = task.lease_ms  # type: ignore[misc]
    desk = Desk(task.directory / "desk.sqlite", START_MS)
    desk.pid = os.getpid()
    bk.setup(**task.settings)
    candles = walk(task.seed, task.minutes)
    minutes = min(task.minutes, desk.ending() or task.minutes)
    exchange = Exchange(EXCHANGE, get_candles=CandlesAtDesk(desk, candles), broker=desk)
    with (task.directory / "said.txt").open("a", buffering=1) as said:
        try:
            with bk.in_mode("live", task.directory / "runs"):
                bot.run(
                    job("live", strategy(task.seed, minutes, desk.note_asked), exchange, minutes),
                    on_line=reporter(said.write),
                    clock=desk,
                    until_ms=START_MS + minutes * MINUTE_MS,
                )
        except LeaseLost:
            return LOST
        except AlreadyRunning:
            return REFUSED
    return DONE


def reporter(write: Callable[[str], object]) -> Callable[[str], None]:
    def on_line(line: str) -> None:
        write(f"{os.getpid()} {line}\n")

    return on_line
