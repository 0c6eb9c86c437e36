"""The bytes that other processes and later versions read: events, entries, key names, payloads. A change here breaks a
running deployment.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from math import inf, isnan, nan
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backtest_kit_mongo.backends.redis import npm_names
from backtest_kit_mongo.backends.redis.entry import is_of_this_version, parse_entry, record_header
from backtest_kit_mongo.coherence.codec import millis, pack, unpack
from backtest_kit_mongo.coherence.events import Event, Origin, UnknownEvent, decode
from backtest_kit_mongo.coherence.keys import names, partition, streams
from backtest_kit_mongo.coherence.record import Key, Record
from backtest_kit_mongo.domains.table import DOMAINS, RECENT, SESSION, STATE

EVENT = Event(
    domain="state",
    key=("signal", "bucket"),
    document="650000000000000000000001",
    rev=3,
    operation="upsert",
    when=1_700_000_000_000,
    written_ms=1_700_000_000_123,
    origin=Origin("host", 42),
    body=pack({"data": 1}),
)
GOLDEN_V1 = bytes.fromhex(
    "8ba17601a26964d92073746174652f3635303030303030303030303030303030303030303030312f33a6646f6d61696ea573"
    "74617465a36b657992a67369676e616c"
    "a66275636b6574a3646f63b8363530303030303030303030303030303030303030303031a372657603a26f70a67570736572"
    "74a47768656ecf0000018bcfe56800"
    "a26174cf0000018bcfe5687ba4686f7374a4686f7374a37069642a"
)


class TestEvents:
    def test_the_golden_bytes_of_version_1_are_still_read(self) -> None:
        assert decode({b"e": GOLDEN_V1, b"p": pack({"data": 1})}) == EVENT

    def test_the_golden_bytes_of_version_1_are_still_written(self) -> None:
        assert EVENT.header() == GOLDEN_V1

    def test_an_event_of_a_step_carries_its_id(self) -> None:
        event = EVENT._replace(step="7c020cd4f12e3c50")
        assert decode({b"e": event.header(), b"p": event.body}) == event

    def test_an_event_of_a_later_version_is_refused_by_name(self) -> None:
        later = msgpack.packb({**msgpack.unpackb(GOLDEN_V1), "v": 2})
        with pytest.raises(UnknownEvent, match="version 2"):
            decode({b"e": later, b"p": b""})

    @pytest.mark.parametrize("fields", [{}, {b"e": b"\xff"}, {b"e": b"\x01", b"p": b""}, {b"e": GOLDEN_V1}])
    def test_what_is_no_event_is_refused(self, fields: dict[bytes, bytes]) -> None:
        with pytest.raises(UnknownEvent):
            decode(fields)

    def test_the_payload_is_decoded_only_when_asked_for(self) -> None:
        broken = decode({b"e": GOLDEN_V1, b"p": b"\xc1"})
        with pytest.raises(ValueError):
            _ = broken.payload


class TestEntries:
    @given(
        rev=st.integers(0, 2**63 - 1),
        when=st.none() | st.integers(-(2**63), 2**63 - 1),
        removed=st.booleans(),
        document=st.text(st.characters(exclude_categories=["Cs"]), max_size=300),
    )
    def test_every_record_comes_back_as_it_was(self, rev: int, when: int | None, removed: bool, document: str) -> None:
        record = Record(Key(STATE, ("a", "b")), rev, {"x": [1, 2.0, None]}, when, removed, document)
        assert parse_entry(record.key, b"0" * 40 + record_header(record) + pack(record.payload)) == record

    def test_the_version_stands_where_releases_before_it_had_what_none_of_its_letters_is(self) -> None:
        entry = b"0" * 40 + record_header(Record(Key(STATE, ("a", "b")), 1, when=5))
        assert is_of_this_version(entry)
        for before in b"0123456789abcdef-":
            assert not is_of_this_version(entry[:56] + bytes([before]) + entry[57:])

    def test_an_absent_document_is_an_entry_too(self) -> None:
        absent = Record(Key(STATE, ("a", "b")))
        assert not parse_entry(absent.key, b"0" * 40 + record_header(absent) + pack(None)).exists


class TestNames:
    def test_all_names_of_a_document_share_one_hash_tag(self) -> None:
        found = names("db", 16, "state", ("a", "b"))
        assert len({name[: name.index("}")] for name in found}) == 1

    def test_separators_in_parts_are_escaped(self) -> None:
        assert names("db", 1, "state", ("a:b", "c")).entry != names("db", 1, "state", ("a", "b:c")).entry
        assert names("db", 1, "state", ("{x}", "c")).entry == "{bk:0}:db:e:state:%7Bx%7D:c"

    def test_databases_have_different_names(self) -> None:
        assert not set(names("a", 1, "state", ("x", "y"))) & set(names("b", 1, "state", ("x", "y")))

    def test_the_partition_never_changes(self) -> None:
        assert partition("state:signal:bucket", 4096) == 1931

    def test_there_is_one_stream_a_partition(self) -> None:
        assert streams("db", 2) == ("{bk:0}:db:s", "{bk:1}:db:s")
        assert {names("db", 2, "state", (str(n), "x")).stream for n in range(50)} == set(streams("db", 2))

    def test_the_npm_packages_names_are_its_own(self) -> None:
        recent = Key(RECENT, ("BTC", "s", "e", "", True))
        assert npm_names.name(recent) == "recent_cache:backtest:e:s::BTC"
        assert npm_names.name(Key(SESSION, ("s", "e", "f", "BTC", False))) == "session_cache:e:s:f:BTC:live"

    @pytest.mark.parametrize("domain", DOMAINS, ids=lambda domain: domain.name)
    def test_every_domain_names_all_its_key_columns(self, domain: Any) -> None:
        assert all(f"{{{column}}}" in npm_names.template(domain) for column in domain.columns)


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=20,
)


class TestPayloads:
    @given(PLAIN)
    def test_plain_data_comes_back_with_its_types(self, value: Any) -> None:
        back = unpack(pack(value))
        assert back == value
        assert repr(back) == repr(value)

    def test_infinity_and_nan_survive(self) -> None:
        back = unpack(pack({"a": inf, "b": -inf, "c": nan}))
        assert (back["a"], back["b"]) == (inf, -inf)
        assert isnan(back["c"])

    @given(st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)))
    def test_dates_come_back_in_utc_with_milliseconds_as_mongodb_keeps_them(self, moment: datetime) -> None:
        back = unpack(pack(moment))
        assert back == moment.replace(microsecond=moment.microsecond // 1000 * 1000, tzinfo=UTC)
        assert millis(back) == millis(moment)

    def test_a_date_in_another_zone_is_the_same_moment(self) -> None:
        moment = datetime(2024, 1, 1, 12, tzinfo=timezone(timedelta(hours=3)))
        assert unpack(pack(moment)) == moment

    @pytest.mark.parametrize("value", [object(), {1, 2}, 1 + 2j, lambda: None])
    def test_what_cannot_be_stored_is_refused(self, value: Any) -> None:
        with pytest.raises(TypeError, match="cannot be stored"):
            pack({"x": value})
