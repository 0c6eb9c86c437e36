"""Which era a Redis is in, from what it remembered before MongoDB counted and from what MongoDB said then."""

from __future__ import annotations

import pytest

from backtest_kit_mongo.coherence.eras import BEHIND, REPLACED, Ended, Held, Noted, judge, parse_held


def said(counts: dict[str, int], **ended: Ended) -> Noted:
    return Noted("deployment", 1, "document", 1, counts, ended)


CASES = {
    "MongoDB has counted further": ((Held("a", 5),), said({"a": 6}), "a", {}),
    "MongoDB was set back within the era": ((Held("a", 5),), said({"a": 5}), "", {"a": BEHIND}),
    "MongoDB was set back before the era": ((Held("a", 5),), said({}), "", {"a": BEHIND}),
    "the era was ended by other settings": ((Held("a", 5),), said({}, a=Ended("settings", 5)), "", {}),
    "and MongoDB was set back to when it was": ((Held("a", 6),), said({}, a=Ended("settings", 5)), "", {"a": BEHIND}),
    "a collection was dropped": ((Held("a", 5),), said({}, a=Ended(REPLACED, 5)), "", {"a": REPLACED}),
    "all were restored": ((Held("a", 5),), said({}, a=Ended(REPLACED, 3)), "", {"a": BEHIND}),
    "Redis was flushed": ((Held("", 0),), said({"a": 5}), "", {}),
    "one partition was away when an era began": (
        (Held("a", 5), Held("b", 1)), said({"b": 2}, a=Ended("settings", 5)), "b", {},
    ),
    "one partition knows more": ((Held("a", 5), Held("a", 7)), said({"a": 7}), "", {"a": BEHIND}),
}  # fmt: skip


@pytest.mark.parametrize(("held", "noted", "era", "restored"), CASES.values(), ids=CASES.keys())
def test_an_era_goes_on_only_where_mongodb_has_counted_further(
    held: tuple[Held, ...], noted: Noted, era: str, restored: dict[str, str]
) -> None:
    verdict = judge(dict(enumerate(held)), noted)
    assert verdict.era == era
    assert {over: found.why for over, found in verdict.restored.items()} == restored
    assert verdict.over == {found.era for found in held if found.era not in ("", era)}


def test_what_is_no_memory_of_an_era_is_none() -> None:
    assert [parse_held(raw) for raw in (None, b"", b"rubbish", b"e" * 16, b"\xff" * 20)] == [Held("", 0)] * 5
    assert parse_held(b"e" * 16 + b"42") == Held("e" * 16, 42)
