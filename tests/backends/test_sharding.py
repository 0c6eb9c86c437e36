"""What docs/scaling.md says of a sharded MongoDB holds for every index and every write that is sent."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pymongo
import pytest
from pymongo.monitoring import CommandListener, CommandStartedEvent
from pymongo.write_concern import WriteConcern

from backtest_kit_mongo import connect
from backtest_kit_mongo.adapters.instances import CandleInstance
from backtest_kit_mongo.audit.records import IDENTITY
from backtest_kit_mongo.backends.mongo.concerns import read_concerns
from backtest_kit_mongo.backends.mongo.layout import collection_of, wanted
from backtest_kit_mongo.coherence.events import Event, Origin
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.checks import make_change
from backtest_kit_mongo.domains.table import CANDLE, DOMAINS
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_mongo.setup import make_store
from backtest_kit_mongo.stored import AUDIT_ITEMS as ITEMS
from backtest_kit_mongo.testing.examples import example
from backtest_kit_worker.roles.audit import AuditRole
from tests.integration.support import settings_for

DOCUMENT = Path(__file__).parents[2] / "docs" / "scaling.md"
SHARD_KEYS = {
    name: tuple(fields.split(", "))
    for name, fields in re.findall(r"^\| `([a-z-]+)` \| `([A-Za-z, ]+)` \|", DOCUMENT.read_text("utf-8"), re.MULTILINE)
}
UNIQUE: dict[str, list[tuple[tuple[str, int], ...]]] = {
    **{collection_of(domain): [i.fields for i in wanted(domain) if i.unique] for domain in DOMAINS},
    ITEMS: [IDENTITY],
}


def test_the_document_names_a_shard_key_for_each_domain_and_for_the_audit() -> None:
    assert set(SHARD_KEYS) == set(UNIQUE)


@pytest.mark.parametrize("collection", UNIQUE)
def test_every_unique_index_begins_with_the_shard_key(collection: str) -> None:
    shard_key = SHARD_KEYS[collection]
    for fields in UNIQUE[collection]:
        assert tuple(name for name, _ in fields[: len(shard_key)]) == shard_key


class Commands(CommandListener):
    """What is sent, as (collection, filter or document)."""

    def __init__(self) -> None:
        self.writes: list[tuple[str, str, Mapping[str, Any]]] = []
        self.finds: list[tuple[str, Mapping[str, Any]]] = []

    def started(self, event: CommandStartedEvent) -> None:
        name, command = event.command_name, event.command
        parts = {"insert": ("documents", None), "update": ("updates", "q"), "delete": ("deletes", "q")}
        if name == "findAndModify":
            self.writes.append((name, command[name], command["query"]))
        elif name == "aggregate" and (stages := command["pipeline"])[-1].get("$merge"):
            new = [each for stage in stages for each in stage.get("$project", {}).get("new", {}).get("$literal", ())]
            self.writes += [(name, stages[-1]["$merge"]["into"], each) for each in new]
        elif name == "find" and command.get("limit") == 1:
            self.finds.append((command[name], command["filter"]))
        elif name in parts:
            many, inner = parts[name]
            self.writes += [(name, command[name], each[inner] if inner else each) for each in command[many]]

    def succeeded(self, event: object) -> None:
        return

    def failed(self, event: object) -> None:
        return


@pytest.fixture(scope="module")
def sent(servers: Endpoints, new_database: Callable[[], str]) -> Commands:
    """Everything that writing each domain in each way sends, and auditing it."""
    commands = Commands()
    with pytest.MonkeyPatch.context() as patch:

        def listening(uri: str, event_listeners: Sequence[Any] = (), **options: Any) -> Any:
            return pymongo.MongoClient(uri, event_listeners=[commands, *event_listeners], **options)

        patch.setattr(connect, "MongoClient", listening)
        # So long a new cache stays closed, and each read goes to MongoDB.
        store = make_store(settings_for(servers, f"{new_database()}_sharding", lease_ms=60_000))
        for domain in DOMAINS:
            parts = tuple(True if column.type is bool else "x" for column in domain.key)
            key, value = Key(domain, parts), example(domain, "x")
            if domain.cached:
                for _ in range(2):
                    store.write(make_change(key, value, 5 if domain.has_when else None))
                store.read(key)
                if domain.has_removed:
                    store.remove(key)
            elif domain.row_id:
                for more in ({}, {"changed": True}):
                    store.merge(key.scope, [make_change(key, {**value, **more})])
        CandleInstance(store, "BTC", "1m", "e").write_candles_data([example(CANDLE, "x")])
        with listening(servers.mongo_url) as client:
            role = AuditRole(client[settings_for(servers, f"{new_database()}_sharding").database])
            role.open()
            role.apply([("1-0", Event("state", ("s", "b"), "d", 1, "upsert", 1, 1, Origin("h", 1), b"\xc0"))])
        store.close()
    return commands


@pytest.mark.live
def test_every_write_names_its_whole_shard_key(sent: Commands) -> None:
    written = {collection for _, collection, _ in sent.writes}
    assert written >= set(SHARD_KEYS)
    for name, collection, fields in sent.writes:
        lacking = set(SHARD_KEYS.get(collection, ())) - set(fields)
        assert not lacking, f"{name} on {collection} goes to every shard: it lacks {lacking}"


@pytest.mark.live
def test_every_read_whose_answer_is_cached_goes_to_one_shard(sent: Commands) -> None:
    cached = {collection_of(domain) for domain in DOMAINS if domain.cached}
    assert {collection for collection, _ in sent.finds} >= cached
    for collection, fields in sent.finds:
        assert set(SHARD_KEYS.get(collection, ())) <= set(fields)


@pytest.mark.parametrize(
    ("hello", "writes", "levels"),
    [
        ({"setName": "rs", "hosts": ["a"]}, "majority", ("majority", "majority")),
        ({"setName": "rs", "hosts": ["a", "b", "c"]}, "majority", ("majority", "linearizable")),
        ({"msg": "isdbgrid"}, "majority", ("majority", "linearizable")),
        ({"msg": "isdbgrid"}, 1, ("local", "local")),
        ({"setName": "rs", "hosts": ["a", "b"]}, 1, ("local", "local")),
        ({}, "majority", ("local", "local")),
    ],
)
def test_what_may_be_cached_is_read_from_a_primary_that_is_one(
    hello: dict[str, Any], writes: Any, levels: tuple[str, str]
) -> None:
    assert tuple(concern.level for concern in read_concerns(hello, WriteConcern(writes))) == levels
    # Beside writers with w:1: what the primary has, and of one document what a majority has then, too.
    of_others = read_concerns(hello, WriteConcern("majority"), foreign_writers=True)
    has_more = len(hello.get("hosts", "..")) > 1 and bool(hello)
    assert [concern.level for concern in of_others] == ["local", "linearizable" if has_more else "local"]
