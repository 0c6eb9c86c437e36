"""Pages answer, escape what is stored, and follow what is written."""

from __future__ import annotations

import json
import re

import pytest

from backtest_kit_console.board import Board, Position
from backtest_kit_mongo.audit import open_log
from backtest_kit_mongo.coherence.codec import pack
from backtest_kit_mongo.coherence.events import Event, Origin
from backtest_kit_mongo.domains.table import SIGNAL, STATE
from backtest_kit_mongo.feed.newest import after
from backtest_kit_mongo.feed.opened import open_servers
from tests.console.conftest import HTML, START, Shown
from tests.console.support import ask, stream
from tests.integration.support import eventually

KEY = "state/%3Cscript%3Ealert(1)%3C%252Fscript%3E/bucket"
PAGES = {
    "/": "Overview",
    "/positions": "&lt;script&gt;alert(1)&lt;/script&gt;",
    "/audit": "Is the log what was sealed?",
    f"/audit/key?key={KEY}": "&lt;script&gt;alert(1)&lt;/script&gt;",
    "/signals": "BTC/USDT",
    "/signals?id=s-1": "&lt;script&gt;alert(1)&lt;/script&gt;",
    "/runs": "&lt;script&gt;alert(1)&lt;/script&gt;",
    "/runs/study?study=%3Cscript%3Ealert(1)%3C/script%3E": "2 done",
    "/runs/run?id=a111": "&lt;script&gt;alert(1)&lt;/script&gt;",
    "/runs/compare?a=a111&b=b111": "Two runs side by side",
    "/letters": "&lt;script&gt;alert(1)&lt;/script&gt; was reported",
    "/letters/one?id=audit/1-1": "This version cannot read it",
    "/candles": "BTC/USDT",
    "/candles/series?exchange=binance&symbol=BTC/USDT&interval=1m": '<strong class="warn">1 are missing',
}


@pytest.mark.parametrize("address", PAGES)
def test_each_page_shows_what_is_stored_and_runs_none_of_it(shown: Shown, address: str) -> None:
    # What takes longer than a page may is found out in the background.
    eventually(lambda: PAGES[address] in ask(shown.app, address).text, 60)
    answer = ask(shown.app, address)
    assert answer.status == 200
    assert HTML not in answer.text
    assert not re.search(r"<script(?! src=\"/static/console.js\" defer>)|\son\w+=|style=", answer.text)
    assert "script-src 'self'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("/nowhere", 404),
        ("/audit/key?key=nothing", 400),
        ("/letters/one?id=none", 404),
        ("/signals?id=none", 404),
        ("/runs/study?study=none", 404),
        ("/runs/run?id=a", 400),
        ("/runs/compare?a=a111&b=ffff", 404),
        ("/candles/series?exchange=x&symbol=y&interval=1m", 404),
        ("/candles/series?exchange=x&symbol=y&interval=9q", 400),
    ],
)
def test_what_is_not_there_is_said(shown: Shown, address: str, status: int) -> None:
    answer = ask(shown.app, address)
    assert (answer.status, "<main" in answer.text) == (status, True)


def test_a_write_is_pushed_to_the_page_that_was_loaded_before_it(shown: Shown) -> None:
    since = re.search(r"since=([0-9a-f]+-\d+)", ask(shown.app, "/positions").text)
    assert since is not None
    row = {"id": "s-2", "position": "short", "note": HTML, "priceOpen": 5.0, "pendingAt": START}
    context = ("NEW/USDT", "trend", "binance")
    address = f"/positions/live?since={since[1]}"
    opened = stream(shown.app, address, lambda: shown.write(SIGNAL, row, *context), "NEW/USDT")
    assert "&lt;script&gt;" in opened
    assert HTML not in opened
    place = re.findall(r"id: (\S+)\n", opened)[-1]
    closed = stream(
        shown.app, f"/positions/live?since={place}", lambda: shown.write(SIGNAL, None, *context), '"html": null'
    )
    told = json.loads(closed.rpartition("data: ")[2])
    assert (told["open"], told["trouble"]) == (1, "")
    assert "event: reload" in stream_of(shown, "/positions/live?since=other-5")


def stream_of(shown: Shown, address: str) -> str:
    return ask(shown.app, address).text


def test_a_late_event_does_not_open_again_what_was_closed() -> None:
    def event(rev: int, payload: object) -> Event:
        key = ("BTC", "trend", "binance")
        return Event("signal", key, "d", rev, "upsert", None, START, Origin("host", 1), pack(payload))

    board = Board()
    board.replace([Position("signal", ("BTC", "trend", "binance"), "d", 1, {})])
    assert board.apply(event(1, {})) is None
    assert board.apply(event(3, None)) == (("signal", ("BTC", "trend", "binance")), None)
    assert board.apply(event(2, {"id": "late"})) is None
    assert list(board) == []
    assert board.apply(event(4, {"id": "new"})) is not None


def test_a_timeline_is_read_part_by_part_newest_first(shown: Shown) -> None:
    with open_log(shown.settings) as log:
        key = f"state/{HTML.replace('/', '%2F')}/bucket"
        every = [record.id for record in log.timeline(key)]
        found: list[str] = []
        before = ""
        while not found or before:
            part = log.revisions(key, 25, before=before)
            found += [record.id for record in part.records]
            before = part.next
    assert len(found) == 60
    assert found == every[::-1]


def test_only_events_of_the_chosen_domains_leave_the_feed(shown: Shown) -> None:
    with open_servers(shown.settings) as servers:
        stream_name = servers.streams[0]
        last, _, _ = after(servers.redis, stream_name, "0-0", ("signal",))
        shown.write(STATE, {"data": 1}, "signal", "schedule")
        shown.write(SIGNAL, None, "OTHER", "trend", "binance")
        looked, found, more = after(servers.redis, stream_name, last, ("signal", "schedule"))
        assert [event.key for event in found] == [("OTHER", "trend", "binance")]
        assert not more
        assert after(servers.redis, stream_name, last, ("signal",), count_max=1)[2]
        assert after(servers.redis, stream_name, looked, ("signal",)) == (looked, [], False)
