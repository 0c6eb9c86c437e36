"""One database with something of everything, and the console over it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

import pytest
from starlette.types import ASGIApp

from backtest_kit.printing import STAT_NAMES
from backtest_kit.runs.ledger import Row
from backtest_kit.runs.packing import pack as pack_ids
from backtest_kit_console.app import make_app
from backtest_kit_console.guard import Access
from backtest_kit_console.sources import Sources
from backtest_kit_mongo.adapters.instances import CandleInstance
from backtest_kit_mongo.coherence.codec import pack
from backtest_kit_mongo.coherence.record import Change, Domain, Key, Part
from backtest_kit_mongo.domains.table import RUN, SIGNAL, STORAGE
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_mongo.feed.opened import open_servers
from backtest_kit_mongo.settings import Settings
from backtest_kit_mongo.stored import PARKED_ITEMS
from tests.audit.support import Worker, change
from tests.console.support import close
from tests.integration.support import settings_for, store_for

HTML = "<script>alert(1)</script>"
TOKEN = "a token of many letters"
START = 1_704_067_200_000


class Shown(NamedTuple):
    """What is looked at.

    Attributes:
        app: without a token, reads only.
        guarded: with a token and actions.
    """

    settings: Settings
    store: Store
    app: ASGIApp
    guarded: ASGIApp

    def write(self, domain: Domain, payload: object, *parts: Part) -> None:
        self.store.write(Change(Key(domain, parts), payload, pack(payload)))


@pytest.fixture(scope="package")
def shown(servers: Endpoints, new_database: Callable[[], str]) -> Iterator[Shown]:
    database = f"{new_database()}_console"
    settings = settings_for(servers, database)
    with store_for(servers, database) as store, open_servers(settings) as opened:
        app = make_app(Sources(settings), Access())
        guarded = make_app(Sources(settings), Access(TOKEN, allow_actions=True))
        found = Shown(settings, store, app, guarded)
        row = {"id": "s-1", "position": "long", "priceOpen": 100.0, "note": HTML, "pendingAt": START}
        found.write(SIGNAL, row, f"{HTML}/USDT", "trend", "binance")
        found.write(STORAGE, {**row, "symbol": "BTC/USDT", "status": "opened"}, False, "s-1")
        _sweep(found)
        candles = [
            {"timestamp": START + at * 60_000, "open": 1.0, "high": 2.0, "low": 1.0, "close": 2.0, "volume": 1.0}
            for at in range(20)
            if at != 7
        ]
        CandleInstance(store, "BTC/USDT", "1m", "binance").write_candles_data(candles)
        worker = Worker(opened.database)
        worker.record(
            [change(rev, {"note": HTML, "rev": rev}, key=(HTML, "bucket"), document="d9") for rev in range(1, 61)]
        )
        worker.record(
            [change(1, row, domain="signal", key=("BTC/USDT", "trend", "binance"), document="d8", when=START)]
        )
        worker.seal()
        opened.database[PARKED_ITEMS].insert_many([_letter(opened.streams[0], entry) for entry in ("1-1", "2-2")])
        yield found
        close(app)
        close(guarded)


def _sweep(shown: Shown) -> None:
    """A study of two runs."""
    runs = [f"{'ab'[at]}{'1' * 31}" for at in range(2)]
    for at, run_id in enumerate(runs):
        row = Row(
            run_id, "ema", "c0de", "0", {"fast": at, "slow": HTML}, "BTC", "x", "f", START, START + 60_000, "c",
            status="done", stats=dict.fromkeys(STAT_NAMES, 1.0) | {"trades": 0}, result="r",
        )  # fmt: skip
        shown.write(RUN, {"kind": "run", "data": row.stored()}, run_id)
    study = {"study": HTML, "strategy": "ema", "code": "c0de", "exchange": "x", "count": 2, "created_at": START}
    shown.write(RUN, {"kind": "study", "data": {**study, "runs": pack_ids(runs)}}, f"study:{HTML}")
    shown.write(RUN, {"kind": "studies", "data": {"titles": [HTML]}}, "studies")


def _letter(stream: str, entry: str) -> dict[str, object]:
    at = datetime.fromtimestamp(START / 1000, UTC)
    return {
        "_id": f"{stream}/audit/{entry}", "stream": stream, "role": "audit", "entry": entry, "state": "parked",
        "cause": f"{HTML} was reported", "count": 1, "firstSeen": at, "lastSeen": at, "fields": [[b"e", b"no event"]],
    }  # fmt: skip
