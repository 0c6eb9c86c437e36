"""A simulated MongoDB that holds one series, and the schedules of what may happen to it, a step at a time.

Documents of one query and blocks of one query are read one after another, as a cursor does, and anything may happen in
between: other writers insert, the majority catches up, a failover takes back what it has not reached, a process dies.
Each value is written once in a run, so a candle shows where it came from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from backtest_kit_mongo.candles import codec, plans
from backtest_kit_mongo.candles.codec import Block, CorruptBlock, EncodedBlock, block_starts, decode_block
from backtest_kit_mongo.candles.columns import FIELDS, Columns, empty
from backtest_kit_mongo.candles.intervals import Grid, grid_of
from backtest_kit_mongo.coherence.effects import Effect, Plan
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.table import CANDLE

STEP_MS = 60_000
GRID = grid_of("1m")
BLOCKS = 2
NOTHING = empty()
OFFSETS = np.arange(float(len(FIELDS)))[:, np.newaxis]
SCOPE = Key(CANDLE, ("exchange", "SYMBOL", "1m"))

Task: TypeAlias = Generator[None, None, Any]
Decode: TypeAlias = Callable[[EncodedBlock, Grid], Block]


class PromiseBroken(AssertionError):
    """A read was wrong."""


class Span(NamedTuple):
    """A document's life: the value of its candle, when it became visible, and when a failover took it back."""

    value: float
    seen: int
    lost: float


@dataclass(frozen=True)
class Protocol:
    """What is under test; planted bugs replace parts of it."""

    read: Callable[[Key, Grid, int, int], Plan[Columns]] = plans.read
    compact: Callable[[Key, Grid, int], Plan[Any]] = plans.compact
    decode: Decode = decode_block


class World:
    """One series: documents, blocks, and everything that was ever true of it.

    Attributes:
        documents: value of a candle by open time.
        now: counts what happened.
        lives: what was visible when, by open time.
        durable: since when a document is majority-committed, by open time.
        seen: how often what was tried really happened.
    """

    def __init__(self, rng: Random, protocol: Protocol) -> None:
        self.rng = rng
        self.protocol = protocol
        self.now = 0
        self.documents: dict[int, float] = {}
        self.blocks: dict[int, EncodedBlock] = {}
        self.lives: dict[int, list[Span]] = {}
        self.durable: dict[int, int] = {}
        self.seen: Counter[str] = Counter()
        self._undone: list[Callable[[], None]] = []
        self._fresh: list[int] = []
        self._value = 0.0

    def insert(self, moment: int) -> None:
        """First write wins; each attempt comes with another value."""
        self.now += 1
        self._value += 8.0
        if moment in self.documents:
            self.seen["re-fetched"] += 1
            return
        self.documents[moment] = self._value
        self.lives.setdefault(moment, []).append(Span(self._value, self.now, float("inf")))
        self._fresh.append(moment)
        self._undone.append(lambda: self._take_back(moment))

    def _take_back(self, moment: int) -> None:
        del self.documents[moment]
        self.lives[moment][-1] = self.lives[moment][-1]._replace(lost=self.now)
        self.seen["document taken back"] += 1

    def put(self, block: EncodedBlock) -> None:
        self.now += 1
        before = self.blocks.get(block.start)
        self.blocks[block.start] = block
        self._undone.append(lambda: self._put_back(block.start, before))
        self.seen["block stored"] += 1
        if before is not None and before.count > block.count:
            self.seen["block replaced by a lesser one"] += 1

    def _put_back(self, start: int, block: EncodedBlock | None) -> None:
        if block is None:
            del self.blocks[start]
        else:
            self.blocks[start] = block
        self.seen["block taken back"] += 1

    def catch_up(self) -> None:
        """The majority has everything that was written."""
        self.now += 1
        self.durable.update((moment, self.now) for moment in self._fresh)
        self._fresh.clear()
        self._undone.clear()

    def fail_over(self) -> None:
        """What the majority has not got is gone."""
        self.now += 1
        for undo in reversed(self._undone):
            undo()
        self._fresh.clear()
        self._undone.clear()

    def damage(self) -> None:
        """One stored block has a wrong byte."""
        self.now += 1
        if self.blocks:
            start = self.rng.choice(list(self.blocks))
            data = bytearray(self.blocks[start].data)
            data[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)
            block = self.blocks[start]
            self.blocks[start] = EncodedBlock(
                block.start, block.count, block.integers, block.codec, block.checksum, bytes(data)
            )

    def found(self, effect: plans.FindRows) -> Generator[None, None, Columns]:
        """The query's documents, read in some order, a few at a time."""
        pieces = [piece for span in effect.ranges for piece in self._pieces(span)]
        pieces.extend((moment, moment + 1) for moment in effect.times)
        self.rng.shuffle(pieces)
        rows: list[tuple[int, float]] = []
        for since, until in pieces:
            yield
            visible = self.durable if effect.durable else self.documents
            rows.extend((moment, self.documents[moment]) for moment in visible if since <= moment < until)
        return columns_of(rows)

    def _pieces(self, span: tuple[int, int]) -> list[tuple[int, int]]:
        cut = span[0] + self.rng.randrange(max(1, (span[1] - span[0]) // STEP_MS)) * STEP_MS
        return [(span[0], cut), (cut, span[1])] if span[0] < cut < span[1] else [span]

    def check(self, since: int, until: int, began: int, answer: Columns) -> None:
        """A read of [since, until) that began then and ends now.

        Raises:
            PromiseBroken: it lacks a candle that was durable before it began, or has one that was never there
                meanwhile.
        """
        moments = answer.timestamp.tolist()
        if moments != sorted(set(moments)) or any(not since <= moment < until for moment in moments):
            raise PromiseBroken(f"not ascending, or not in [{since}, {until}): {moments}")
        values_of = zip(*(column.tolist() for column in answer.values), strict=True)
        for moment, values in zip(moments, values_of, strict=True):
            lives = (life for life in self.lives.get(moment, ()) if life.seen <= self.now and life.lost >= began)
            if values not in [candle(life.value) for life in lives]:
                raise PromiseBroken(f"{moment}: {values} was not stored at any time of the read")
        due = {moment for moment, at in self.durable.items() if at <= began and since <= moment < until}
        if lacking := due.difference(moments):
            raise PromiseBroken(f"{sorted(lacking)} were committed before the read began")


def candle(value: float) -> tuple[float, ...]:
    """All columns of the candle with this value."""
    return (value, value + 1, value + 2, value + 3, value + 4)


def columns_of(rows: Sequence[tuple[int, float]]) -> Columns:
    if not rows:
        return NOTHING
    rows = sorted(rows)
    values = np.array([value for _, value in rows]) + OFFSETS
    return Columns(np.array([moment for moment, _ in rows], np.int64), tuple(values))


@dataclass
class Process:
    """A process and the blocks that it keeps."""

    world: World
    kept: dict[int, Block] = field(default_factory=dict)

    def run(self, plan: Plan[Any]) -> Task:
        """Perform a plan; others may act wherever this yields."""
        answer: Any = None
        while True:
            try:
                effect = plan.send(answer)
            except StopIteration as done:
                return done.value
            answer = yield from self._perform(effect)

    def _perform(self, effect: Effect[Any]) -> Task:
        if isinstance(effect, plans.FindBlocks):
            return (yield from self._blocks(effect))
        if isinstance(effect, plans.FindRows):
            return (yield from self.world.found(effect))
        if isinstance(effect, plans.FindGeneration):
            return 0  # Nobody removes candles in this model.
        assert isinstance(effect, plans.PutBlock), effect
        yield
        self.world.put(effect.block)
        return None

    def _blocks(self, effect: plans.FindBlocks) -> Generator[None, None, list[Block]]:
        found = []
        world = self.world
        for start in block_starts(effect.since, effect.until, effect.grid):
            yield
            if start in self.kept and world.rng.random() < 0.7:
                world.seen["block kept by the process"] += 1
                found.append(self.kept[start])
            elif start in world.blocks:
                try:
                    self.kept[start] = world.protocol.decode(world.blocks[start], effect.grid)
                except CorruptBlock:
                    world.seen["damaged block"] += 1
                else:
                    found.append(self.kept[start])
        world.seen["read with blocks"] += bool(found)
        return found

    def read(self, since: int, until: int) -> Task:
        began = self.world.now
        answer = yield from self.run(self.world.protocol.read(SCOPE, GRID, since, until))
        self.world.check(since, until, began, answer)
        self.world.seen["read"] += 1

    def compact(self, start: int) -> Task:
        return self.run(self.world.protocol.compact(SCOPE, GRID, start))

    def write(self, moments: Sequence[int]) -> Task:
        for moment in moments:
            yield
            self.world.insert(moment)


def _finish(task: Task) -> None:
    for _ in task:
        pass


class Schedule:
    """One interleaving, made from a seed."""

    def __init__(self, seed: int, protocol: Protocol) -> None:
        self.rng = Random(seed)
        self.world = World(self.rng, protocol)
        self.processes = [Process(self.world), Process(self.world)]
        self.tasks: list[Task] = []
        self.horizon = BLOCKS * codec.BLOCK_ROWS

    def play(self) -> Counter[str]:
        """Let things happen, then read everything once more in peace.

        Raises:
            PromiseBroken: a read was wrong.
        """
        self._furnish()
        for _ in range(self.rng.randrange(6, 32)):
            self._act()
        for task in self.tasks:
            task.close()
        self.world.catch_up()
        _finish(self.rng.choice(self.processes).read(0, self.horizon * STEP_MS))
        return self.world.seen

    def _furnish(self) -> None:
        """Some candles, perhaps blocks of some of them, perhaps a compactor that has not stored yet what it read."""
        for _ in range(self.rng.randrange(3)):
            for slot in self.rng.sample(range(self.horizon), self.rng.randrange(self.horizon)):
                self.world.insert(slot * STEP_MS)
            self.world.catch_up()
            start = self.rng.randrange(BLOCKS) * codec.BLOCK_ROWS * STEP_MS
            slow = self.processes[1].compact(start)
            self.tasks.append(slow)
            self._go_on(slow, self.rng.randrange(4))
            _finish(self.processes[0].compact(start))

    def _act(self) -> None:
        chance = self.rng.random()
        if chance < 0.12:
            self.world.catch_up()
        elif chance < 0.15:
            self.world.fail_over()
        elif chance < 0.17:
            self.world.damage()
        elif chance < 0.20 and self.tasks:
            self.tasks.pop(self.rng.randrange(len(self.tasks))).close()
            self.world.seen["died on the way"] += 1
        elif not self.tasks or (chance < 0.45 and len(self.tasks) < 4):
            self.tasks.append(self._begin())
        else:
            self._go_on(self.rng.choice(self.tasks), self.rng.choice((1, 1, 2, 8)))

    def _begin(self) -> Task:
        process = self.rng.choice(self.processes)
        kind = self.rng.choice(("read", "read", "compact", "compact", "append", "backfill"))
        if kind == "read":
            first, end = sorted(self.rng.sample(range(self.horizon + 1), 2))
            return process.read(first * STEP_MS, end * STEP_MS)
        if kind == "compact":
            return process.compact(self.rng.randrange(BLOCKS) * codec.BLOCK_ROWS * STEP_MS)
        if kind == "append":
            first = max(self.world.documents, default=-STEP_MS) // STEP_MS + 1
            slots: Sequence[int] = range(first, min(first + self.rng.randrange(1, 7), self.horizon))
        else:
            slots = self.rng.sample(range(self.horizon), 3)
        return process.write([slot * STEP_MS for slot in slots])

    def _go_on(self, task: Task, steps: int) -> None:
        for _ in range(steps):
            try:
                next(task)
            except StopIteration:
                self.tasks.remove(task)
                return
