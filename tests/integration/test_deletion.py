"""What is deleted for good is gone for everybody when the command returns."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pymongo.collection import Collection
from pymongo.errors import OperationFailure
from tests.integration.support import LEASE_MS, eventually, store_for
from tests.worker.replica_support import Bed, bed_on
from typer.testing import CliRunner

from backtest_kit_mongo.backends.mongo import deleting
from backtest_kit_mongo.cli.main import app
from backtest_kit_mongo.coherence.effects import CacheRead
from backtest_kit_mongo.coherence.inventory import Selection
from backtest_kit_mongo.coherence.record import Key, Record
from backtest_kit_mongo.domains.checks import make_change
from backtest_kit_mongo.domains.table import BY_NAME, LOG, NOTIFICATION, PARTIAL, SIGNAL, STATE, STORAGE
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_mongo.errors import WriteRefused
from backtest_kit_mongo.testing.examples import example
from backtest_kit_worker.roles.audit import AuditRole

pytestmark = pytest.mark.live

SIGNALS = 8
ROWS = 20


def documents(strategy: str) -> Iterator[tuple[Key, Any]]:
    """Of each kind that a strategy has: named by it, carrying its name, and hanging on its signals."""
    context = ("BTC/USDT", strategy, "binance")
    yield Key(SIGNAL, context), {"id": f"{strategy}-0"}
    for number in range(SIGNALS):
        yield Key(PARTIAL, (*context, f"{strategy}-{number}")), {"x": {"profitLevels": [10], "lossLevels": []}}
        yield Key(STATE, (f"{strategy}-{number}", "counters")), {"data": {"n": number}}
    yield Key(STATE, (f"live:BTC%3AUSDT:{strategy}", "state")), {"data": 1}
    for domain in (STORAGE, NOTIFICATION, LOG):
        for number in range(ROWS):
            key = Key(domain, ((False,) if domain is not LOG else ()) + (f"{strategy}-{number}",))
            row = example(domain, key.item)
            context_of_row = row[domain.context_field] if domain.context_field else row
            context_of_row["strategyName"] = strategy
            yield key, row


def write(store: Store, strategy: str) -> list[Key]:
    rows: dict[Key, list[Any]] = {}
    keys = []
    for key, payload in documents(strategy):
        keys.append(key)
        change = make_change(key, payload, 1 if key.domain.has_when else None)
        if key.domain.cached:
            store.write(change)
        else:
            rows.setdefault(key.scope, []).append(change)
    for scope, changes in rows.items():
        store.merge(scope, changes)
    return keys


@pytest.fixture
def bed(
    servers: Endpoints, new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Bed]:
    with bed_on(servers, f"{new_database()}_deletion") as made:
        uri = servers.mongo_connection_string(made.deployment.settings.database)
        for name, value in {
            "MONGO_CONNECTION_STRING": uri, "REDIS_HOST": servers.redis_host, "REDIS_PORT": str(servers.redis_port),
            "LEASE_MS": str(LEASE_MS), "NEAR_CACHE": "partial", "NEAR_CACHE_MAX_STALENESS_MS": "200",
        }.items():  # fmt: skip
            monkeypatch.setenv(f"CC_{name}", value)
        yield replace(made, directory=tmp_path / "replica")


def reads(store: Store, keys: list[Key]) -> list[Key]:
    """Those of which something is read, single documents and rows of lists."""
    listed = {record.key for scope in {key.scope for key in keys} for record in store.scan(scope)}
    return [key for key in keys if (store.read(key).exists if key.domain.cached else key in listed)]


def test_a_strategy_is_gone_for_warm_readers_lists_replicas_and_inventory_and_the_log_says_why(bed: Bed) -> None:
    near = {"near_cache": "partial", "near_cache_max_staleness_ms": 200}
    name = bed.deployment.settings.database
    with store_for(bed.servers, name, **near) as one, store_for(bed.servers, name, **near) as other:
        keys, others = write(bed.store, "trend"), write(one, "trend2")
        role = bed.role(bed.to_mongo(), bed.to_directory())
        role.apply(bed.events())
        cached = [key for key in keys if key.domain.cached]

        def warm() -> bool:
            found = reads(one, keys) + reads(other, keys)
            entries = [bed.store.cache.read(CacheRead(key)) for key in cached]
            return found == keys * 2 and all(isinstance(entry, Record) for entry in entries)

        eventually(warm)
        planned = CliRunner().invoke(app, ["delete", "--strategy", "trend", "--dry-run", "--json"])
        assert json.loads(planned.stdout)["found"] == Counter(key.domain.name for key in keys)
        assert reads(one, keys) == keys

        arguments = ["delete", "--strategy", "trend", "--why", "trial is over", "--yes"]
        done = CliRunner().invoke(app, arguments)
        assert (done.exit_code, f"{len(keys)} deleted" in done.stdout) == (0, True), done.output

        for reader in (one, other, bed.store):
            assert reads(reader, keys) == []
            assert reads(reader, others) == others
        chosen = Selection((("strategyName", "trend"),))
        assert not [entry for domain in BY_NAME.values() for entry in bed.store.browse(domain, chosen)]
        assert CliRunner().invoke(app, arguments).exit_code == 0
        # What remembers the list writes the row again, and does not take it for stored.
        row = next(key for key in keys if key.domain is STORAGE)
        assert one.merge(row.scope, [make_change(row, example(STORAGE, row.item))]) == 1

    role.apply(bed.events())
    bed.require_equal()
    audit = AuditRole(bed.mongo)
    audit.open()
    audit.apply(bed.events())
    recorded = list(bed.mongo["audit-items"].find({"operation": "delete"}))
    assert {tuple(record["key"]) for record in recorded} == {key.parts for key in keys}
    assert {record["payload"]["why"] for record in recorded} == {"trial is over"}
    assert all(record["payload"]["by"] and record["host"] for record in recorded)
    # `--erase` does this for each of them, once their deletions are recorded.
    for said in ("1 payloads erased", "0 payloads erased"):
        erased = CliRunner().invoke(app, ["audit", "erase", "signal/BTC%2FUSDT/trend/binance", "--yes"])
        assert said in erased.stdout, erased.output
    assert bed.mongo["audit-items"].count_documents({"payload.id": "trend-0", "domain": "signal"}) == 0


def test_what_is_older_than_its_domain_is_kept_goes_and_by_default_nothing_does(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = write(bed.store, "trend")
    old = [key for key in keys if key.domain is LOG][:5]
    bed.mongo["log-items"].update_many(
        {"entryId": {"$in": [key.item for key in old]}},
        [{"$set": {"updatedDate": {"$subtract": ["$$NOW", 40 * 86_400_000]}}}],
    )
    run = CliRunner()
    assert run.invoke(app, ["prune", "--yes"]).exit_code == 0
    assert reads(bed.store, keys) == keys
    monkeypatch.setenv("CC_RETENTION", "log=30, storage=1")
    assert json.loads(run.invoke(app, ["prune", "--yes", "--json"]).stdout)["deleted"] == {"log": 5}
    assert reads(bed.store, keys) == [key for key in keys if key not in old]
    for wrong in ("log", "candle=3", "log=0", "nothing=1", "log=1e300", "log=1,log=2"):
        assert run.invoke(app, ["prune", "--older-than", wrong]).exit_code == 2


def test_of_a_page_what_is_written_meanwhile_goes_too_and_without_the_right_nothing_is_begun(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [Key(PARTIAL, ("BTC/USDT", "trend", "binance", f"s-{number}")) for number in range(3)]
    changes = [make_change(key, {"x": {"profitLevels": [10], "lossLevels": []}}, 1) for key in keys]
    for change in changes:
        bed.store.write(change)
    said, mark = {"by": "somebody", "why": "a trial"}, deleting._mark

    def refused(*_: Any, **__: Any) -> None:
        raise OperationFailure("not authorized", 13)

    with monkeypatch.context() as patch:
        patch.setattr(Collection, "delete_one", refused)
        with pytest.raises(WriteRefused):
            bed.store.delete_all(keys, said)
    assert reads(bed.store, keys) == keys

    def beside(*given: Any) -> Any:
        bed.store.write(changes[1])
        monkeypatch.setattr(deleting, "_mark", mark)
        return mark(*given)

    monkeypatch.setattr(deleting, "_mark", beside)
    gone = bed.store.delete_all([*keys, keys[0]._replace(parts=(*keys[0].parts[:3], "nobody"))], said)
    assert [one and one.rev for one in gone] == [2, 3, 2, None]
    assert reads(bed.store, keys) == []
    assert bed.mongo["partial-items"].count_documents({}) == 0
    assert [event.rev for _, event in bed.events() if event.operation == "delete"] == [2, 3, 2]
