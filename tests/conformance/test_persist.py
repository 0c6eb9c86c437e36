"""One class that keeps values by id is a backend for all domains: a small one of one's own, and the ready ones."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest

import backtest_kit_mongo as bk
from backtest_kit_mongo import connect
from backtest_kit_mongo.collections.persist import MongoPersist, PostgresPersist, RedisPersist, SqlitePersist
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.settings import Settings
from backtest_kit_mongo.stores import new_persist_store
from backtest_kit_mongo.testing.conformance import (  # noqa: F401 - the rest says nothing new of a class of values
    TestADocument,
    TestCandleWindows,
    TestFirstWriteWins,
    TestInventory,
    TestListMethods,
    TestLists,
    TestNothingIsShared,
    TestRowWrites,
    TestSoftRemoval,
    TestSteps,
    empty_store,
    tag,
    twin,
)
from backtest_kit_verify.cli.kills import kills
from backtest_kit_verify.values.killing import judged, text_of


class Mine:
    """As little as it can be: it cannot even say which ids it has."""

    kept: dict[str, dict[str, str]] = {}  # noqa: RUF012 - for all instances, as a server would be

    def __init__(self, entity_name: str, base_dir: str) -> None:
        self.values = self.kept.setdefault(f"{base_dir} {entity_name}", {})

    def wait_for_init(self, initial: bool) -> None:
        """Nothing to do."""

    def has_value(self, id: str) -> bool:  # noqa: A002 - the contract's name
        return id in self.values

    def read_value(self, id: str) -> Any:  # noqa: A002 - the contract's name
        return json.loads(self.values[id])

    def write_value(self, id: str, value: Any) -> None:  # noqa: A002 - the contract's name
        self.values[id] = json.dumps(value)


@pytest.fixture(scope="class")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return new_persist_store(Mine, str(tmp_path_factory.mktemp("values")))


@pytest.fixture
def default_signals() -> Iterator[None]:
    yield
    bk.PersistSignalAdapter.use_default()


@pytest.mark.usefixtures("default_signals")
def test_an_adapter_takes_the_class_itself_and_refuses_one_that_could_not_serve() -> None:
    bk.PersistSignalAdapter.use_persist_signal_adapter(Mine)
    bk.PersistSignalAdapter.write_signal_data({"id": "1"}, "BTC", "s", "x")
    assert bk.PersistSignalAdapter.read_signal_data("BTC", "s", "x") == {"id": "1"}

    class Half:
        def read_signal_data(self) -> None: ...

    with pytest.raises(bk.InvalidSetting, match="Half cannot serve it: it has no wait_for_init, write_signal_data"):
        bk.PersistSignalAdapter.use_persist_signal_adapter(Half)
    assert bk.PersistSignalAdapter.choice is Mine


@pytest.mark.usefixtures("default_signals")
def test_the_class_of_the_documentation_serves() -> None:
    page = (Path(__file__).parents[2] / "docs" / "backends.md").read_text("utf-8")
    exec(compile(page.split("```python\n")[1].split("```")[0], "backends.md", "exec"), {"__name__": "page"})
    assert bk.PersistSignalAdapter.read_signal_data("BTCUSDT", "my-strategy", "binance") == {"id": "s1"}


class Away(Mine):
    """Of a server that does not answer."""

    def read_value(self, id: str) -> Any:  # noqa: A002 - the contract's name
        raise bk.ServerUnreachable("the server did not answer. Nothing was read.")


class Broken(Mine):
    def read_value(self, id: str) -> Any:  # noqa: A002 - the contract's name
        raise OSError("disk")

    def has_value(self, id: str) -> bool:  # noqa: A002 - the contract's name
        raise OSError("disk")


@pytest.mark.usefixtures("default_signals")
def test_a_value_that_cannot_be_read_is_not_one_that_does_not_exist() -> None:
    for kind, error in ((Away, bk.ServerUnreachable), (Broken, bk.ReadFailed)):
        bk.PersistSignalAdapter.use_persist_signal_adapter(kind)
        with pytest.raises(error):
            bk.PersistSignalAdapter.read_signal_data("BTC", "s", "x")


def check(values: bk.PersistBase) -> None:
    """What every ready class does."""
    values.wait_for_init(True)
    with pytest.raises(bk.NotFound, match=r"Entity signal/BTC%2FUSDT:a2 not found"):
        values.read_value("a2")
    with pytest.raises(bk.NotFound):
        values.remove_value("a2")
    hostile = ["a10", "a2", "../x", "ü/ß", "nul\0", "x" * 300]
    for number, id in enumerate(hostile):  # noqa: A001 - the contract's name
        values.write_value(id, {"n": number})
    assert set(values.keys()) == set(hostile)
    assert [id for id in values.keys() if id in ("a10", "a2")] == ["a2", "a10"]  # noqa: A001, SIM118
    assert values.has_value("a2")
    assert not values.has_value("a")
    assert [value["n"] for value in values.filter(lambda value: value["n"] in (0, 1))] == [1, 0]
    assert len(list(values.take(2))) == 2
    values.remove_value("a2")
    values.remove_all()
    assert not list(values.values())


@pytest.mark.parametrize("kind", [bk.PersistBase, SqlitePersist])
def test_values_in_files(kind: type[bk.PersistBase], tmp_path: Path) -> None:
    check(kind("signal/BTC%2FUSDT", tmp_path))


@pytest.mark.live
def test_values_on_servers(bkm_settings: Settings) -> None:
    given = {name: getattr(bkm_settings, name) for name in bkm_settings.model_fields_set}
    bk.PersistSignalAdapter.use_dummy()
    for _ in range(2):
        bk.setup(given, backends={"risk": RedisPersist, "memory": "memory", "state": "mongo"})
    try:
        for other in ({"backends": {"risk": MongoPersist}}, {"modes": {"live": {"state": "memory"}}}):
            with pytest.raises(bk.AlreadySetUp):
                bk.setup(other)
        assert bk.get_modes()["live"]["state"] == "mongo"
        served = bk.backends()
        assert "RedisPersist" in served["risk"]
        assert [served["signal"], served["memory"]] == ["dummy: nothing is kept", "memory of this process"]
        for kind in (RedisPersist, MongoPersist):
            check(kind("signal/BTC%2FUSDT"))
            bk.PersistStateAdapter.use_persist_state_adapter(kind)
            bk.PersistStateAdapter.write_state_data({"kind": str(kind)}, "s", "b", 1)
            assert bk.PersistStateAdapter.read_state_data("s", "b") == {"kind": str(kind)}
    finally:
        bk.shutdown()


@pytest.mark.live
def test_values_in_postgresql(bkm_postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import psycopg

    bk.set_config(postgres_connection_string=bkm_postgres, postgres_timeout_ms=60_000, postgres_connections_max=1)
    values = PostgresPersist("signal/BTC%2FUSDT")
    try:
        check(values)
        bk.PersistStateAdapter.use_persist_state_adapter(PostgresPersist)
        for number in range(2):
            bk.PersistStateAdapter.write_state_data({"data": number}, "s", "b", 1)
        assert bk.PersistStateAdapter.read_state_data("s", "b") == {"data": 1}
        long = "я" * 3_000
        values.write_value(long, 1)
        values.write_value(long, 2)
        assert [*values.keys(), *values.values()] == [long, 2]
        with psycopg.connect(bkm_postgres, autocommit=True) as other:
            others = "FROM pg_stat_activity WHERE application_name = 'backtest-kit-mongo'"
            ended = other.execute(f"SELECT pg_terminate_backend(pid, 10000) {others}").fetchall()
            assert ended == [(True,)]
            values.write_value("after a restart of the server", 1)
            table = other.execute(
                "SELECT relname FROM pg_class WHERE relname LIKE 'bkm_%' AND relkind = 'r'"
            ).fetchall()
            other.execute(f"BEGIN; LOCK {table[0][0]} IN EXCLUSIVE MODE")
            times_s = chain([0.0], repeat(61.0))  # The statement begins, and the next look is a minute later.
            monkeypatch.setattr(connect, "monotonic", lambda: next(times_s))
            with pytest.raises(bk.WriteOutcomeUnknown, match="did not answer in time"):
                values.write_value("while it hangs", 1)
            monkeypatch.undo()
            other.execute("COMMIT")
        bk.shutdown()
        for wrong in ("postgresql://u:hunt er2@h/d", bkm_postgres.replace("bkm@", "nobody:hunter2@")):
            bk.set_config(postgres_connection_string=wrong)
            with pytest.raises((bk.InvalidSetting, bk.ServerUnreachable)) as caught:
                values.read_value("a")
            assert "hunt" not in str(caught.value)
            bk.shutdown()
    finally:
        bk.shutdown()


def test_a_file_that_cannot_be_read_is_put_aside_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = bk.PersistBase("state/s", tmp_path)
    for id in "abc":  # noqa: A001 - the contract's name
        values.write_value(id, id)
    files = {path.name[0]: path for path in tmp_path.rglob("*.json")}
    files["b"].write_text("{")
    left, old = files["a"].with_name(".tmp-now"), files["a"].with_name(".tmp-old")
    left.touch()
    old.touch()
    os.utime(old, (0, 0))
    values.wait_for_init(True)
    assert (left.exists(), old.exists()) == (True, False)
    files["c"].write_text("[")  # Later than the first use.
    for id in "bcbc":  # noqa: A001 - the contract's name
        with pytest.raises(bk.NotFound):
            values.read_value(id)
        assert not values.has_value(id)
    assert list(values.values()) == ["a"]
    assert caplog.text.count("counts as absent") == 2
    assert sorted(path.name for path in tmp_path.rglob("*.corrupt")) == ["b.json.corrupt", "c.json.corrupt"]


def test_a_killed_writer_leaves_whole_values_that_are_not_older_than_the_last_acknowledged(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for kind in ("bk.PersistBase", "SqlitePersist"):
        kills(f"{__name__}:{kind}", count=3, seed="one")
    assert capsys.readouterr().out.count("none is older than the last acknowledged one") == 2


def test_what_a_kill_must_not_leave_is_found() -> None:
    whole = {"n": 8, "text": text_of(8)}
    assert judged({"values": {"0": whole}, "problems": []}, {0: 4, 1: 0}, next_number=8) == []
    for values, last, said in (
        ({"0": {**whole, "n": 4}}, {0: 4}, "torn"),
        ({"0": whole}, {0: 12}, "12 was acknowledged last"),
        ({}, {0: 8}, "is not there"),
    ):
        (problem,) = judged({"values": values, "problems": []}, last, next_number=13)
        assert said in problem
