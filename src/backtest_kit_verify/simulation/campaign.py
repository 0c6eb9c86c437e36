"""Campaigns: random schedules by the million, all determined by one seed."""

from __future__ import annotations

from random import Random

from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.errors import InvariantViolation
from backtest_kit_verify.simulation.found import BLOCK, Blocks, Found
from backtest_kit_verify.simulation.schedules import (
    Schedule,
    random_run,
    random_verbs,
    random_workload,
    violation,
)
from backtest_kit_verify.simulation.workload import DOCUMENT, LIST, SHIPPED, Rig, Variant
from backtest_kit_verify.simulation.world import World

SAME_WORKLOAD = 8
"""Schedules that are drawn for one workload."""
LIST_EVERY = 8
"""One block in so many is about a list; lists use the same steps."""
OPS_MAX = {DOCUMENT: 6, LIST: 4}
CLIENTS_MAX = {DOCUMENT: 4, LIST: 2}
STATES_MAX = 500_000
"""Remembered states after which a campaign starts with an empty memory again: some hundred megabytes."""


class Campaign(Blocks[Schedule]):
    """Random schedules.

    Args:
        key: only schedules about this key; both kinds if None.
        faults: False leaves only the order of steps, and time.
    """

    def __init__(self, seed: int, variant: Variant = SHIPPED, *, key: Key | None = None, faults: bool = True) -> None:
        super().__init__()
        self._seed = seed
        self._variant = variant
        self._key = key
        self._faults = faults
        self._worlds: dict[Key, World] = {}
        self._blocks = 0

    def run_block(self, at_most: int = BLOCK) -> Found[Schedule] | None:
        number = self._blocks
        self._blocks += 1
        random = Random(self._seed << 40 | number)
        key = self._key or (LIST if number % LIST_EVERY == LIST_EVERY - 1 else DOCUMENT)
        world = self._world(key)
        for index in range(min(at_most, BLOCK)):
            if index % SAME_WORKLOAD == 0:
                workload = random_workload(random, key is LIST, OPS_MAX[key], CLIENTS_MAX[key])
                verbs = random_verbs(random, self._faults, self._variant.extra_faults)
            self.done += 1
            world.reset(workload)
            actions: list[int] = []
            try:
                random_run(world, random, verbs, actions)
            except InvariantViolation as error:
                return Found(self.done, violation(error, workload, actions))
        return None

    def _world(self, key: Key) -> World:
        world = self._worlds.get(key)
        if world is None or world.rig.size > STATES_MAX:
            rig = Rig(key, self._variant)
            world = self._worlds[key] = World(rig, random_workload(Random(0), key is LIST))
        return world
