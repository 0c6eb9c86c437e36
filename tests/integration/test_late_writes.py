"""A command that arrives after its deadline writes nothing, whatever it is and however long it was on its way."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from types import SimpleNamespace
from typing import Any

import bson
import pytest
from bson import Decimal128, Int64, ObjectId, Timestamp
from bson.raw_bson import RawBSONDocument
from pymongo.collection import Collection
from pymongo.errors import ServerSelectionTimeoutError
from tests.integration.support import eventually, settings_for

from backtest_kit_mongo.adapters.candle_instance import CandleInstance
from backtest_kit_mongo.backends.mongo import deadline, inserting
from backtest_kit_mongo.backends.mongo.deadline import ServerClocks
from backtest_kit_mongo.backends.mongo.decoding import RAW, Raw
from backtest_kit_mongo.backends.mongo.documents import MongoTruth
from backtest_kit_mongo.coherence.record import Key, Record
from backtest_kit_mongo.collections.crud import BaseCRUD
from backtest_kit_mongo.domains.checks import make_change
from backtest_kit_mongo.domains.table import CANDLE, MEMORY, STATE, STORAGE
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_mongo.errors import LegacyIndex, UnsafeServer, WriteOutcomeUnknown, WriteRefused, WriteTooLate
from backtest_kit_mongo.limits import write_until
from backtest_kit_mongo.setup import make_store
from backtest_kit_mongo.testing.examples import example
from backtest_kit_verify.chaos.wire import Wire

pytestmark = pytest.mark.live

PATIENCE_S = 0.3
"""Of the caller of a write that is held up."""
TRIES = 5
"""On a busy machine MongoDB may need longer than that for a write, and `maxTimeMS` ends it."""
STATE_KEY, MEMORY_KEY, ROW_KEY = Key(STATE, ("s", "b")), Key(MEMORY, ("s", "b", "m")), Key(STORAGE, (True, "row"))
NOTES, IDENTITY = "notes", "cache-identity"
NOW = datetime(2024, 1, 1, tzinfo=UTC)


class Notes(BaseCRUD):
    """A user's collection over one store, not the process's own."""

    def __init__(self, truth: MongoTruth, database: str) -> None:
        super().__init__(NOTES)
        anything: Any = truth.client[database]
        self._over: Collection[Raw] = anything.get_collection(NOTES, codec_options=RAW)
        self._write = partial(truth.write_in_time, NOTES)  # type: ignore[method-assign]

    @property
    def _collection(self) -> Collection[Raw]:
        return self._over


class Bed:
    """Two stores of one database; every byte from one of them to MongoDB goes over a wire.

    Attributes:
        far, near: the stores. note: the id of a note that exists.
    """

    def __init__(self, servers: Endpoints, database: str, wire: Wire) -> None:
        self.database, self.wire, self._numbers = database, wire, count(1)
        string = f"mongodb://127.0.0.1:{wire.port}/{database}?directConnection=true"
        self.far = make_store(settings_for(servers, database, mongo_connection_string=string, lease_ms=15_000))
        self.near = make_store(settings_for(servers, database, lease_ms=15_000))
        for store in (self.near, self.far):
            store.open()
        self.note = Notes(self.truth, database).create({"text": "first"})["id"]
        for value in (STATE_KEY, MEMORY_KEY):
            self.document(self.near, value)
        self.row(self.near)
        self.candles(self.near, 0)
        self.candles(self.far, 0)  # So that all of it is made, which happens on first use.

    @property
    def truth(self) -> MongoTruth:
        truth = self.far.truth
        assert isinstance(truth, MongoTruth)
        return truth

    @property
    def mongo(self) -> Any:
        near: Any = self.near.truth
        return near.client

    def document(self, store: Store, key: Key) -> Record:
        return store.write(make_change(key, example(key.domain, f"{next(self._numbers)}"), 5))

    def row(self, store: Store, item: str = "row") -> None:
        key = ROW_KEY.scope.child(item)
        store.merge(key.scope, [make_change(key, {**example(STORAGE, item), "text": f"{next(self._numbers)}"})])

    def candles(self, store: Store, start: int | None = None) -> None:
        number = next(self._numbers)
        row = {**example(CANDLE, "x"), "volume": float(number)}
        row["timestamp"] += (number if start is None else start) * 60_000
        CandleInstance(store, "BTC", "1m", "e").write_candles_data([row])

    def notes(self) -> Notes:
        return Notes(self.truth, self.database)

    def content(self) -> Mapping[str, Any]:
        database = self.mongo[self.database]
        names = set(database.list_collection_names()) - {IDENTITY}  # That one is counted up all the time.
        found = {name: list(database[name].find(sort=[("_id", 1)])) for name in names}
        return {name: documents for name, documents in found.items() if documents}

    def refusals(self) -> int:
        """What the server has refused so far, single statements too."""
        return int(self.mongo.admin.command("serverStatus")["asserts"]["user"])


@pytest.fixture(scope="module")
def bed(servers: Endpoints, new_database: Callable[[], str]) -> Iterator[Bed]:
    host, port = re.findall(r"([\d.]+):(\d+)", servers.mongo_url)[0]
    with Wire(host, int(port)) as wire:
        bed = Bed(servers, f"{new_database()}_late", wire)
        yield bed
        for store in (bed.far, bed.near):
            store.close()


Write = Callable[[Bed], object]
WRITES: Mapping[str, tuple[Write, Write]] = {
    "a document": (lambda bed: bed.document(bed.far, STATE_KEY), lambda bed: bed.document(bed.near, STATE_KEY)),
    "a removal": (lambda bed: bed.far.remove(MEMORY_KEY), lambda bed: bed.document(bed.near, MEMORY_KEY)),
    "a changed row": (
        lambda bed: bed.row(bed.far),
        lambda bed: None,
    ),  # A newer one it could not overwrite: it names its revision.
    "a new row": (lambda bed: bed.row(bed.far, "another"), lambda bed: None),
    "candles": (lambda bed: bed.candles(bed.far), lambda bed: None),
    "contradicting candles": (lambda bed: bed.candles(bed.far, 0), lambda bed: None),
    "a user's new document": (lambda bed: bed.notes().create({"text": "old"}), lambda bed: None),
    "a user's document": (
        lambda bed: bed.notes().update(bed.note, {"text": "old"}),
        lambda bed: bed.mongo[bed.database][NOTES].update_one({"_id": ObjectId(bed.note)}, {"$set": {"text": "new"}}),
    ),
}
"""By name: a write over the wire, and a newer one beside it."""


def held_up(bed: Bed, monkeypatch: pytest.MonkeyPatch, name: str) -> tuple[int, Mapping[str, Any]]:
    """Cut the wire while a write is under way, write something newer, and heal. Returns what was refused and stored
    until then.
    """
    old, newer = WRITES[name]
    write = bed.truth.write_in_time

    def cut_first(*arguments: Any) -> Any:
        bed.truth.client.admin.command("ping")  # A connection that is open already.
        bed.wire.cut()
        return write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(bed.truth, "write_in_time", cut_first)
        patch.setattr(bed.truth.series, "_write", cut_first)
        patch.setattr(bed.truth._deadlines, "_timeout_s", PATIENCE_S)
        with pytest.raises(WriteOutcomeUnknown, match=r"what has not happened \d+ ms from now never will"):
            old(bed)
    newer(bed)
    before = bed.refusals(), bed.content()
    bed.wire.heal()
    return before


@pytest.mark.parametrize("name", WRITES)
def test_what_arrives_late_writes_nothing(bed: Bed, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    refusals, content = held_up(bed, monkeypatch, name)
    eventually(lambda: bed.refusals() > refusals)
    assert bed.content() == content


@pytest.mark.parametrize("name", ["a document", "a changed row", "candles"])
def test_without_the_deadline_it_would_be_written(bed: Bed, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """One of each command: so the test above can fail."""
    monkeypatch.setattr(deadline, "LATE", "1")
    for _ in range(TRIES):
        refusals, content = held_up(bed, monkeypatch, name)
        eventually(lambda: bed.content() != content or bed.refusals() > refusals)  # noqa: B023
        if bed.content() != content:
            return
    pytest.fail("it was never written")


def test_what_a_block_writes_never_arrives_after_its_moment(bed: Bed) -> None:
    with write_until(time.monotonic() - 1), pytest.raises(WriteRefused, match="nothing was written"):
        bed.document(bed.far, STATE_KEY)
    refusals, content = bed.refusals(), bed.content()
    bed.truth.client.admin.command("ping")
    bed.wire.cut()
    moment_s = time.monotonic() + 2 * PATIENCE_S
    with write_until(moment_s), pytest.raises(WriteOutcomeUnknown):
        bed.document(bed.far, STATE_KEY)
    eventually(lambda: time.monotonic() > moment_s)
    bed.wire.heal()
    eventually(lambda: bed.refusals() > refusals)
    assert bed.content() == content


def test_a_refused_write_is_sent_once_more_with_the_clock_learned_anew(bed: Bed) -> None:
    """MongoDB's clock was set ahead by an hour, or this process was asleep for one."""
    seen = bed.truth._deadlines.clocks._seen
    ((address, known),) = seen.items()
    seen[address] = known._replace(server_ms=known.server_ms - 3_600_000)
    bed.document(bed.far, STATE_KEY)
    assert abs(seen[address].server_ms - known.server_ms) < 600_000


def test_a_clock_that_is_lost_while_a_command_is_encoded_is_learned_anew(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's heartbeat failed after the driver had chosen it."""
    known = bed.truth._deadlines.clocks.least_ms
    answers = iter([ServerSelectionTimeoutError("nobody")])

    def lost_once(_: ServerClocks, at_s: float) -> int:
        for nobody in answers:
            raise nobody
        return known(at_s)

    monkeypatch.setattr(ServerClocks, "least_ms", lost_once)
    bed.document(bed.far, STATE_KEY)
    assert not list(answers)


def test_a_write_that_stays_late_is_an_error_of_its_own_and_is_not_repeated_for_ever(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def long_ago(_: ServerClocks, at_s: float) -> int:
        asked.append(at_s)
        return 0

    monkeypatch.setattr(ServerClocks, "least_ms", long_ago)
    content = bed.content()
    for name in ("a document", "a removal", "a changed row", "a new row", "a user's document"):
        asked.clear()
        with pytest.raises(WriteTooLate, match="nothing was written"):
            WRITES[name][0](bed)
        assert len(asked) == 2
    assert bed.content() == content


def test_a_refusal_does_not_hide_that_an_earlier_attempt_may_have_got_through(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of one list go in two commands; the second comes too late."""
    bed.row(bed.far)
    moments = iter([2**42, 0])
    monkeypatch.setattr(ServerClocks, "least_ms", lambda *_: next(moments))
    changes = [
        make_change(ROW_KEY.scope.child(item), {**example(STORAGE, item), "text": "z"})
        for item in ("row", "never seen")
    ]
    with pytest.raises(WriteOutcomeUnknown, match="may or may not"):
        bed.far.merge(ROW_KEY.scope, changes)


def test_a_write_whose_answer_was_lost_is_applied_once(bed: Bed) -> None:
    rev = bed.near.read(STATE_KEY).rev
    bed.wire.lose_answer(b"lastErrorObject")
    assert bed.document(bed.far, STATE_KEY).rev == rev + 1


def test_a_server_that_does_not_refuse_what_is_late_is_not_used(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadline, "LATE", "1")
    with pytest.raises(UnsafeServer, match=r"6\.0 or newer"):
        bed.truth.open()


@pytest.mark.parametrize(("heard", "known"), [([10, 30, 20], 20), ([10, None, 30], 30)])
def test_of_a_clock_the_newest_answer_counts_so_that_one_that_was_set_back_is_noticed(
    heard: list[int | None], known: int
) -> None:
    clocks = ServerClocks()
    for second in heard:
        event: Any = SimpleNamespace(connection_id="a")
        if second is None:
            clocks.failed(event)
            continue
        hello = {"localTime": NOW + timedelta(seconds=second)}
        event.reply = SimpleNamespace(is_writable=True, document=hello)
        clocks.succeeded(event)
    ((_, seen),) = clocks._seen.items()
    assert clocks.least_ms(seen.at_s) <= (NOW.timestamp() + known) * 1000


def test_after_a_failover_the_deadline_is_by_the_new_primary_s_clock() -> None:
    clocks = ServerClocks()

    def heartbeat(address: str, is_writable: bool, hour: int) -> None:
        hello = {"localTime": NOW + timedelta(hours=hour)}
        event: Any = SimpleNamespace(
            connection_id=address, reply=SimpleNamespace(is_writable=is_writable, document=hello)
        )
        clocks.succeeded(event)

    heartbeat("a", True, 1)
    heartbeat("b", False, 5)
    now_s = clocks._seen["a"].at_s
    assert clocks.least_ms(now_s) == pytest.approx((NOW.timestamp() + 3600) * 1000, abs=1000)
    heartbeat("a", False, 1)
    heartbeat("b", True, 5)
    assert clocks.least_ms(now_s) == pytest.approx((NOW.timestamp() + 5 * 3600) * 1000, abs=1000)


ODD = {
    "$a.b": [-0.0, float("nan"), float("-inf"), 1, Int64(1), 1.0, {}, [], None, b"x", NOW, "$foo", "$$NOW"],
    "z": {"$ref": "c", "$id": 1, "b": Decimal128("1.10"), "a": bson.MinKey(), "t": Timestamp(0, 0)},
}


def test_inserted_documents_are_stored_to_the_byte_and_those_that_met_a_key_are_reported(bed: Bed) -> None:
    rows = bed.mongo[bed.database].get_collection(
        "odd", codec_options=bson.CodecOptions(document_class=RawBSONDocument)
    )
    rows.create_index([(name, 1) for name in STORAGE.columns], unique=True)
    scope = dict.fromkeys(STORAGE.columns[:-1], "$symbol")
    documents = [
        RawBSONDocument(bson.encode({"_id": ObjectId(), **scope, STORAGE.columns[-1]: f"{number}", "payload": ODD}))
        for number in range(6)
    ]

    def insert(*numbers: int) -> set[int]:
        chosen = [documents[number] for number in numbers]
        return bed.truth.write_in_time("rows", lambda let: inserting.insert(STORAGE, rows, chosen, let))

    assert insert(0) == set()
    stranger = RawBSONDocument(bson.encode({**documents[1], "_id": "another"}))
    rows.insert_one(stranger)
    # The first is stored under its own _id (as by an attempt whose answer was lost), the second is another's.
    assert insert(0, 1, 2, 3, 4, 5) == {1}
    stored = [each.raw for each in rows.find(sort=[(STORAGE.columns[-1], 1)])]
    assert stored == [each.raw for each in (documents[0], stranger, *documents[2:])]


def test_an_insertion_that_another_index_forbids_is_no_known_row(bed: Bed) -> None:
    rows = bed.mongo[bed.database]["forbidden"]
    rows.create_index([(name, 1) for name in STORAGE.columns], unique=True)
    rows.create_index([("payload", 1)], unique=True)
    scope = dict.fromkeys(STORAGE.columns[:-1], "x")
    documents = [
        RawBSONDocument(bson.encode({"_id": ObjectId(), **scope, STORAGE.columns[-1]: str(number), "payload": 1}))
        for number in range(2)
    ]
    with pytest.raises(LegacyIndex, match="payload"):
        bed.truth.write_in_time("rows", lambda let: inserting.insert(STORAGE, rows, documents, let))


def test_many_documents_go_in_commands_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    document = RawBSONDocument(bson.encode({"_id": 1}))
    monkeypatch.setattr(inserting, "PART_BYTES", 3 * len(document.raw))
    parts = list(inserting._parts([document] * 7))
    assert [(start, len(part)) for start, part in parts] == [(0, 3), (3, 3), (6, 1)]
