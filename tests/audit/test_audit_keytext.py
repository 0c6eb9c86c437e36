"""Keys as people write them."""

from __future__ import annotations

import pytest

from backtest_kit_mongo.audit import format_key, parse_key
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.table import BY_NAME, STATE
from backtest_kit_mongo.errors import InvalidKey


@pytest.mark.parametrize(
    ("written", "domain", "parts"),
    [
        ("state/a/b", "state", ("a", "b")),
        ("signal/BTC%2FUSDT/trend/binance", "signal", ("BTC/USDT", "trend", "binance")),
        ("storage/live/100%25", "storage", (False, "100%")),
        ("storage/backtest/x", "storage", (True, "x")),
        ("session/s/e//BTC/live", "session", ("s", "e", "", "BTC", False)),
        ("candle/binance/BTC/1m", "candle", ("binance", "BTC", "1m")),
        ("log/перелом%20✓", "log", ("перелом ✓",)),
    ],
)
def test_a_key_is_written_and_read_back(written: str, domain: str, parts: tuple[object, ...]) -> None:
    key = parse_key(written)
    assert (key.domain.name, key.parts) == (domain, parts)
    assert format_key(domain, key.parts) == written


@pytest.mark.parametrize("key", [Key(STATE, ("a", "b")), Key(BY_NAME["storage"], (True, "x"))])
def test_what_a_key_prints_itself_is_understood(key: Key) -> None:
    assert parse_key(str(key)) == key


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("stat/a/b", "no domain 'stat'"),
        ("state/a", "expected state/signalId/bucketName"),
        ("signal/BTC/USDT/trend/binance", "%2F"),
        ("storage/maybe/x", "live or backtest"),
    ],
)
def test_what_is_no_key_is_refused_with_the_form_of_one(written: str, says: str) -> None:
    with pytest.raises(InvalidKey, match=says):
        parse_key(written)
