"""Where files are: names are reversible, free of collisions, safe, and the original's wherever that is safe."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backtest_kit_mongo.backends.files import names as names
from backtest_kit_mongo.coherence.record import Domain, Key, Part
from backtest_kit_mongo.domains import table

FRAGMENTS = st.sampled_from(
    ("", "a", "B", "_", "%", ".", "/", "\\", "~", "json", ".json", "5F", "2E", ":", " ", "\0", "\n", "live", "backtest",
     "..", ".tmp-", "é", "🚀", "я" * 60, "x" * 90)
)  # fmt: skip
TEXTS = st.lists(FRAGMENTS, max_size=5).map("".join)


def parts_of(domain: Domain) -> st.SearchStrategy[tuple[Part, ...]]:
    by_type: dict[type, st.SearchStrategy[Part]] = {str: TEXTS, bool: st.booleans(), int: st.integers(-5, 5)}
    return st.tuples(*(st.sampled_from(sorted(c.choices)) if c.choices else by_type[c.type] for c in domain.key))


KEYS = st.sampled_from(table.DOMAINS).flatmap(lambda domain: parts_of(domain).map(lambda parts: Key(domain, parts)))


@given(TEXTS)
def test_a_name_gives_its_part_back(part: str) -> None:
    name = names.escape(part)
    assert names.unescape(name) == part
    assert name
    assert not set(name) & set('/\\<>:"|?*~\0\n')


@given(KEYS)
def test_every_name_fits_a_file_system_and_none_looks_like_a_temporary_file(key: Key) -> None:
    for name in names.path(key).split("/"):
        assert 0 < len(name.encode()) <= 205
        assert not name.startswith(".")


@given(st.sampled_from(table.DOMAINS).flatmap(lambda d: st.tuples(st.just(d), parts_of(d), parts_of(d))))
def test_two_keys_of_a_domain_never_share_a_file_nor_a_file_with_a_directory(
    pair: tuple[Domain, tuple[Part, ...], tuple[Part, ...]],
) -> None:
    domain, one, other = pair
    here, there = names.path(Key(domain, one)), names.path(Key(domain, other))
    assert (here == there) == (one == other)
    assert not there.startswith(f"{here}/")


@pytest.mark.parametrize("domain", [table.RECENT, table.SESSION, table.RISK, table.PARTIAL], ids=str)
def test_joined_parts_never_collide(domain: Domain) -> None:
    alphabet: list[tuple[Part, ...]] = [(False, True) if c.type is bool else ("", "a", "_", "a_a") for c in domain.key]
    keys = list(product(*alphabet))
    assert len({names.path(Key(domain, parts)) for parts in keys}) == len(keys)


@given(TEXTS)
def test_a_listing_gives_every_id_back(part: str) -> None:
    key = Key(table.MEASURE, ("bucket", part))
    name = names.path(key).removeprefix(f"{names.directory(key)}/").removesuffix(names.EXTENSION)
    assert names.item(name) == part


@pytest.mark.parametrize("foreign", ["BTC:1", "a%b", ".x", "50%zz", "x~/y", "%5F"])
def test_a_name_that_no_id_gets_is_recognised_as_foreign(foreign: str) -> None:
    assert names.item(foreign) is None


@pytest.mark.parametrize(
    ("key", "path"),
    [
        (Key(table.CANDLE, ("binance", "BTC/USDT", "1m", 60_000)), "data/candle/binance/BTC%2FUSDT/1m/60000.json"),
        (Key(table.SIGNAL, ("BTC", "my_strategy", "okx")), "data/signal/BTC_my%5Fstrategy_okx/BTC.json"),
        (Key(table.STRATEGY, ("BTC", "trend", "okx")), "data/strategy/BTC_trend_okx/strategy.json"),
        (Key(table.RECENT, ("B", "s", "e", "", False)), "data/recent/B_s_e_live/B.json"),
        (Key(table.RECENT, ("B", "s", "e", "f", True)), "data/recent/B_s_e_f_backtest/B.json"),
        (Key(table.SESSION, ("s", "e", "", "B", False)), "session/s/e/B_live.json"),
        (Key(table.SESSION, ("s", "e", "B_live.json", "B", False)), "session/s/e/B_live%2Ejson/B_live.json"),
        (Key(table.MEASURE, ("my_bucket", "BTC_1")), "data/measure/my_bucket/BTC_1.json"),
        (Key(table.MEASURE, ("..", "../../x")), "data/measure/%2E%2E/%2E.%2F..%2Fx.json"),
        (Key(table.STATE, ("", "b")), "state/%/b/b.json"),
        (Key(table.LOG, ("é🚀",)), "data/log/log/é🚀.json"),
    ],
    ids=str,
)
def test_names_are_the_originals_except_for_what_is_escaped(key: Key, path: str) -> None:
    assert names.path(key) == path


def test_a_long_name_becomes_nested_directories_cut_between_characters() -> None:
    path = names.path(Key(table.LOG, ("я" * 150 + ".tmp-" + "x" * 150,)))
    chunks = path.removeprefix("data/log/log/").split("/")
    assert [len(chunk.encode()) <= 205 for chunk in chunks] == [True] * 3
    assert [chunk.endswith("~") for chunk in chunks] == [True, True, False]


@pytest.mark.parametrize(
    ("key", "path"),
    [
        (Key(table.SIGNAL, ("BTC", "my_strategy", "okx")), "data/signal/BTC_my_strategy_okx/BTC.json"),
        (Key(table.CANDLE, ("okx", "BTC/USDT:USDT", "1m", 0)), "data/candle/okx/BTC/USDT:USDT/1m/0.json"),
        (Key(table.MEASURE, ("bucket", "BTC:1")), "data/measure/bucket/BTC:1.json"),
        (Key(table.SIGNAL, ("BTC", "trend", "okx")), None),
        (Key(table.MEASURE, ("..", "x")), None),
        (Key(table.MEASURE, ("b", "../x")), None),
        (Key(table.MEASURE, ("/etc", "x")), None),
        (Key(table.MEASURE, ("b", ".tmp-x")), None),
        (Key(table.MEASURE, ("b", "\0")), None),
        (Key(table.MEASURE, ("b", "x" * 300)), None),
        (Key(table.STATE, ("", "b")), None),
    ],
    ids=str,
)
def test_the_originals_place_is_known_if_it_is_another_and_stays_below_the_base(key: Key, path: str | None) -> None:
    assert names.original_path(key) == path


def test_ids_are_sorted_as_in_the_original() -> None:
    ordered = ["_x", "3", "a2", "a10", "b0", "B1", "é", "ж"]
    backwards = ordered[::-1]
    assert sorted(backwards, key=names.natural_order) == ordered
