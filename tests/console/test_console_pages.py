"""Pages answer, escape what is stored, and follow what is written."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from backtest_kit_console import sources, words
from backtest_kit_console.board import Board, Position
from backtest_kit_console.live import Live
from backtest_kit_console.pages.reasons import reasons
from backtest_kit_console.sources import Kept
from backtest_kit_console.stream import ROWS_MAX, Messages
from backtest_kit_mongo.audit import open_log
from backtest_kit_mongo.audit.anchors import make_anchor
from backtest_kit_mongo.audit.tracing import Mark, Trace, TraceStep
from backtest_kit_mongo.coherence.codec import pack
from backtest_kit_mongo.coherence.events import Event, Origin
from backtest_kit_mongo.domains.table import SIGNAL, STATE
from backtest_kit_mongo.feed.newest import after
from backtest_kit_mongo.feed.opened import open_servers
from tests.console.conftest import HTML, START, Shown
from tests.console.support import ask, stream
from tests.integration.support import eventually

CHECK = Path(__file__).parents[2] / "docs/check_proof.py"
KEY = "state/%3Cscript%3Ealert(1)%3C%252Fscript%3E/bucket"
PAGES = {
    "/": "Overview",
    "/positions": "&lt;script&gt;alert(1)&lt;/script&gt;",
    "/audit": "Is the log what was sealed?",
    f"/audit/key?key={KEY}": "&lt;script&gt;alert(1)&lt;/script&gt;",
    "/signals": "BTC/USDT",
    "/signals?at=2024-01-01T00:10&symbol=btcusdt": ">opened</a>",
    "/signals?id=s-1": "&lt;script&gt;alert(1)&lt;/script&gt;",
    "/audit/proof?record=state/d9/1&anchor=1": "Download the proof",
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
    assert not re.search(r"<script(?! src=\"/static/console.js\?v=\w+\" defer>)|\son\w+=|style=", answer.text)
    assert "script-src 'self'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("/nowhere", 404),
        ("/audit/key?key=nothing", 400),
        ("/audit/proof?record=none", 404),
        ("/audit/growth.proof?older=1&newer=9", 503),
        ("/signals?at=soon", 400),
        ("/signals?strategy=%00", 200),
        ("/letters/one?id=%00", 404),
        ("/positions/live?since=x-" + "9" * 5000, 200),
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
    assert (answer.status, "<main" in answer.text or "event: reload" in answer.text) == (status, True)


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


def test_a_proof_from_the_page_is_checked_without_a_database(shown: Shown, tmp_path: Path) -> None:
    with open_log(shown.settings) as log:
        anchor, _ = make_anchor(log.database)
    asked = f"record=state/d9/7&anchor={anchor.seal}"
    parts = zipfile.ZipFile(io.BytesIO(ask(shown.app, f"/audit/proof.zip?{asked}").body))
    parts.extractall(tmp_path)
    (tmp_path / "anchors.jsonl").write_text(anchor.line())
    command = [sys.executable, str(CHECK), "anchors.jsonl", "record.proof", "record.bson"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"proved: state/d9/7 was in the log at {anchor.time}\n")
    assert " ".join(command[2:]) in (tmp_path / "README.txt").read_text()


def test_a_browser_that_does_not_read_holds_one_message_of_bounded_size() -> None:
    live = Live(cast("Any", None))
    names = [("signal", (f"S{number}", "trend", "binance")) for number in range(1_500)]
    live._publish([(name, Position(*name, "d", 1, {})) for name in names], "")
    messages, version, rows = Messages(live, lambda *_, **__: "<tr>"), 0, 0
    while version < live.version:
        found = messages.since(version, ("", "", ""))
        assert found is not None
        text, version = found
        rows += (count := text.count('"html"'))
        assert count <= ROWS_MAX
    assert rows == len(names)
    live._publish([(name, None) for name in names], "")
    assert messages.since(1, ("", "", "")) is None  # It has missed too much, and loads its page anew.


def test_what_could_not_be_found_out_is_tried_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "FAILED_S", 0.0)
    answers: list[Any] = [ValueError("away"), 5]

    def make() -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return int(answer)

    with ThreadPoolExecutor(1) as pool:
        kept = Kept(pool, make, 600.0, str)
        assert kept.get(60).trouble == "away"
        assert [kept.get(60).value for _ in range(2)] == [5, 5]


def test_no_control_character_reaches_a_page_as_a_moment() -> None:
    assert [str(show("\x1b[31m\u202e<b>")) for show in (words.moment, words.minute, words.hour, words.valued)] == [
        "\\u001b[31m\\u202e&lt;b&gt;"
    ] * 4


def test_why_a_signal_ended_is_said_in_a_sentence() -> None:
    row = {"status": "closed", "closeReason": "stop_loss", "currentPrice": 99.5, "closeTimestamp": START}
    marks = (Mark(START - 60_000, "stop", 98.0, ""), Mark(START, "stop", 99.5, "moved"))
    order = {"kind": "order", "action": "close", "side": "sell", "isDone": True, "replies": [{"average": 99.4}]}
    steps = (TraceStep("s", "order-close-0", START, order),)
    found = Trace("s", "BTC", "trend", "binance", "live", "closed", row, steps, marks, (), (), ())
    (reason,) = reasons(found)
    moved = "The price reached its stop 99.5, which was moved once from 98, last at 00:00."
    assert reason.said == f"{moved} The order to sell was done, filled at 99.4."
