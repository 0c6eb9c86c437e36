"""The protocol under the simulator: every order of small workloads, random orders of larger ones, nothing ever
broken.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from backtest_kit_mongo.backends.memory_cache import MemoryCache, MemoryRedis
from backtest_kit_mongo.coherence import deletion
from backtest_kit_mongo.coherence import effects as fx
from backtest_kit_mongo.coherence.invariants import INVARIANTS
from backtest_kit_mongo.errors import InvariantViolation
from backtest_kit_verify.simulation import actions as act
from backtest_kit_verify.simulation.campaign import Campaign
from backtest_kit_verify.simulation.checker import PROMISES, broken
from backtest_kit_verify.simulation.driver import DONE
from backtest_kit_verify.simulation.exhaustive import ALL_FAULTS, Limits, TooMany, explore
from backtest_kit_verify.simulation.found import BLOCK
from backtest_kit_verify.simulation.schedules import Schedule, parse_schedule, play, random_run, random_workload
from backtest_kit_verify.simulation.states import LEASE_TICKS, WRITE_TICKS, CountingTruth
from backtest_kit_verify.simulation.workload import DOCUMENT, KINDS, LIST, Rig, Variant, parse_workload
from backtest_kit_verify.simulation.world import World

BUT_RESTARTS = tuple(verb for verb in ALL_FAULTS if verb != act.RESTART)
RESTARTS = (act.RESTART,)
BYPASSES = (act.CUT, act.TIMEOUT)

WHOLE = [
    ("write@a read@b read@c", Limits(faults=1, ticks=0, kinds=BUT_RESTARTS, leaves=True)),
    ("write@a read@b read@c", Limits(faults=1, ticks=1, kinds=RESTARTS)),
    ("write@a write@b read@c", Limits(faults=1, ticks=3, kinds=(act.CRASH, act.FLUSH, act.UNKNOWN))),
    ("write@a write@b read@c", Limits(faults=1, ticks=1, kinds=RESTARTS)),
    ("write@a write@b read@c", Limits(faults=1, ticks=0, kinds=(*BYPASSES, act.RETRY), leaves=True)),
    ("write@a remove@b read@c", Limits(faults=1, ticks=0)),
    ("write@a delete@b read@c", Limits(faults=1, ticks=0)),
    ("write@a read@a write@b", Limits(faults=1, ticks=1, kinds=(act.CUT,))),
    ("write@a read@b", Limits(faults=2, ticks=2, kinds=(act.CUT, act.CRASH))),
    ("write@a write@b read@c", Limits(faults=1, ticks=1, kinds=(act.RESTORE,))),
    ("write@a write@b", Limits(faults=2, ticks=0, kinds=BUT_RESTARTS)),
    ("write@a read@b", Limits(faults=2, ticks=0, leaves=True)),
    ("write@a read@b", Limits(faults=2, ticks=3, kinds=(act.RESTART, act.CRASH))),
    ("merge@a put@b", Limits(faults=1, ticks=1, kinds=(act.CUT, act.CRASH, act.TIMEOUT))),
]
SERVED = [
    ("write@a write@b read@c read@d", Limits(faults=0, ticks=3)),
    ("write@a delete@b write@b read@c", Limits(faults=0, ticks=1)),
    ("merge@a merge@b merge@a", Limits(faults=0, ticks=2)),
]
"""Nobody loses Redis, so what keeps the token makes no difference but in the number of situations."""


def label(value: Any) -> str:
    if isinstance(value, str):
        return value
    kinds = " ".join(act.VERBS[verb] for verb in value.kinds) if value.kinds != ALL_FAULTS else "any"
    return f"{value.faults} faults ({kinds}), {value.ticks} ticks"


class TestEveryOrder:
    @pytest.mark.parametrize(("workload", "limits"), WHOLE, ids=label)
    def test_nothing_is_broken_in_any_order_with_any_faults(self, workload: str, limits: Limits) -> None:
        parsed = parse_workload(workload)
        explored = explore(Rig(KINDS[parsed[0].kind]), parsed, limits)
        assert explored.violation is None
        assert explored.situations > 1_000

    @pytest.mark.parametrize(("workload", "limits"), SERVED, ids=label)
    def test_nothing_is_broken_in_any_order_while_entries_are_served(self, workload: str, limits: Limits) -> None:
        parsed = parse_workload(workload)
        explored = explore(Rig(KINDS[parsed[0].kind], Variant(reads_token=False)), parsed, limits)
        assert explored.violation is None
        assert explored.situations > 1_000

    def test_too_large_a_search_is_given_up(self) -> None:
        with pytest.raises(TooMany, match="smaller limits"):
            explore(Rig(DOCUMENT), parse_workload("write@a read@b"), Limits(situations=100))


class TestRandomOrder:
    @pytest.mark.parametrize(("key", "count"), [(DOCUMENT, 16_000), (LIST, 4_000)], ids=["document", "list"])
    def test_nothing_is_broken_in_random_orders(self, key: Any, count: int) -> None:
        campaign = Campaign(1, key=key)
        assert campaign.run(count) is None
        assert campaign.done == count

    def test_the_same_seed_gives_the_same_schedules(self) -> None:
        def drawn(seed: int) -> list[str]:
            random, world, texts = Random(seed), World(Rig(DOCUMENT), parse_workload("read@a")), []
            for _ in range(20):
                world.reset(random_workload(random, is_list=False))
                actions: list[int] = []
                random_run(world, random, (act.TICK, act.CRASH, act.RESTART), actions)
                texts.append(str(Schedule(world.workload, tuple(actions))))
            return texts

        assert drawn(1) == drawn(1) != drawn(2)

    def test_a_campaign_ends_where_it_should_within_a_block(self) -> None:
        campaign = Campaign(1)
        campaign.run(BLOCK + 1)
        assert campaign.done == BLOCK + 1


class TestSchedules:
    def test_a_schedule_is_read_back_as_it_was_printed(self) -> None:
        text = "write@a remove@b read@c | 0 timeout:1 retry:2 unknown:0 refuse:1 land:0 leave:1 stall:2 crash:a"
        text += " cut:b heal:b return:b keep:b lower:b bury:b deliver:0 tick vouch relay"
        text += " save restart flush evict-entry evict-right evict-leases backup restore"
        assert str(parse_schedule(text)) == text
        assert len(parse_schedule(text).actions) == len(act.VERBS)

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("write@a", "a bar"),
            ("writes@a | 0", "no operation"),
            ("write@z | 0", "no operation"),
            (" | 0", "1 to 8 operations"),
            ("write@a merge@a | 0", "about one key"),
            ("write@a | explode", "no action"),
            ("write@a | crash", "whom"),
            ("write@a | crash:0", "whom"),
            ("write@a | 9", "whom"),
            ("write@a | tick:a", "whom"),
        ],
    )
    def test_what_is_no_schedule_is_refused_with_the_reason(self, text: str, why: str) -> None:
        with pytest.raises(ValueError, match=why):
            parse_schedule(text)

    def test_what_cannot_happen_at_its_place_is_left_out(self) -> None:
        world = World(Rig(DOCUMENT), parse_workload("read@a"))
        assert play(world, parse_schedule("write@a | 7 land:0 deliver:0 heal:b retry:3 0 0 0 0")) is None
        assert world.steps[0].kind == DONE

    @pytest.mark.parametrize("name", [*INVARIANTS, *PROMISES])
    def test_a_broken_rule_is_reported_by_its_name(self, name: str) -> None:
        with pytest.raises(InvariantViolation, match=f"^{name} .*: here$"):
            broken(name, "here")


STORING = (fx.Upsert, fx.SoftRemove, deletion.Delete)
PAST = "vouch 0 0 0 cut:a 1 tick 1 1"
"""0 caches what was before; 1, of a client that has lost Redis, waits at the door, and MongoDB stores it."""
HELD_UP = "0 stall:0 tick tick tick vouch 1 1 1 0"
"""MongoDB stands still in the write of 0 until its lease is over, and 1 has cached what was before."""
PROMISED = [
    ("a write is seen by a read that begins after it", "write@a read@b | vouch 0 0 0 1", 1),
    ("a crashed writer's document is read from MongoDB", "write@a read@b | 0 crash:a land:0 1 1 1 1 1", 1),
    ("a client that is cut off sees what it wrote", f"read@a write@a read@a | {PAST} 1 2 2", 1),
    ("and still does when it is back", f"read@a write@a read@a | {PAST} 1 heal:a return:a 2 2 2 2 2", 1),
    ("others see it while it is away", f"read@b write@a read@b | {PAST} 1 2 2 2 2 2", 1),
    ("and when its timer has told Redis", f"read@b write@a read@b | {PAST} 1 heal:a tick tick 2 2 2 2 2", 1),
    ("and if it dies", f"read@b write@a read@b | {PAST} crash:a 2 2 2 2 2", 1),
    ("and after the flag of the dead is gone", f"read@b write@a read@b | {PAST} crash:a tick tick 2 2 2 2 2", 1),
    (
        "a client that could reach Redis and does not know goes past it",
        "write@a read@b | cut:a heal:a 0 tick 0 0 0 1 1 1 1 1",
        1,
    ),
    ("nothing of before a restore is read after it", "write@a read@b read@b | vouch 0 0 0 1 restore 2 2 2 2 2", 0),
    ("whoever does not wait for COMMIT has returned", "write@a read@b | vouch 0 0 leave:0 1 1", 1),
    ("its client sees it whenever COMMIT comes", "read@b write@a read@a | vouch 0 0 0 1 1 leave:1 2 2", 1),
    ("and if it is lost", "read@b write@a read@b | vouch 0 0 0 1 1 leave:1 timeout:1 2 2", 1),
    ("a write that MongoDB held up is seen", f"write@a read@b read@b | {HELD_UP} 0 2 2 2 2 2", 1),
    ("also if Redis is lost then", f"write@a read@b read@b | {HELD_UP} timeout:0 0 tick 0 2 2 2 2 2", 1),
]


class TestPromises:
    @pytest.mark.parametrize(("schedule", "rev"), [row[1:] for row in PROMISED], ids=[row[0] for row in PROMISED])
    def test_what_a_read_returns(self, schedule: str, rev: int) -> None:
        parsed = parse_schedule(schedule)
        world = World(Rig(DOCUMENT), parsed.workload)
        assert play(world, parsed) is None
        assert world.steps[len(parsed.workload) - 1].result.rev == rev


class Live:
    """The same actions with nothing remembered: the shipped generators over one memory Redis and MongoDB."""

    def __init__(self, world: World) -> None:
        self.token = 0
        self.redis = MemoryRedis(born=(1, -LEASE_TICKS - 1))
        self.cache = MemoryCache(self.redis, iter(lambda: str(self.token), None), LEASE_TICKS, WRITE_TICKS)
        self.truth = CountingTruth()
        self.plans = [world.rig.plan(op, number) for number, op in enumerate(world.workload)]
        self.asked: list[fx.Effect[Any] | None] = [plan.send(None) for plan in self.plans]
        self.results: dict[int, Any] = {}
        self.handlers: dict[type[Any], Callable[[Any], Any]] = {
            fx.CacheRead: self.cache.read,
            fx.Lease: self.cache.lease,
            fx.Commit: self.cache.commit,
            fx.Fill: self.cache.fill,
            fx.Abort: self.cache.abort,
            fx.Find: self.truth.find,
            fx.Upsert: self.truth.upsert,
            fx.SoftRemove: self.truth.remove,
            deletion.Delete: self.truth.delete,
        }

    def step(self, number: int) -> None:
        self.token = number
        effect = self.asked[number]
        answer = self.handlers[type(effect)](effect)
        if isinstance(answer, fx.Leased):
            answer = answer._replace(deadline_s=WRITE_TICKS / 1000)
        try:
            self.asked[number] = self.plans[number].send(answer)
        except StopIteration as done:
            self.asked[number] = None
            self.results[number] = done.value

    def suffer(self, verb: int) -> None:
        match verb:
            case act.TICK:
                self.redis.now_ms += 1
            case act.EVICT_ENTRY:
                self.redis.entries.clear()
            case act.EVICT_RIGHT:
                self.redis.rights.clear()
            case act.FLUSH:
                self.redis.flush()
            case act.RESTART:
                self.redis.restart()


def test_what_is_remembered_is_what_the_shipped_code_does() -> None:
    """Steps are computed once and looked up ever after; here each one is computed again, on objects that live on."""
    random, rig = Random(5), Rig(DOCUMENT)
    verbs = (act.TICK, act.EVICT_ENTRY, act.EVICT_RIGHT, act.FLUSH, act.RESTART)
    for _ in range(300):
        world = World(rig, random_workload(random, is_list=False))
        live = Live(world)
        while world.live:
            world.vouch(0)  # Whatever lives is served.
            action = random.choice([random.randrange(len(world.steps))] * 4 + [random.choice(verbs) * act.SUBJECTS])
            verb, subject = divmod(action, act.SUBJECTS)
            writes_late = verb == act.STEP and isinstance(live.asked[subject], STORING)
            if writes_late and world.is_late(subject, world.steps[subject]):
                break  # What is not sent is the client's decision, not the backends'.
            if verb == act.RESTART:
                world.apply(act.SAVE * act.SUBJECTS)
            if world.apply(action):
                live.step(subject) if verb == act.STEP else live.suffer(verb)
            assert [step.effect for step in world.steps] == live.asked
            held = world.redis_states.held[world.redis]
            assert held.entry == live.redis.entries.get(DOCUMENT)
            assert held.right == live.redis.rights.get(DOCUMENT)
            assert {token for token, _ in held.leases} == set(live.redis.leases.get(DOCUMENT, {}))
        assert {number: world.steps[number].result for number in live.results} == live.results
