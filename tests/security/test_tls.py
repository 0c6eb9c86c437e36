"""TLS to both servers: who is trusted, who is not, and a demo over guarded servers that shows no secret anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backtest_kit_mongo.domains.checks import make_change, make_key
from backtest_kit_mongo.domains.table import STATE
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_mongo.errors import InvalidSetting, ServerUnreachable
from backtest_kit_mongo.servers import redis_client
from backtest_kit_mongo.settings import load
from tests.ha.support import HOST
from tests.integration.support import store_for
from tests.security.support import Certificates, GuardedRedis, guarded_mongod, secret, tls_in_front_of

pytestmark = pytest.mark.live
KEY = make_key(STATE, ("signal", "bucket"))


@pytest.fixture(scope="module")
def port(guarded: GuardedRedis, certificates: Certificates) -> Iterator[int]:
    """Where the guarded Redis speaks TLS."""
    with tls_in_front_of(guarded.port, certificates) as found:
        yield found


@pytest.fixture
def options(port: int, certificates: Certificates) -> dict[str, Any]:
    return {
        "redis_host": "localhost",
        "redis_port": port,
        "redis_user": "strategy",
        "redis_password": secret("strategy"),
        "redis_tls": True,
        "redis_tls_ca_file": certificates.authority,
        "redis_tls_cert_file": certificates.client,
        "redis_tls_key_file": certificates.client_key,
        "on_redis_down": "fail",
    }


def test_values_and_events_travel_over_tls(
    servers: Endpoints, new_database: Callable[[], str], options: dict[str, Any], guarded: GuardedRedis
) -> None:
    with store_for(servers, new_database(), **options) as store:
        store.open()
        store.write(make_change(KEY, {"data": 1}, 1))
        assert store.read(KEY).payload == {"data": 1}
    assert guarded.refused == []


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"redis_tls_ca_file": "stranger"}, "certificate verify failed"),
        ({"redis_host": HOST}, "IP address mismatch"),
        ({"redis_tls_cert_file": None, "redis_tls_key_file": None}, "certificate required|reset|closed|EOF"),
        (
            {"redis_tls": False, "redis_tls_ca_file": None, "redis_tls_cert_file": None, "redis_tls_key_file": None},
            "Redis",
        ),
    ],
    ids=["an unknown authority", "another host's name", "no certificate of ours", "no TLS at all"],
)
def test_whoever_cannot_prove_who_they_are_is_not_talked_to(
    servers: Endpoints, options: dict[str, Any], certificates: Certificates, wrong: dict[str, Any], says: str
) -> None:
    if wrong.get("redis_tls_ca_file") == "stranger":
        wrong = {"redis_tls_ca_file": certificates.stranger}
    with (
        store_for(servers, "test_tls", **{**options, **wrong}) as store,
        pytest.raises(ServerUnreachable, match=says) as caught,
    ):
        store.open()
    assert secret("strategy") not in str(caught.value)


def test_sentinels_are_asked_over_tls_too(options: dict[str, Any], port: int) -> None:
    sentinel = {"redis_sentinel": f"localhost:{port}", "redis_sentinel_password": secret("sentinel")}
    client: Any = redis_client(load(**options, **sentinel))
    asked = client.connection_pool.sentinel_manager.sentinels[0].connection_pool
    assert asked.connection_class.__name__ == "SSLConnection"
    assert client.connection_pool.connection_class.__name__ == "SentinelManagedSSLConnection"
    assert asked.connection_kwargs["ssl_check_hostname"] is True


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"redis_tls_ca_file": __file__}, "redis_tls_ca_file given, but redis_tls is off"),
        ({"redis_tls": True, "redis_tls_cert_file": __file__}, "go together"),
        (
            {"redis_tls": True, "redis_tls_ca_file": "/nowhere/ca.pem"},
            "CC_REDIS_TLS_CA_FILE: Path does not point to a file",
        ),
        (
            {"mongo_connection_string": "mongodb://u:hidden@h/?tls=true&tlsCAFile=/nowhere/ca.pem"},
            "/nowhere/ca.pem: No such",
        ),
        ({"redis_sentinel": "one:26379,two"}, "CC_REDIS_SENTINEL: .*host:port"),
        ({"redis_sentinel": "fe80::1:26379"}, "CC_REDIS_SENTINEL: .*host:port"),
        ({"redis_sentinel": "h:70000"}, "CC_REDIS_SENTINEL: .*host:port"),
    ],
)
def test_half_a_setting_is_refused_by_name(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidSetting, match=says) as caught:
        load(**arguments)
    assert "hidden" not in str(caught.value)


def test_sentinels_are_named_in_messages_and_their_password_is_not() -> None:
    settings = load(redis_sentinel=" one:1, [fe80::1]:2 ,", redis_sentinel_password=secret("sentinel"))
    assert settings.redis_sentinel == (("one", 1), ("fe80::1", 2))
    assert settings.redis_address == "mymaster (by the Sentinels one:1,fe80::1:2)"
    assert secret("sentinel") not in f"{settings!r} {settings.model_dump_json()}"
    assert load(redis_sentinel="", redis_tls_ca_file="").redis_sentinel == ()


def test_a_demo_with_killed_processes_passes_over_tls_with_users_of_few_rights_and_shows_no_secret(
    options: dict[str, Any], certificates: Certificates, tmp_path: Path
) -> None:
    with guarded_mongod(tmp_path, certificates, "test_demo") as url:
        given = {**options, "mongo_connection_string": url, "redis_user": "worker", "redis_password": secret("worker")}
        done, report = run_demo(given, tmp_path / "report.json")
    said = done.stdout + done.stderr + json.dumps(report)
    assert done.returncode == 0, said
    assert report["passed"]
    assert "secret" not in said
    assert "1,980 new to the store, 0 were there" in done.stderr
    assert [(row["minutes"], row["kills"]) for row in report["hosts"]] == [(60, 1)] * 3
    assert all(row["events"] == row["audit_records"] for row in report["domains"])
    assert sum(row["documents"] > 0 for row in report["domains"]) >= 10
    assert "9 runs, 9 of them done now" in report["checks"][-1]["detail"]
    assert "\x1b" not in said


def run_demo(given: dict[str, Any], report: Path) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """`bkm demo` with these settings; the answer is the process and its report."""
    command = [
        sys.executable,
        "-c",
        "from backtest_kit_mongo.cli.main import main; main()",
        "demo",
        "--kill",
        "--minutes",
        "60",
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        **{f"CC_{name.upper()}": str(value) for name, value in given.items()},
    }
    done = subprocess.run(
        [*command, "--database", "test_demo", "--json", str(report)],
        env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    return done, json.loads(report.read_text()) if report.exists() else {}
