"""What a connection string says is known without DNS; DNS trouble is a server that cannot be reached, not a wrong
setting.
"""

from __future__ import annotations

from typing import Any

import dns.resolver
import pytest

import backtest_kit_mongo as bk
from backtest_kit_mongo import servers
from backtest_kit_mongo.settings import load

SRV = "mongodb+srv://bot:hunter2@c0.bots.test/trades?tls=false&srvMaxHosts=0&replicaSet=rs0"


class Dns:
    """Away; counts who asks."""

    def __init__(self) -> None:
        self.asked = 0

    def resolve(self, *query: Any, **options: Any) -> Any:
        self.asked += 1
        raise dns.resolver.LifetimeTimeout(timeout=20.0, errors=[])  # type: ignore[no-untyped-call]


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> Dns:
    made = Dns()
    monkeypatch.setattr("dns.resolver.resolve", made.resolve)
    return made


def test_settings_ask_no_dns(away: Dns) -> None:
    settings = load(mongo_connection_string=SRV)
    assert (settings.database, settings.mongo_address) == ("trades", "c0.bots.test")
    assert away.asked == 0


def test_a_name_that_cannot_be_resolved_is_an_unreachable_server(away: Dns) -> None:
    with pytest.raises(bk.ServerUnreachable, match=r"the name c0\.bots\.test could not be resolved") as caught:
        bk.setup(mongo_connection_string=SRV, redis_port=1)
    assert "hunter2" not in str(caught.value)
    assert away.asked == 1
    with pytest.raises(bk.ServerUnreachable, match="a name could not be resolved"):
        bk.setup(mongo_connection_string="mongodb://nobody.invalid/x", redis_port=1, mongo_timeout_ms=500)
    bk.shutdown()


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("mongodb://bot:hunter2@host/x?maxPoolSize=abc", "its option maxPoolSize is unknown or has a value"),
        ("mongodb://bot:hunter2@host/x?nosuch=1", "its option nosuch is unknown"),
        (
            "mongodb://bot:hunter2@host/x?tlsInsecure=true&tlsAllowInvalidCertificates=true",
            "options conflict with each other: tls",
        ),
        ("mongodb://bot:hun@ter2@host/x", "percent-encoded"),
        ("mongodb+srv://bot:hunter2@c0.bots.test:27017/x", "no port"),
    ],
)
def test_each_cause_of_a_wrong_connection_string_has_its_own_words_and_no_secret(uri: str, said: str) -> None:
    with pytest.raises(bk.InvalidSetting, match=said) as caught:
        load(mongo_connection_string=uri)
    assert "ter2" not in str(caught.value)


def test_both_servers_are_closed_once_even_if_one_of_them_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []

    class Client:
        def __init__(self, name: str) -> None:
            self.name = name

        def close(self) -> None:
            closed.append(self.name)
            if self.name == "redis":
                raise OSError(self.name)

    monkeypatch.setattr(servers, "mongo_client", lambda *_, **__: Client("mongo"))
    monkeypatch.setattr(servers, "redis_client", lambda _: Client("redis"))
    with pytest.raises(OSError, match="redis"), servers.Servers(load()) as opened:
        assert (opened.mongo, opened.redis) == (opened.mongo, opened.redis)
    opened.close()
    assert sorted(closed) == ["mongo", "redis"]
