"""A user's own collections: the page of the documentation, and what it promises beyond its example."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import backtest_kit_mongo as bk
from backtest_kit_mongo.settings import Settings

pytestmark = pytest.mark.live
PAGE = (Path(__file__).parents[2] / "docs" / "collections.md").read_text("utf-8")


class Note(BaseModel):
    symbol: str
    kind: str
    weight: float = 1.0


@pytest.fixture
def _set_up(bkm_settings: Settings) -> Iterator[None]:
    bk.setup({name: getattr(bkm_settings, name) for name in bkm_settings.model_fields_set})
    yield
    bk.shutdown()


@pytest.mark.usefixtures("_set_up")
def test_the_page_runs() -> None:
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
    exec(compile(code, "collections.md", "exec"), {"__name__": "page"})


@pytest.mark.usefixtures("_set_up")
def test_what_is_unique_stays_unique_whoever_writes_first() -> None:
    notes = [bk.BaseCRUD("notes", Note, unique=("symbol", "kind")) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda own: own.upsert({"symbol": "BTC", "kind": "x"})["id"], notes))
    assert len(set(ids)) == 1
    with pytest.raises(bk.Conflict, match="the same symbol, kind"):
        notes[0].create({"symbol": "BTC", "kind": "x"})
    assert notes[0].find_by_id(ids[0])["weight"] == 1.0
    removed = notes[0].remove(ids[0])
    for use in (notes[0].find_by_id, notes[0].remove, lambda gone: notes[0].update(gone, {"weight": 2})):
        with pytest.raises(bk.NotFound):
            use(ids[0])
    assert notes[0].paginate(limit=9)["total"] == 0
    assert notes[0].paginate(limit=9, removed=True)["rows"][0]["id"] == removed["id"]
    back = notes[0].upsert({"symbol": "BTC", "kind": "x", "weight": 3})
    assert (back["id"], back["weight"], "removed" in back) == (ids[0], 3.0, False)
    for wrong, said in (({"symbol": "BTC"}, "kind"), ({"symbol": "B", "kind": {"$ne": 1}}, "string"),
                        ({"symbol": "B", "kind": "x", "a.b": 1}, "dot")):  # fmt: skip
        with pytest.raises(bk.InvalidPayload, match=said):
            notes[0].upsert(wrong)
    free: Any = bk.BaseCRUD("free")
    free.create({"n": 1})
    free.create({"n": 1})
    with pytest.raises(bk.LegacyIndex, match="unique index on n cannot be built, nothing was written"):
        bk.BaseCRUD("free", unique="n").upsert({"n": 1})
    with pytest.raises(bk.InvalidSetting, match="the model stores no 'sort'"):
        bk.BaseCRUD("notes", Note, unique=("sort",))


@pytest.mark.usefixtures("_set_up")
def test_a_map_keeps_values_apart_by_prefix_and_forgets_them_in_time() -> None:
    assert bk.get_redis() is bk.get_redis()
    one, other = bk.BaseMap("a*", ttl=None), bk.BaseMap("a", ttl=100)
    for number, key in enumerate(("x", "*", "ü:/", "a b")):
        one.set(key, {"n": number})
    other.set("y", 1)
    assert dict(one.items()) == {"x": {"n": 0}, "*": {"n": 1}, "ü:/": {"n": 2}, "a b": {"n": 3}}
    assert [*other.keys(), one.get("y", "none"), one.has("x"), one.delete("x"), one.delete("x")] == [
        "y", "none", True, True, False,
    ]  # fmt: skip
    left_ms: Any = bk.get_redis().pttl(other._name("y"))
    assert 0 < left_ms <= 100_000
    one.clear()
    assert [one.size(), other.size()] == [0, 1]
    for wrong in (lambda: one.set("", 1), lambda: one.set("x", {1, 2}), lambda: bk.BaseMap("")):
        with pytest.raises(bk.CallerError):
            wrong()
