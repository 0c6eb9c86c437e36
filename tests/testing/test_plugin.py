"""The pytest plugin as users meet it: in a directory of their own, in a pytest of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from fnmatch import fnmatch
from importlib.metadata import entry_points
from pathlib import Path
from typing import NoReturn

import numpy as np  # noqa: F401 - a run within this process forgets what it imported, and NumPy is not imported twice.
import pymongo
import pytest
from tests.conformance import dict_backend

import backtest_kit_mongo as bk
import backtest_kit_pytest
from backtest_kit_mongo.adapters.registries import REGISTRIES
from backtest_kit_mongo.coherence.record import Shape
from backtest_kit_mongo.domains.table import DOMAINS
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.embedded import NotInstalledError
from backtest_kit_mongo.settings import Settings
from backtest_kit_mongo.testing import servers as servers_module
from backtest_kit_mongo.testing.calls import calls
from backtest_kit_mongo.testing.examples import BASE_MS, example
from backtest_kit_mongo.testing.handles import parts
from backtest_kit_mongo.testing.servers import Servers, UnavailableError, container_servers
from backtest_kit_mongo.testing.serving import fresh_settings, memory_store, serving

WHEN = BASE_MS + 10**9
PLAIN = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-p", "no:xdist")
"""Without what users may not have, and what takes long to start."""


@pytest.fixture(autouse=True)
def packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """The packages under test are on the path of any process, from any directory."""
    found = {str(Path(str(package.__file__)).parents[1]) for package in (bk, backtest_kit_pytest)}
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sorted(found)))


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """Another pytest in this process, with the plugin and nothing else of this one's."""
    pytester.syspathinsert()
    plugins = () if _is_installed() else (backtest_kit_pytest,)
    return pytester.runpytest_inprocess(*PLAIN, "-W", "error", "--tb=short", *arguments, plugins=plugins)


class TestBkmStore:
    @pytest.mark.parametrize("number", range(len(DOMAINS)), ids=lambda number: DOMAINS[number].name)
    def test_the_adapter_of_every_domain_is_served_from_memory(self, bkm_store: Store, number: int) -> None:
        domain, registry = DOMAINS[number], REGISTRIES[number]
        key = parts(domain, "t")
        payload = example(domain, key[-1])
        reach = calls(domain)
        reach.write(registry, payload, key, WHEN)
        found = reach.read(registry, key, WHEN)
        assert found == ([payload] if domain.shape is Shape.SERIES else payload)
        assert not Path("dump").exists()

    @pytest.mark.parametrize("time", ["first", "second"])
    def test_each_test_begins_with_nothing(self, bkm_store: Store, time: str) -> None:
        assert bk.PersistSignalAdapter.read_signal_data("BTCUSDT", "s", "e") is None
        bk.PersistSignalAdapter.write_signal_data(example(DOMAINS[1]), "BTCUSDT", "s", "e")

    def test_adapters_are_as_before_after_it_even_if_the_test_fails(self, bkm_store: Store) -> None:
        write = bk.PersistStateAdapter.write_state_data
        write({"data": 1}, "s", "b", when=1)
        with pytest.raises(ZeroDivisionError), serving(memory_store()):
            write({"data": 1 / 0}, "s", "b", when=1)
        found = bk.PersistStateAdapter.read_state_data("s", "b", when=1)
        assert found is not None
        assert found["data"] == 1

    def test_a_users_test_needs_nothing_but_its_name(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile(
            """
            import backtest_kit_mongo as bk

            def test_it(bkm_store):
                bk.PersistStateAdapter.write_state_data({"data": 1}, "s", "b", when=1)
                assert bk.PersistStateAdapter.read_state_data("s", "b", when=1)["data"] == 1
            """
        )
        run(pytester).assert_outcomes(passed=1)


def _is_installed() -> bool:
    return any(found.value == "backtest_kit_pytest" for found in entry_points(group="pytest11"))


class TestTheStart:
    def test_pytest_imports_nothing_heavy_until_a_test_asks(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile(
            """
            import sys

            def test_nothing_is_imported():
                heavy = ("backtest_kit_mongo", "pymongo", "redis", "pydantic", "numpy", "prometheus_client",
                         "testcontainers", "docker")
                assert "backtest_kit_pytest" in sys.modules
                assert not [name for name in heavy if name in sys.modules]
            """
        )
        # Another process, because this one has imported everything.
        loaded = () if _is_installed() else ("-p", "backtest_kit_pytest")
        pytester.runpytest_subprocess(*PLAIN, *loaded).assert_outcomes(passed=1)

    def test_the_plugin_itself_imports_only_pytest(self) -> None:
        code = (
            "import sys, pytest; before = set(sys.modules); import backtest_kit_pytest; "
            "print(sorted(name for name in set(sys.modules) - before if not name.startswith('backtest_kit_pytest')))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"


class TestWithoutServers:
    TEST = "def test_it(bkm_live): ..."

    @pytest.fixture(autouse=True)
    def no_servers(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        def up(*_: object, **__: object) -> NoReturn:
            raise NotInstalledError("no mongod")

        pytester.makepyfile(self.TEST)
        monkeypatch.setattr(servers_module, "up", up)

    def test_a_laptop_skips(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CI", raising=False)
        result = run(pytester, "-rs")
        result.assert_outcomes(skipped=1)
        result.stdout.fnmatch_lines("*no servers: no mongod*")

    def test_ci_fails(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CI", "true")
        result = run(pytester)
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines("*CI must test against real servers: no mongod*")


class TestContainers:
    def test_without_testcontainers_the_message_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "testcontainers.core.container", None)
        with pytest.raises(UnavailableError, match="pip install testcontainers"), container_servers():
            pass

    def test_the_connection_string_names_the_database_and_goes_to_the_published_port(self) -> None:
        found = servers_module.Containers("localhost:1234", "localhost", 5678)
        assert found.mongo_url == "mongodb://localhost:1234/?directConnection=true"
        assert found.mongo_connection_string("a/b") == "mongodb://localhost:1234/a%2Fb?directConnection=true"


@pytest.mark.live
class TestBkmLive:
    def test_adapters_are_durable_and_another_client_sees_it(self, bkm_live: Store, bkm_settings: Settings) -> None:
        from backtest_kit_mongo.setup import make_store

        bk.PersistStateAdapter.write_state_data({"data": 1}, "s", "b", when=1)
        other = make_store(bkm_settings)
        try:
            with serving(other):
                found = bk.PersistStateAdapter.read_state_data("s", "b", when=1)
        finally:
            other.close()
        assert found is not None
        assert found["data"] == 1

    def test_its_database_is_dropped_even_if_what_used_it_failed(self, bkm_servers: Servers) -> None:
        with pymongo.MongoClient[dict[str, object]](bkm_servers.mongo_url) as client:
            with suppress(ZeroDivisionError), fresh_settings(bkm_servers) as settings:
                client[settings.database]["any"].insert_one({})
                raise ZeroDivisionError
            assert settings.database not in client.list_database_names()

    def test_the_environments_own_servers_are_left_alone(
        self, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
    ) -> None:
        monkeypatch.setenv("CC_MONGO_CONNECTION_STRING", "mongodb://production/trading")
        monkeypatch.setenv("CC_REDIS_HOST", "production")
        monkeypatch.setenv("CC_REDIS_PASSWORD", "secret")
        settings: Settings = request.getfixturevalue("bkm_settings")
        assert "production" not in (settings.mongo_address, settings.redis_host)
        assert settings.redis_password.get_secret_value() == ""


class TestConformance:
    BACKEND = Path(dict_backend.__file__).read_text("utf-8")
    FORGETFUL = """
class Forgetful(DictTruth):
    def find(self, effect):
        return super().find(effect)._replace(payload=None)


def bad():
    return Store("mine", Forgetful(), NoCache())
"""
    SUITE = "backtest_kit_mongo.testing.conformance"
    CHAPTER = ("--pyargs", f"{SUITE}::TestADocument", "-k", "state")

    def test_a_backend_proves_itself_with_one_line(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile(my_backend=self.BACKEND)
        result = run(pytester, *self.CHAPTER, "--bkm-store=my_backend:make_store")
        outcomes = result.parseoutcomes()
        assert outcomes["passed"] > 5
        assert outcomes.keys() <= {"passed", "deselected", "skipped"}

    def test_one_that_forgets_fails(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile(my_backend=self.BACKEND + self.FORGETFUL)
        result = run(pytester, *self.CHAPTER, "--bkm-store=my_backend:bad")
        assert result.parseoutcomes()["failed"] > 3

    @pytest.mark.parametrize(
        ("named", "said"),
        [
            ("no_such_backend:good", "ModuleNotFoundError: No module named 'no_such_backend'*"),
            ("", "*module:maker*"),
            ("json:dumps", "it cannot be called without arguments*"),
            ("decimal:Decimal", "made a Decimal, not a Store*"),
        ],
    )
    def test_a_store_that_cannot_be_made_is_one_message(self, pytester: pytest.Pytester, named: str, said: str) -> None:
        result = run(pytester, *self.CHAPTER, f"--bkm-store={named}")
        lines = [line for line in (*result.errlines, *result.outlines) if "--bkm-store=" in line]
        assert len(lines) == 1
        assert fnmatch(lines[0], f"*--bkm-store={named}*{said}")
        assert "Traceback" not in result.stdout.str()
        assert result.ret == pytest.ExitCode.USAGE_ERROR

    def test_without_a_store_the_message_says_how_to_name_one(self, pytester: pytest.Pytester) -> None:
        result = run(pytester, "-x", "--pyargs", self.SUITE)
        result.stdout.fnmatch_lines("*--bkm-store=module:maker*")
