"""The blocks role and the compaction service on real servers: whatever happens to them, reads are right, and in the end
every candle is in a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.audit.support import restart
from tests.integration.support import settings_for, store_for
from tests.worker.feed_support import publish

from backtest_kit_mongo.adapters.instances import StateInstance
from backtest_kit_mongo.backends.mongo.candles import MongoCandles
from backtest_kit_mongo.candles.codec import BLOCK_ROWS
from backtest_kit_mongo.candles.columns import Columns, of_rows, to_rows
from backtest_kit_mongo.candles.intervals import grid_of
from backtest_kit_mongo.candles.plans import FindBlocks, FindGeneration, FindRows, PutBlock
from backtest_kit_mongo.coherence.codec import pack
from backtest_kit_mongo.coherence.events import Event, Origin
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.table import CANDLE
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_mongo.operate.compaction import BlockRange, Compactor, Due, Thresholds, ToDo, find_ranges
from backtest_kit_worker.dead_letters import DeadLetterWriter
from backtest_kit_worker.deployment import Deployment, connect
from backtest_kit_worker.fence import PrimaryChanged
from backtest_kit_worker.loop import Loop, LoopOptions
from backtest_kit_worker.roles.blocks import BlocksRole
from backtest_kit_worker.services import blocks as service_module
from backtest_kit_worker.services.blocks import CompactionService

pytestmark = pytest.mark.live

STEP_MS = 60_000
GRID = grid_of("1m")
SPAN_MS = BLOCK_ROWS * STEP_MS
SCOPE = Key(CANDLE, ("e", "BTC", "1m"))
NOW = datetime(2024, 1, 1, tzinfo=UTC)
A_WHILE = timedelta(minutes=16)
Times = Iterable[int]


class Killed(BaseException):
    """What no handler of `Exception` sees, as no handler runs in a process that is killed."""


def row(place: int) -> dict[str, Any]:
    """The candle at an open time, counted in steps."""
    price = 100 + place % 7 / 4
    return {
        "timestamp": place * STEP_MS,
        "open": price,
        "high": price + 1,
        "low": price - 1,
        "close": price,
        "volume": place,
    }


def later() -> datetime:
    """When all that was noted until now is due."""
    return datetime.now(UTC) + A_WHILE


class Yard:
    """A deployment with a role, a service, and a plain model of what was written."""

    def __init__(self, deployment: Deployment, store: Store, exchange: str) -> None:
        self.scope = Key(CANDLE, (exchange, "BTC", "1m"))
        self.deployment, self.store, self.mongo = deployment, store, deployment.database
        (self.stream,) = deployment.streams
        self.model: dict[int, dict[str, Any]] = {}
        self.series = MongoCandles(self.mongo, 10, cache_max_bytes=0)
        self.compactor = Compactor(self.series, self.mongo)
        role = BlocksRole(deployment)
        self.loop = Loop(
            deployment.redis, [self.stream], role, DeadLetterWriter(self.mongo), "one", LoopOptions(block_ms=1)
        )

    def write(self, places: Times) -> None:
        """Append candles, and let the role hear of them."""
        rows = [row(place) for place in sorted(places)]
        self.store.append(self.scope, of_rows(rows), GRID)
        self.model.update((each["timestamp"], each) for each in rows)
        self.loop.run_until_idle()

    def service(self, series: Any = None, now: Callable[[], datetime] = later) -> CompactionService:
        made = CompactionService(self.deployment, series, now)
        made.open()
        return made

    @property
    def pending(self) -> dict[int, int]:
        return {found["start"] // SPAN_MS: found["pending"] for found in self.mongo["candle-ranges"].find()}

    @property
    def blocks(self) -> dict[int, int]:
        """How many candles the blocks hold, by number of the range; each was compared with its documents."""
        held = {}
        for each in find_ranges(self.mongo, self.scope):
            checked = self.compactor.verify(each)
            assert not checked.fault
            if checked.in_block is not None:
                held[each.start // SPAN_MS] = checked.in_block
        return held

    def check_reads(self) -> None:
        """Whatever blocks there are, a read gives what was written."""
        found = self.store.columns(self.scope, GRID, -SPAN_MS, 10 * SPAN_MS)
        assert to_rows(found) == [self.model[moment] for moment in sorted(self.model)]


@pytest.fixture(scope="module")
def shared(servers: Endpoints, new_database: Callable[[], str]) -> Iterator[tuple[Deployment, Store]]:
    """One database for all tests: making its collections and indexes costs more than most of them."""
    name = f"{new_database()}_worker"
    deployment = connect(settings_for(servers, name), block_ms=100)
    with store_for(servers, name) as store:
        yield deployment, store
    deployment.close()


@pytest.fixture
def yard(shared: tuple[Deployment, Store], request: pytest.FixtureRequest) -> Iterator[Yard]:
    """A series of its own, because no block of a series that the store has kept ever becomes invalid."""
    made = Yard(*shared, request.node.name)
    yield made
    made.deployment.redis.delete(made.stream)
    for name in ("candle-ranges", "parked-items"):
        made.mongo[name].delete_many({})


@pytest.fixture
def mongo(yard: Yard) -> Any:
    return yard.mongo


class Watched:
    """The real series; a test may look in before or after a step, or kill the process there."""

    def __init__(self, series: MongoCandles, step: str, act: Callable[[Any], None]) -> None:
        self._series, self._step, self._act = series, step, act

    def _at(self, step: str, effect: Any) -> None:
        if step == self._step:
            self._act(effect)

    def find_blocks(self, effect: FindBlocks) -> Any:
        return self._series.find_blocks(effect)

    def find_rows(self, effect: FindRows) -> Columns:
        self._at("before reading", effect)
        rows = self._series.find_rows(effect)
        self._at("after reading", effect)
        return rows

    def find_generation(self, effect: FindGeneration) -> int:
        return self._series.find_generation(effect)

    def put_block(self, effect: PutBlock) -> None:
        self._at("before storing", effect)
        self._series.put_block(effect)
        self._at("after storing", effect)


def killed(_: Any) -> None:
    raise Killed


# -- the role


def test_new_candles_are_noted_by_range(yard: Yard) -> None:
    yard.write([0, 1, 2, 9, *range(BLOCK_ROWS - 2, BLOCK_ROWS + 3)])
    yard.write([3])
    assert yard.pending == {0: 7, 1: 3}
    (noted,) = yard.mongo["candle-ranges"].find({"_id": f"{yard.scope.parts[0]}:BTC:1m/{SPAN_MS}"})
    assert (noted["exchangeName"], noted["symbol"], noted["interval"]) == yard.scope.parts
    assert (noted["start"], noted["end"], noted["oldestAt"]) == (SPAN_MS, 2 * SPAN_MS, noted["changedAt"])


def test_other_events_are_ignored(yard: Yard) -> None:
    yard.write([0])
    StateInstance(yard.store, "signal", "bucket").write_state_data({"data": 1}, 1_000)
    yard.store.append(yard.scope, of_rows([{**row(0), "volume": 9}]), GRID)
    of_a_later_release = Event("orderbook", ("x",), "d", 1, "batch", None, 1, Origin("h", 1), pack({"levels": 3}))
    publish(yard.deployment.redis, yard.stream, of_a_later_release)
    assert yard.loop.run_until_idle() >= 2
    assert yard.pending == {0: 1}
    assert yard.mongo["parked-items"].count_documents({}) == 0


def test_a_redelivery_counts_again_and_harms_nothing(yard: Yard) -> None:
    yard.write([0, 1])
    yard.deployment.redis.xgroup_setid(yard.stream, BlocksRole.name, "0")
    yard.loop.run_until_idle()
    assert yard.pending == {0: 4}
    assert yard.service().run_once() == 1
    assert (yard.pending, yard.blocks) == ({}, {0: 2})
    yard.deployment.redis.xgroup_setid(yard.stream, BlocksRole.name, "0")
    yard.loop.run_until_idle()
    assert yard.service().run_once() == 1
    assert (yard.pending, yard.blocks) == ({}, {0: 2})


@pytest.mark.parametrize(
    ("interval", "ranges"), [("7m", [[0, 0, 1]]), ("1m", [[0, STEP_MS, 3]]), ("1m", [[0, 10**15, 1]])]
)
def test_an_event_that_makes_no_sense_is_parked(yard: Yard, interval: str, ranges: list[list[int]]) -> None:
    body = pack({"ranges": ranges, "count": 1})
    publish(
        yard.deployment.redis,
        yard.stream,
        Event("candle", (yard.scope.parts[0], "BTC", interval), "d", 1, "batch", None, 1, Origin("h", 1), body),
    )
    yard.write([0])
    assert yard.pending == {0: 1}
    assert yard.mongo["parked-items"].count_documents({"role": "blocks"}) == 1


# -- the list


@pytest.mark.parametrize(
    ("pending", "noted_at", "asked_at", "is_due"),
    [
        (3, NOW, NOW + timedelta(minutes=14), False),
        (3, NOW, NOW + timedelta(minutes=15), True),
        (255, NOW, NOW, False),
        (256, NOW, NOW, True),
        (3, NOW - timedelta(days=400), NOW - timedelta(days=400) + timedelta(minutes=1), False),
    ],
)
def test_a_range_that_grows_is_due_by_number_or_age(
    mongo: Any, pending: int, noted_at: datetime, asked_at: datetime, is_due: bool
) -> None:
    to_do = ToDo(mongo)
    growing = BlockRange(SCOPE, int(NOW.timestamp() * 1000) // SPAN_MS * SPAN_MS)
    to_do.add({growing: pending}, noted_at)
    assert to_do.due(asked_at, 9) == ([Due(growing, pending, noted_at)] if is_due else [])


def test_a_range_that_is_over_is_due_once_it_is_quiet(mongo: Any) -> None:
    to_do = ToDo(mongo)
    over = BlockRange(SCOPE, 0)
    to_do.add({over: 1}, NOW)
    to_do.add({over: 1}, NOW + timedelta(seconds=9))
    assert to_do.due(NOW + timedelta(seconds=11), 9) == []
    assert to_do.due(NOW + timedelta(seconds=19), 9) == [Due(over, 2, NOW)]


def test_what_waits_longest_is_first(mongo: Any) -> None:
    to_do = ToDo(mongo, Thresholds(pending_min=1))
    for number in (2, 0, 1):
        to_do.add({BlockRange(SCOPE, number * SPAN_MS): 1}, NOW + timedelta(seconds=number))
    assert [due.range.start // SPAN_MS for due in to_do.due(NOW, 2)] == [0, 1]


def test_a_slower_compactor_takes_nothing_off_the_list_that_it_did_not_see(mongo: Any) -> None:
    to_do = ToDo(mongo, Thresholds(pending_min=1))
    to_do.add({BlockRange(SCOPE, 0): 5}, NOW)
    (seen,) = to_do.due(NOW, 9)
    to_do.settle(seen, NOW)
    assert to_do.due(NOW, 9) == []
    to_do.add({BlockRange(SCOPE, 0): 5}, NOW + timedelta(seconds=1))
    to_do.settle(seen, NOW + timedelta(seconds=2))
    assert [due.pending for due in to_do.due(NOW, 9)] == [5]


def test_of_two_compactors_that_saw_the_same_only_one_subtracts(mongo: Any) -> None:
    to_do = ToDo(mongo, Thresholds(pending_min=1))
    to_do.add({BlockRange(SCOPE, 0): 5}, NOW)
    (seen,) = to_do.due(NOW, 9)
    to_do.add({BlockRange(SCOPE, 0): 3}, NOW + timedelta(seconds=1))
    for _ in range(2):
        to_do.settle(seen, NOW + timedelta(seconds=2))
    assert to_do.due(NOW, 9) == [Due(BlockRange(SCOPE, 0), 3, NOW + timedelta(seconds=2))]


# -- the service


def test_a_growing_end_is_compacted_again_and_again(yard: Yard) -> None:
    service = yard.service()
    for end in (3, 5, BLOCK_ROWS + 1):
        yard.write(range(end))
        while service.run_once():
            yard.check_reads()
        assert sum(yard.blocks.values()) == end
    assert yard.blocks == {0: BLOCK_ROWS, 1: 1}
    assert yard.pending == {}


def test_what_is_not_due_is_left_alone(yard: Yard) -> None:
    yard.write([0])
    assert yard.service(now=lambda: datetime.now(UTC)).run_once() == 0
    assert (yard.pending, yard.blocks) == ({0: 1}, {})


def test_a_backfill_into_an_old_block_is_read_at_once_and_compacted(yard: Yard) -> None:
    service = yard.service()
    yard.write([*range(0, 40, 2), 100])
    service.run_once()
    yard.write([*range(1, 40, 2), 99, 101])
    assert yard.blocks == {0: 21}
    yard.check_reads()
    service.run_once()
    assert yard.blocks == {0: 43}
    yard.check_reads()


def test_candles_of_foreign_writers_get_into_the_block_with_the_next_ones(yard: Yard) -> None:
    yard.write([0, 1])
    yard.mongo["candle-items"].insert_one({**yard.scope.query(), **row(2), "timestamp": 2.0 * STEP_MS})
    yard.model[2 * STEP_MS] = row(2)
    yard.service().run_once()
    assert yard.blocks == {0: 3}
    yard.check_reads()


@pytest.mark.parametrize("step", ["before reading", "after reading", "before storing", "after storing"])
@pytest.mark.parametrize("has_block", [False, True])
def test_a_crash_at_any_step_leaves_reads_right_and_the_work_on_the_list(
    yard: Yard, step: str, has_block: bool
) -> None:
    if has_block:
        yard.write([0, 1, 5])
        yard.service().run_once()
    yard.write([2, 3, BLOCK_ROWS])
    with pytest.raises(Killed):
        yard.service(Watched(yard.series, step, killed)).run_once()
    yard.check_reads()
    assert yard.pending == {0: 2, 1: 1}
    assert yard.service().run_once() == 2
    assert (yard.pending, yard.blocks) == ({}, {0: 5 if has_block else 2, 1: 1})
    yard.check_reads()


def test_candles_that_arrive_during_a_compaction_stay_on_the_list(yard: Yard) -> None:
    yard.write([0, 1])
    service = yard.service(Watched(yard.series, "after reading", lambda _: yard.write([2, 3, 4])))
    assert service.run_once() == 1
    assert (yard.pending, yard.blocks) == ({0: 3}, {0: 2})
    yard.check_reads()
    assert yard.service().run_once() == 1
    assert (yard.pending, yard.blocks) == ({}, {0: 5})


def test_no_block_is_stored_of_documents_that_a_restore_may_have_taken_away(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard.write([0, 1])
    with monkeypatch.context() as patch:
        find_rows = MongoCandles.find_rows

        def set_back(self: MongoCandles, effect: FindRows) -> Columns:
            rows = find_rows(self, effect)
            restart(patch)
            return rows

        patch.setattr(MongoCandles, "find_rows", set_back)
        with pytest.raises(PrimaryChanged, match="another mongod"):
            yard.service().run_once()
        assert yard.mongo["candle-blocks"].count_documents(yard.scope.query()) == 0
    assert yard.service().run_once() == 1
    assert (yard.pending, yard.blocks) == ({}, {0: 2})


def test_an_older_block_that_comes_last_is_right_too(yard: Yard) -> None:
    yard.write([0, 1])

    def another(_: Any) -> None:
        yard.write([2])
        assert yard.service().run_once() == 1
        assert (yard.pending, yard.blocks) == ({}, {0: 3})

    yard.service(Watched(yard.series, "before storing", another)).run_once()
    assert (yard.pending, yard.blocks) == ({}, {0: 2})
    yard.check_reads()
    yard.write([3])
    yard.service().run_once()
    assert yard.blocks == {0: 4}


def test_two_services_at_once_make_every_block(yard: Yard) -> None:
    yard.write(number * BLOCK_ROWS + place for number in range(6) for place in range(3))
    services = [yard.service(), yard.service()]
    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(CompactionService.run_once, services))
    assert (yard.pending, yard.blocks) == ({}, dict.fromkeys(range(6), 3))
    yard.check_reads()


def test_one_run_is_bounded(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "RANGES_MAX", 2)
    yard.write(number * BLOCK_ROWS for number in range(3))
    service = yard.service()
    assert [service.run_once() for _ in range(3)] == [2, 1, 0]


def test_a_range_that_cannot_be_compacted_does_not_keep_others_waiting(yard: Yard) -> None:
    for number in range(3):
        yard.write([number * BLOCK_ROWS])

    def refuse(effect: FindRows) -> None:
        if effect.ranges[0][0] == 0:
            raise ValueError("cannot be read")

    service = yard.service(Watched(yard.series, "before reading", refuse))
    for _ in range(2):
        with pytest.raises(ValueError, match="cannot be read"):
            service.run_once()
    assert (yard.pending, yard.blocks) == ({0: 1}, {1: 1, 2: 1})
    yard.service().run_once()
    assert (yard.pending, yard.blocks) == ({}, {0: 1, 1: 1, 2: 1})


def test_a_range_whose_documents_are_gone_leaves_the_list(yard: Yard) -> None:
    yard.write([0])
    yard.mongo["candle-items"].delete_many(yard.scope.query())
    assert yard.service().run_once() == 1
    assert (yard.pending, yard.blocks) == ({}, {})
