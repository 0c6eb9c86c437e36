"""What the exit status of each command means to a script: one table for `bkm`, the worker and the engine."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["ExitCode"]


class ExitCode(IntEnum):
    """A number and its meaning, which is the same for all commands. `docs/exit-codes.md` is made of this."""

    meaning: str

    def __new__(cls, number: int, meaning: str) -> ExitCode:
        code = int.__new__(cls, number)
        code._value_ = number
        code.meaning = meaning
        return code

    DONE = 0, "done as asked; a check found nothing that is wrong"
    FAILED = (
        1,
        (
            "not done, or not all of it: a server, a disk, an exchange or an entry failed; standard error says which. "
            "`doctor`, `repair`, `simulate`, `chaos`, `hosts`, `bots`, `sweeps` and `demo`: they found errors"
        ),
    )
    WRONG_ARGUMENT = 2, "a setting, a file, a key or an argument is wrong; nothing was begun"
    NOT_WELL = (
        3,
        (
            "what was run or looked at is not well: a server of `status` does not answer, `run`'s strategy failed, "
            "a thread of the worker ended by itself (start it again), `doctor --strict` has warnings"
        ),
    )
    DIFFERS = (
        4,
        (
            "a check came to its end and found what should not be: missing candles, tampering, copies, blocks, cache "
            "entries or decisions that differ"
        ),
    )
    STUCK = 5, "the worker stopped as asked, but something did not end in time and was left; nothing is lost"
    UNREACHABLE = 10, "`backtest-kit-worker check`: a server does not answer"
    NEVER_RAN = 11, "`check`: a role has no consumer group: no worker with it ever ran, or the feed was flushed since"
    LAGGING = 12, "`check`: a role is further behind than allowed"
    DEAD_LETTERS = 13, "`check`: entries of the feed could not be applied; `bkm park list` shows them"
    ABANDONED = 14, "`check`: a group that nobody serves holds back trimming; `bkm stream status` names it"
    TROUBLE = 15, "`check`: work stands still, or something is not what it should be; `bkm doctor` says what to do"
    STOPPED = 130, "Ctrl-C ended `run`"
    PIPE_CLOSED = 141, "nobody read the output to its end (`| head`)"


def table() -> str:
    """All codes, as a table for Markdown. Of several findings `check` answers with the first."""
    rows = [f"| {code.value} | {code.name} | {code.meaning} |" for code in ExitCode]
    return "\n".join(["| status | name | meaning |", "|---|---|---|", *rows])
