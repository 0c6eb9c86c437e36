"""What a campaign of any of the simulators finds, and the shortest schedule that still breaks the same promise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

from backtest_kit_mongo.errors import InvariantViolation

S = TypeVar("S")

BLOCK = 64
"""Schedules that are drawn from one random generator: making one costs a tenth of a schedule."""


class Counterexample(NamedTuple, Generic[S]):
    """A broken invariant or promise, and the schedule that breaks it with its last action, or when all is quiet after
    it.
    """

    name: str
    detail: str
    schedule: S


class Found(NamedTuple, Generic[S]):
    """A violation, and which schedule of the campaign it was, counted from 1."""

    number: int
    violation: Counterexample[S]


class Blocks(ABC, Generic[S]):
    """Random schedules in an order that depends on the seed alone.

    Attributes:
        done: schedules played.
    """

    def __init__(self) -> None:
        self.done = 0

    @abstractmethod
    def run_block(self, at_most: int = BLOCK) -> Found[S] | None:
        """Play the next block, or its first schedules. Stops at the first violation."""

    def run(self, count: int) -> Found[S] | None:
        """Play so many schedules more, or up to the first violation."""
        end = self.done + count
        while self.done < end:
            found = self.run_block(end - self.done)
            if found:
                return found
        return None


def counterexample(error: InvariantViolation, schedule: S) -> Counterexample[S]:
    return Counterexample(str(error).split(" ", 1)[0], str(error), schedule)


def shrink(
    found: Counterexample[S],
    play: Callable[[S], Counterexample[S] | None],
    smaller: Callable[[S], Iterable[S]],
) -> Counterexample[S]:
    """Take a smaller schedule for as long as one breaks the same promise. What has become impossible `play` leaves out,
    so any part of a schedule is a schedule.
    """
    best, shorter = found, True
    while shorter:
        broken = (play(schedule) for schedule in smaller(best.schedule))
        again = next((one for one in broken if one is not None and one.name == found.name), None)
        shorter = again is not None
        best = again or best
    return best


def without_a_stretch(actions: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """The actions without some that follow each other, long stretches first."""
    length = len(actions) // 2
    while length:
        for start in range(len(actions) - length + 1):
            yield actions[:start] + actions[start + length :]
        length = length // 2 if length > 3 else length - 1
