"""What a trace shows of data that says less than the engine's: of other programs, of earlier versions, found by
recovery.
"""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from pymongo.database import Database
from tests.audit.support import START, Worker, change, foreign, gap

from backtest_kit_mongo.audit import AuditLog
from backtest_kit_mongo.audit.tracing import trace
from backtest_kit_mongo.audit.tracing.choosing import SignalThen, meant
from backtest_kit_mongo.coherence.causes import Cause
from backtest_kit_mongo.coherence.codec import millis
from backtest_kit_mongo.coherence.events import UnknownEvent, decode
from backtest_kit_mongo.errors import NotFound

Documents = Database[dict[str, Any]]
CONTEXT = ("BTC/USDT", "trend", "binance")
AT = millis(START)


def position(**changed: Any) -> dict[str, Any]:
    row = {"id": "s-1", "position": "long", "priceStopLoss": 95.0, "priceTakeProfit": 110.0, "pendingAt": AT}
    return {**row, **changed}


def test_rows_of_another_program_are_found_by_what_they_hold_and_the_rest_is_named(
    worker: Worker, database: Documents
) -> None:
    def row(rev: int, payload: dict[str, Any]) -> Any:
        return change(rev, payload, domain="signal", key=CONTEXT, document="p")._replace(when=None)

    closed = {"id": "s-1", "status": "closed", "position": "long", "pendingAt": AT, "priceOpen": 100.0}
    closed |= {"currentPrice": 99.0, "closeReason": "stop_loss", "closeTimestamp": AT + 600_000}
    told = {"type": "breakeven.available", "signalId": "s-1", "timestamp": AT + 60_000, "currentPrice": 101}
    worker.record(
        [
            row(1, position()),
            row(2, position(_trailingPriceStopLoss=99.0)),
            row(3, {})._replace(body=b"\xc0"),
            row(4, position(id="s-2")),
            change(1, closed, domain="storage", key=(False, "s-1"), document="h")._replace(when=None),
            change(1, told, domain="notification", key=(False, "n-1"), document="n")._replace(when=None),
        ]
    )
    worker.writer.write([{**foreign(1, 5, position(), document="p"), "domain": "signal", "key": list(CONTEXT)}])
    found = trace(AuditLog(database), "s-1")
    assert (found.symbol, found.mode, found.status) == ("BTC/USDT", "live", "closed")
    assert sorted(record.id for record in found.records()) == [
        "notification/n/1", "signal/p/1", "signal/p/2", "signal/p/3", "state/p/1~5", "storage/h/1",
    ]  # fmt: skip
    assert [(mark.kind, mark.price) for mark in found.marks if mark.kind != "take"] == [
        ("entry", 100.0), ("level", 101.0), ("stop", 95.0), ("stop", 99.0), ("exit", 99.0),
    ]  # fmt: skip
    said = "\n".join(found.missing)
    assert "6 of 6 records say nothing of what caused them" in said
    assert "what the strategy saw" in said
    assert "orders and their replies" in said


def test_what_is_stamped_stands_below_what_led_to_it_and_a_lost_step_is_named(
    worker: Worker, database: Documents
) -> None:
    def stamped(rev: int, step: str, parent: str) -> Any:
        cause = Cause("s-1", f"{AT}/{step}", f"{AT}/{parent}", AT)
        return change(rev, {"rev": rev}, domain="state", key=("owner", "b"))._replace(cause=cause)

    worker.record([stamped(1, "asked", "tick"), stamped(2, "opened", "order-open-0"), stamped(3, "closed", "asked")])
    found = trace(AuditLog(database), "s-1")
    (minute,) = found.steps
    assert (minute.what, minute.at) == ("tick", AT)
    assert [step.what for step in minute.steps] == ["asked", "opened"]
    assert [step.what for step in minute.steps[0].steps] == ["closed"]
    assert minute.steps[0].writers == ("host:7",)
    assert any("order-open-0" in text and "no record" in text for text in found.missing)
    assert found.to_dict()["steps"][0]["steps"][0]["changes"][0]["payload"] == {"rev": 1}
    worker.record([change(4, domain="state", key=("owner", "b"))])  # Its stamp was lost; its key names the owner.
    assert "state/d1/4" in {record.id for record in trace(AuditLog(database), "s-1").records()}


def test_records_of_a_release_that_did_not_say_whose_they_are_are_found_by_keys_and_contents(
    worker: Worker, database: Documents
) -> None:
    def of(domain: str, key: tuple[Any, ...], payload: Any, rev: int = 1) -> Any:
        return change(rev, payload, domain=domain, key=key, document=f"{domain}-d")

    context = {"symbol": CONTEXT[0], "strategyName": CONTEXT[1], "exchangeName": CONTEXT[2]}
    ours = [
        of("storage", (False, "s-1"), {**context, **position(), "status": "opened"}),
        *(
            of("signal", CONTEXT, payload, rev)
            for rev, payload in ((5, position()), (6, position(note="x")), (7, None))
        ),
        of("strategy", CONTEXT, {"closedSignal": position()}),
        of("recent", (*CONTEXT, "", False), position()),
        of("notification", (False, "n-1"), {"type": "signal.opened", "signalId": "s-1"}),
        of("partial", (*CONTEXT, "s-1"), {}),
        of("memory", ("s-1", "bucket", "memory"), {"data": 1}),
    ]
    ours[3] = ours[3]._replace(body=b"\xc0")
    others = [
        *(of("signal", CONTEXT, position(id="s-0"), rev) for rev in range(1, 5)),
        change(1, {"type": "x", "signalId": "s-2"}, domain="notification", key=(False, "n-2"), document="n-2"),
        change(1, {}, domain="partial", key=("ETH", *CONTEXT[1:], "s-2"), document="partial-2"),
    ]
    worker.record([*ours, *others])
    stamped = Cause("s-1", f"{AT}/opened", "", AT)
    database["audit-items"].update_many({}, {"$unset": {"signal": ""}})
    worker.record([of("storage", (False, "s-1"), {**position(), "status": "closed"}, 2)._replace(cause=stamped)])
    wanted = sorted([*(event.id for event in ours), "storage/storage-d/2"])
    found = trace(AuditLog(database), "s-1")
    assert sorted(record.id for record in found.records()) == wanted
    assert found.status == "closed"
    assert any("8 records are of a release that did not" in text for text in found.missing)

    database["audit-items"].drop_index("signal_1")
    try:
        found = trace(AuditLog(database), "s-1")
        assert sorted(record.id for record in found.records()) == wanted
        assert "the index over signals is not there yet" in found.missing[0]
        with pytest.raises(NotFound, match="not there yet"):
            trace(AuditLog(database), "s-9")
    finally:
        worker.role.open()


def test_a_moment_means_the_signal_to_which_something_happened_nearest_unless_there_are_several() -> None:
    def then(name: str, minutes: int) -> SignalThen:
        return SignalThen({"id": name}, minutes)

    held, near, here = then("held", 7), then("near", 1), then("here", 0)
    assert meant([here, near, held]) == here
    assert meant([near, held]) == near
    assert meant([held]) == held
    assert meant([]) is meant([here, then("too", 0)]) is meant([held, then("too", 9)]) is None


def test_lost_and_erased_contents_are_named(worker: Worker, database: Documents) -> None:
    worker.record([change(1, position(), domain="signal", key=CONTEXT, document="p")])
    worker.writer.write([{**gap(2, document="p"), "_id": "signal/p/2", "domain": "signal", "key": list(CONTEXT)}])
    found = trace(AuditLog(database), "s-1")
    assert any("the oplog has moved past it" in text for text in found.missing)


@pytest.mark.parametrize("cause", [7, {"signal": 1, "step": "x"}, {"signal": "s", "step": "x", "at": "soon"}])
def test_an_event_whose_cause_is_none_is_refused(cause: Any) -> None:
    event = change(1)
    header = msgpack.unpackb(event.header())
    assert decode({b"e": msgpack.packb({**header, "cause": {"signal": "s", "step": "x"}}), b"p": event.body}) == (
        event._replace(cause=Cause("s", "x"))
    )
    with pytest.raises(UnknownEvent, match="cause is"):
        decode({b"e": msgpack.packb({**header, "cause": cause}), b"p": event.body})
