"""One database with something of everything, and the console over it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

import pytest
from starlette.types import ASGIApp

from backtest_kit_console.app import make_app
from backtest_kit_console.guard import Access
from backtest_kit_console.sources import Sources
from backtest_kit_mongo.adapters.instances import CandleInstance
from backtest_kit_mongo.coherence.codec import pack
from backtest_kit_mongo.coherence.record import Change, Domain, Key
from backtest_kit_mongo.domains.table import SIGNAL
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

    def write(self, domain: Domain, payload: object, *parts: str) -> None:
        self.store.write(Change(Key(domain, parts), payload, pack(payload)))


@pytest.fixture(scope="session")
def shown(servers: Endpoints, new_database: Callable[[], str]) -> Iterator[Shown]:
    database = f"{new_database()}_console"
    settings = settings_for(servers, database)
    with store_for(servers, database) as store, open_servers(settings) as opened:
        app = make_app(Sources(settings), Access())
        guarded = make_app(Sources(settings), Access(TOKEN, allow_actions=True))
        found = Shown(settings, store, app, guarded)
        row = {"id": "s-1", "position": "long", "priceOpen": 100.0, "note": HTML, "pendingAt": START}
        found.write(SIGNAL, row, f"{HTML}/USDT", "trend", "binance")
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
        worker.seal()
        opened.database[PARKED_ITEMS].insert_many([_letter(opened.streams[0], entry) for entry in ("1-1", "2-2")])
        yield found
        close(app)
        close(guarded)


def _letter(stream: str, entry: str) -> dict[str, object]:
    at = datetime.fromtimestamp(START / 1000, UTC)
    return {
        "_id": f"{stream}/audit/{entry}", "stream": stream, "role": "audit", "entry": entry, "state": "parked",
        "cause": f"{HTML} was reported", "count": 1, "firstSeen": at, "lastSeen": at, "fields": [[b"e", b"no event"]],
    }  # fmt: skip
