"""A backup of a database in use is of one moment; what is restored is what is read, whatever any Redis holds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.integration.support import LEASE_MS, eventually, store_for
from tests.integration.test_deletion import bed as copied
from tests.integration.test_deletion import write
from tests.worker.recovery_support import MINUTE_MS, Bed, bed_for, series
from tests.worker.replica_support import Bed as Copied
from tests.worker.replica_support import finish
from typer.testing import CliRunner

from backtest_kit_mongo.candles.intervals import grid_of
from backtest_kit_mongo.cli.main import app
from backtest_kit_mongo.coherence.inventory import Selection
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.checks import make_change
from backtest_kit_mongo.domains.table import DOMAINS, SIGNAL
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_mongo.operate.backup import dumping, files
from backtest_kit_mongo.operate.backup.archive import Draft
from backtest_kit_mongo.operate.backup.dumping import Dump
from backtest_kit_mongo.operate.backup.loading import Load
from backtest_kit_mongo.operate.deletion import note
from backtest_kit_mongo.stores import new_file_store
from backtest_kit_worker.fence import PrimaryChanged
from backtest_kit_worker.services.seal import SealService

pytestmark = pytest.mark.live
__all__ = ["copied"]


@pytest.fixture
def bed(servers: Endpoints, new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Bed]:
    name = f"{new_database()}_backup"
    with bed_for(servers, name) as made:
        for variable, value in {
            "MONGO_CONNECTION_STRING": servers.mongo_connection_string(name), "REDIS_HOST": servers.redis_host,
            "REDIS_PORT": str(servers.redis_port), "LEASE_MS": str(LEASE_MS), "NEAR_CACHE": "",
        }.items():  # fmt: skip
            monkeypatch.setenv(f"CC_{variable}", value)
        yield made


def run(*arguments: object, status: int = 0) -> str:
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == status, done.output
    return done.output


def stored(bed: Bed) -> dict[str, dict[Any, Any]]:
    """Everything, but what belongs to the processes of now."""
    names = sorted(set(bed.mongo.list_collection_names()) - dumping.LEFT - {"cache-identity", "replica-state"})
    return {
        name: {str(one["_id"]): one for one in bed.mongo[name].find()} for name in names if bed.mongo[name].find_one()
    }


def served(store: Store, keys: list[Key]) -> dict[Key, Any]:
    """What is read of each key, of rows of lists by their lists."""
    scopes = {key.scope for key in keys if not key.domain.cached}
    listed = {record.key: record.payload for scope in scopes for record in store.scan(scope)}
    return {key: store.read(key).payload if key.domain.cached else listed.get(key) for key in keys}


def test_after_a_restore_under_workers_and_without_a_flush_only_what_mongodb_holds_is_read(
    bed: Bed, servers: Endpoints, tmp_path: Path
) -> None:
    keys = write(bed.store, "trend")
    bed.append_unannounced(*range(30))
    sealer = SealService(bed.mongo, rest_ms=0, grace_ms=0)
    bed.catch_up()
    eventually(lambda: sealer.run_once() == 0 and bed.mongo["audit-seals"].find_one(), 60)
    made = json.loads(run("backup", tmp_path / "b", "--json"))
    assert made["documents"]["candle-items"] == 30
    assert not {"recovery-state", "worker-leases", "engine-leases"} & made["documents"].keys()
    before, then = stored(bed), served(bed.store, keys)
    assert all(value is not None for value in then.values())

    later = write(bed.store, "later")
    position = next(key for key in keys if key.domain is SIGNAL)
    bed.store.write(make_change(position, {"id": "another"}))
    bed.append_unannounced(*range(100, 110))
    bed.catch_up()
    eventually(lambda: sealer.run_once() == 0, 60)
    anchors = tmp_path / "anchors.jsonl"
    run("audit", "anchor", "--to", anchors)
    warm = {key: value for key, value in served(bed.store, keys + later).items() if value is not None}
    assert warm[position] == {"id": "another"}

    assert "--replace" in run("restore", tmp_path / "b", status=2)
    run("restore", tmp_path / "b", "--replace")
    with store_for(servers, bed.mongo.name) as fresh:
        for store in (bed.store, fresh):
            assert served(store, keys + later) == {**dict.fromkeys(later), **then}
            assert len(store.columns(series(), grid_of("1m"), 0, 200 * MINUTE_MS)) == 30
    after = stored(bed)
    assert after.keys() == before.keys()
    assert all(after[name] == before[name] for name in before)

    eventually(lambda: _recorded(bed), 60)
    (restored,) = bed.records(operation="restore")
    assert made["name"] in restored["reason"]
    bed.store.write(make_change(position, {"id": "once more"}))
    with suppress(PrimaryChanged):
        bed.catch_up()  # What the audit role knew may be of before; then it begins again.
    bed.catch_up()
    eventually(lambda: sealer.run_once() == 0, 60)
    assert made["name"] in run("audit", "verify")
    assert "if the database was set back" in run("audit", "verify", "--anchors", anchors, status=4)


def _recorded(bed: Bed) -> bool:
    """Whether the worker, which was running all the time, has recorded the restore."""
    try:
        bed.work()
    except PrimaryChanged:
        return False
    return bool(bed.records(operation="restore"))


def test_after_a_restore_replicas_and_inventory_have_what_mongodb_has(copied: Copied, tmp_path: Path) -> None:
    keys = write(copied.store, "trend")
    targets = copied.to_mongo(), copied.to_directory()
    service, role = copied.service(*targets), copied.role(*targets)
    finish(service)
    run("backup", tmp_path / "b")
    write(copied.store, "trend")  # Higher revisions than those that come back.
    later = write(copied.store, "later")
    copied.store.delete(keys[0], note("it comes back"))
    role.apply(copied.events())
    copied.require_equal()
    assert there(copied.files()) == {*keys[1:], *later}

    run("restore", tmp_path / "b", "--replace")
    finish(service)
    copied.require_equal()
    assert there(copied.store) == there(copied.files()) == {*keys}
    assert served(copied.files(), keys) == served(copied.store, keys)


def there(store: Store) -> set[Key]:
    """What the inventory names."""
    return {entry.key for domain in DOMAINS for entry in store.browse(domain, Selection())}


def test_a_backup_is_of_one_moment_however_long_the_copy_takes_and_whatever_is_written_meanwhile(
    bed: Bed, tmp_path: Path
) -> None:
    for number in range(6):
        bed.write(number, item=f"item {number}")
    whole: dict[str, dict[Any, Any]] = {}

    def meanwhile(name: str, count: int, total: int) -> None:
        if name == "state-items" and not whole:  # It was copied already.
            bed.write("changed", item="item 0")
            bed.states.delete_one({"bucketName": "item 1"})
            bed.write("new", item="item 7")
            whole.update(stored(bed))

    Dump(bed.mongo, meanwhile).into(Draft(tmp_path / "b"))
    # What comes after the moment is not in it.
    bed.write("later", item="item 2")
    run("restore", tmp_path / "b", "--replace")
    assert stored(bed) == whole


def test_a_restore_that_dies_anywhere_is_completed_by_the_next_run_and_workers_confirm_nothing_until_then(
    bed: Bed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = write(bed.store, "trend")
    run("backup", tmp_path / "b")
    before, then = stored(bed), served(bed.store, keys)
    write(bed.store, "later")

    def die(*_: Any) -> None:
        raise OSError("died")

    for patched in ("_apply_changes", "_cut"):
        with monkeypatch.context() as patch:
            patch.setattr(Load, patched, die)
            run("restore", tmp_path / "b", "--replace", status=1)
    with pytest.raises(PrimaryChanged, match="run it again"):
        bed.catch_up()
    bed.states.delete_one({"bucketName": "proof"})  # The documents' collections were in their place already.
    run("restore", tmp_path / "b", "--replace")
    assert stored(bed) == before
    assert served(bed.store, keys) == then
    assert not [name for name in bed.mongo.list_collection_names() if name.startswith("bkm-")]


def test_a_backup_that_is_damaged_unfinished_or_of_something_else_changes_nothing(
    bed: Bed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bed.write(1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine").touch()
    assert "not empty" in run("backup", tmp_path / "other", status=2)
    with monkeypatch.context() as patch:
        patch.setattr(Dump, "_catch_up", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            Dump(bed.mongo).into(Draft(tmp_path / "b"))
    assert "did not come to its end" in run("restore", tmp_path / "b", status=1)
    assert "interrupted backup" in run("backup", tmp_path / "b")
    run("restore", tmp_path / "b", "--dry-run")
    damaged = tmp_path / "b" / "state-items.bson.gz"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    before = stored(bed)
    for arguments in (["--dry-run"], ["--replace"]):
        assert "SHA-256" in run("restore", tmp_path / "b", *arguments, status=1)
    assert stored(bed) == before


def test_a_directory_of_files_comes_back_as_it_was_at_one_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, kept = tmp_path / "dump", tmp_path / "b"
    store = new_file_store(root)
    keys = write(store, "trend")
    first, second, new = keys[0], keys[1], keys[0]._replace(parts=("ETH/USDT", "trend", "binance"))
    copied = files._add

    def meanwhile(archive: Any, of: Path, path: str) -> None:
        copied(archive, of, path)
        if not store.read(new).exists:
            store.write(make_change(first, {"id": "changed"}))
            store.write(make_change(new, {"id": "new"}))
            store.delete(second, note("meanwhile"))

    monkeypatch.setattr(files, "_add", meanwhile)
    run("backup", kept, "--at", root)
    then = served(store, [*keys, new])
    store.write(make_change(first, {"id": "later"}))
    assert "--replace" in run("restore", kept, "--at", root, status=2)
    run("restore", kept, "--at", root, "--replace")
    assert served(store, [*keys, new]) == then
    assert (then[first], then[second], then[new]) == ({"id": "changed"}, None, {"id": "new"})
    run("restore", kept, "--at", tmp_path / "empty")
    assert served(new_file_store(tmp_path / "empty"), [*keys, new]) == then
    assert sorted(one.name for one in tmp_path.iterdir()) == ["b", "dump", "empty"]
