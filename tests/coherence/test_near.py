"""The rules by which copies are kept and served."""

from __future__ import annotations

from typing import Any

import pytest

from backtest_kit_mongo.coherence.codec import maker
from backtest_kit_mongo.coherence.near import COPY_OVERHEAD_BYTES, Copies, Fetch, size
from backtest_kit_mongo.coherence.record import Key, Record
from backtest_kit_mongo.domains.table import STATE

CHANNEL = "channel"
X, Y, Z = (Key(STATE, ("signal", name)) for name in "xyz")
STALENESS_S = 10.0


def stored(key: Key = X, rev: int = 1, payload: Any = "value") -> Record:
    return Record(key, rev, payload, None, False, "id")


def weight(payload: Any = "value") -> int:
    return size(payload) + COPY_OVERHEAD_BYTES


def heard(bytes_max: int = 1 << 20) -> Copies:
    """Copies whose channel has just been confirmed, at number 7 and time 0."""
    copies = Copies(bytes_max, STALENESS_S)
    copies.confirmed(CHANNEL, 0.0, "redis", 7)
    return copies


def keep(copies: Copies, record: Record) -> None:
    copies.end(copies.begin(CHANNEL, record.key), record, is_entry=True)


def rev_of(copies: Copies, key: Key = X, now_s: float = 0.0) -> int | None:
    copy = copies.get(key, now_s)
    return None if copy is None else copy.rev


@pytest.fixture
def copies() -> Copies:
    copies = heard()
    keep(copies, stored())
    return copies


class TestServing:
    def test_a_copy_is_the_record_that_was_read(self, copies: Copies) -> None:
        assert copies.get(X, 0.0) == stored()
        assert copies.get(Y, 0.0) is None
        assert copies.hit_count == 1

    def test_a_copy_is_served_for_the_bound_after_a_heartbeat_was_asked_for(self, copies: Copies) -> None:
        assert rev_of(copies, now_s=STALENESS_S) == 1
        assert rev_of(copies, now_s=STALENESS_S + 0.001) is None
        copies.confirmed(CHANNEL, 5.0, "redis", 7)
        assert rev_of(copies, now_s=5.0 + STALENESS_S) == 1

    def test_nothing_is_served_before_the_first_heartbeat(self) -> None:
        copies = Copies(1 << 20, STALENESS_S)
        keep(copies, stored())
        assert rev_of(copies) is None
        copies.confirmed(CHANNEL, 0.0, "redis", 7)
        assert rev_of(copies) is None, "what was said before the first heartbeat may have been missed"

    @pytest.mark.parametrize("record", [Record(X), stored()._replace(removed=True)], ids=("absent", "removed"))
    def test_what_is_not_there_is_not_kept(self, record: Record) -> None:
        copies = heard()
        keep(copies, record)
        assert len(copies) == 0

    def test_a_plain_read_is_not_kept(self) -> None:
        copies = heard()
        copies.end(copies.begin(CHANNEL, X), stored(), is_entry=False)
        assert len(copies) == 0

    def test_a_failed_read_leaves_nothing_behind(self, copies: Copies) -> None:
        copies.end(copies.begin(CHANNEL, X), None, is_entry=False)
        assert rev_of(copies) == 1
        assert copies._fetches == {}


class TestPayloads:
    def test_no_caller_can_change_what_the_next_one_gets(self) -> None:
        copies = heard()
        expected = {"list": [1, {"deep": [2]}], "plain": "text", "empty": {}}
        payload: Any = {"list": [1, {"deep": [2]}], "plain": "text", "empty": {}}
        keep(copies, stored(payload=payload))
        spoil(payload)
        for _ in range(2):
            record = copies.get(X, 0.0)
            assert record is not None
            assert record.payload == expected
            spoil(record.payload)

    @pytest.mark.parametrize(
        "value", [None, 1, "text", b"bytes", [], {}, [1, "a"], [[[]], {"a": [{}]}], {"a": {"b": [1]}}]
    )
    def test_what_is_made_is_equal_and_shares_no_container(self, value: Any) -> None:
        make = maker(value)
        made, again = make(), make()
        assert made == again == value
        assert not containers(made) & containers(again)
        assert not containers(made) & containers(value)


def spoil(payload: Any) -> None:
    payload["list"][1]["deep"].append("spoilt")
    payload["list"].append("spoilt")
    payload["empty"]["spoilt"] = True
    payload["plain"] = "spoilt"


def containers(value: Any) -> set[int]:
    if not isinstance(value, dict | list):
        return set()
    members = value.values() if isinstance(value, dict) else value
    return {id(value)}.union(*map(containers, members))


class TestBound:
    def test_the_oldest_goes_first(self) -> None:
        copies = heard(2 * weight())
        for key in (X, Y, Z):
            keep(copies, stored(key))
        assert [rev_of(copies, key) for key in (X, Y, Z)] == [None, 1, 1]
        assert copies.bytes == 2 * weight()

    def test_one_that_was_served_gets_a_second_chance_and_no_third(self) -> None:
        copies = heard(2 * weight())
        keep(copies, stored(X))
        keep(copies, stored(Y))
        assert rev_of(copies, X) == 1
        keep(copies, stored(Z))
        assert list(copies._copies) == [X, Z]
        keep(copies, stored(Y))
        assert list(copies._copies) == [Z, Y]

    def test_one_that_can_never_be_served_again_gets_no_second_chance(self) -> None:
        copies = heard(2 * weight())
        keep(copies, stored(X))
        assert rev_of(copies, X) == 1
        copies.lost()
        copies.confirmed(CHANNEL, 0.0, "redis", 7)
        keep(copies, stored(Y))
        keep(copies, stored(Z))
        assert list(copies._copies) == [Y, Z]

    def test_all_served_all_the_same_makes_room(self) -> None:
        copies = heard(2 * weight())
        for key in (X, Y):
            keep(copies, stored(key))
            assert rev_of(copies, key) == 1
        keep(copies, stored(Z))
        assert list(copies._copies) == [Y, Z]

    def test_one_that_is_too_large_is_not_kept_and_takes_nobodys_place(self) -> None:
        copies = heard(2 * weight())
        keep(copies, stored(X))
        keep(copies, stored(Y, payload="long" * 10_000))
        assert list(copies._copies) == [X]
        assert copies.bytes == weight()

    def test_one_that_became_too_large_is_forgotten(self) -> None:
        copies = heard(weight())
        keep(copies, stored(X))
        keep(copies, stored(X, rev=2, payload="long" * 10_000))
        assert (len(copies), copies.bytes) == (0, 0)

    def test_bytes_are_counted_once_for_a_key(self, copies: Copies) -> None:
        keep(copies, stored(rev=2, payload={"a": [1]}))
        assert copies.bytes == weight({"a": [1]})
        copies.drop(X)
        assert copies.bytes == 0


class TestHearing:
    def test_an_invalidation_drops_the_copy_of_its_key_alone(self, copies: Copies) -> None:
        keep(copies, stored(Y))
        copies.heard(CHANNEL, 8, X)
        assert (rev_of(copies, X), rev_of(copies, Y)) == (None, 1)
        copies.confirmed(CHANNEL, 1.0, "redis", 8)
        assert rev_of(copies, Y) == 1

    @pytest.mark.parametrize("number", [9, 7, 1], ids=("gap", "repeated", "from the start"))
    def test_a_number_that_does_not_follow_empties(self, copies: Copies, number: int) -> None:
        copies.heard(CHANNEL, number, Y)
        assert rev_of(copies) is None
        copies.confirmed(CHANNEL, 1.0, "redis", number)
        assert rev_of(copies) is None

    @pytest.mark.parametrize(("incarnation", "number"), [("redis", 8), ("redis", 6), ("another", 7)])
    def test_a_heartbeat_that_does_not_match_empties(self, copies: Copies, incarnation: str, number: int) -> None:
        copies.confirmed(CHANNEL, 1.0, incarnation, number)
        assert rev_of(copies, now_s=1.0) is None
        copies.confirmed(CHANNEL, 2.0, "redis", 7)
        assert rev_of(copies, now_s=2.0) is None

    def test_after_a_heartbeat_that_did_not_match_new_copies_are_served(self, copies: Copies) -> None:
        copies.confirmed(CHANNEL, 1.0, "another", 3)
        keep(copies, stored(rev=2))
        copies.heard(CHANNEL, 4, Y)
        copies.confirmed(CHANNEL, 1.0, "another", 4)
        assert rev_of(copies, now_s=1.0) == 2

    def test_a_lost_connection_empties_all_channels(self, copies: Copies) -> None:
        copies.confirmed("second", 0.0, "redis", 0)
        copies.end(copies.begin("second", Y), stored(Y), is_entry=True)
        copies.lost()
        copies.confirmed(CHANNEL, 1.0, "redis", 7)
        copies.confirmed("second", 1.0, "redis", 0)
        assert (rev_of(copies, X), rev_of(copies, Y)) == (None, None)

    def test_channels_are_heard_apart(self, copies: Copies) -> None:
        copies.heard("second", 5, Y)
        copies.confirmed("second", 1.0, "another", 9)
        assert rev_of(copies) == 1


class TestFetchesUnderWay:
    @pytest.fixture
    def copies(self) -> Copies:
        return heard()

    @pytest.fixture
    def fetch(self, copies: Copies) -> Fetch:
        return copies.begin(CHANNEL, X)

    def test_what_was_invalidated_meanwhile_is_not_kept(self, copies: Copies, fetch: Fetch) -> None:
        copies.heard(CHANNEL, 8, X)
        later = copies.begin(CHANNEL, X)
        copies.end(fetch, stored(), is_entry=True)
        assert len(copies) == 0
        copies.end(later, stored(rev=2), is_entry=True)
        assert rev_of(copies) == 2

    def test_what_this_process_wrote_meanwhile_is_not_kept(self, copies: Copies, fetch: Fetch) -> None:
        copies.drop(X)
        copies.end(fetch, stored(), is_entry=True)
        assert len(copies) == 0

    def test_an_invalidation_of_another_key_does_no_harm(self, copies: Copies, fetch: Fetch) -> None:
        copies.heard(CHANNEL, 8, Y)
        copies.end(fetch, stored(), is_entry=True)
        assert rev_of(copies) == 1

    @pytest.mark.parametrize("fault", ["gap", "heartbeat", "lost"])
    def test_what_was_begun_before_everything_was_forgotten_is_not_kept(
        self, copies: Copies, fetch: Fetch, fault: str
    ) -> None:
        match fault:
            case "gap":
                copies.heard(CHANNEL, 9, Y)
            case "heartbeat":
                copies.confirmed(CHANNEL, 1.0, "redis", 8)
            case _:
                copies.lost()
        copies.end(fetch, stored(), is_entry=True)
        assert len(copies) == 0


class TestFloors:
    def test_what_is_older_than_another_read_returned_meanwhile_is_not_kept(self) -> None:
        copies = heard()
        slow, fast = copies.begin(CHANNEL, X), copies.begin(CHANNEL, X)
        copies.end(fast, stored(rev=2), is_entry=False)
        copies.end(slow, stored(rev=1), is_entry=True)
        assert len(copies) == 0

    def test_a_newer_copy_is_not_replaced_by_an_older_one(self) -> None:
        copies = heard()
        slow, fast = copies.begin(CHANNEL, X), copies.begin(CHANNEL, X)
        copies.end(fast, stored(rev=2), is_entry=True)
        copies.end(slow, stored(rev=1), is_entry=True)
        assert rev_of(copies) == 2

    def test_a_copy_goes_when_a_newer_revision_was_returned(self, copies: Copies) -> None:
        copies.end(copies.begin(CHANNEL, X), stored(rev=2), is_entry=False)
        assert len(copies) == 0

    def test_a_read_that_begins_later_has_no_floor_of_reads_that_ended(self) -> None:
        copies = heard()
        copies.end(copies.begin(CHANNEL, X), stored(rev=2), is_entry=False)
        keep(copies, stored(rev=2))
        assert rev_of(copies) == 2
