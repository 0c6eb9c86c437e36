"""Settings: one object, a readable precedence, unknown names refused, secrets hidden."""

from __future__ import annotations

import itertools

import pytest
from pydantic_settings import BaseSettings

from backtest_kit_mongo.errors import InvalidSetting
from backtest_kit_mongo.feed.settings import FeedSettings
from backtest_kit_mongo.settings import ELSEWHERE, Settings, load
from backtest_kit_worker.replicas.settings import ReplicaSettings
from backtest_kit_worker.roles.invalidation import InvalidationSettings
from backtest_kit_worker.services.anchor import AnchorSettings

SECRET = "hunter2-very-secret"


def test_arguments_win_over_the_environment_which_wins_over_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load().redis_port == 6379
    monkeypatch.setenv("CC_REDIS_PORT", "1111")
    assert load().redis_port == 1111
    assert load(redis_port=2222).redis_port == 2222
    assert load(CC_REDIS_PORT=3333).redis_port == 3333


def test_an_empty_argument_blanks_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC_REDIS_USER", "someone")
    assert load(redis_user="").redis_user == ""


def test_a_mistyped_variable_is_named_with_the_nearest_known_and_the_engines_own_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for mistyped in ("CC_REDIS_PROT", "CC_REPLIKA_DIRECTORY", "cc_cache_mod", "CC_MAX_SIGNALS"):
        monkeypatch.setenv(mistyped, "0")
    for _ in range(2):
        load()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 3
    for name, near in (("PROT", "REDIS_PORT"), ("REPLIKA", "REPLICA_DIRECTORY"), ("cc_cache_mod", "CACHE_MODE")):
        assert [line for line in said if name in line and f"did you mean CC_{near}?" in line]


def test_every_variable_of_every_settings_class_is_known() -> None:
    for other in (FeedSettings, ReplicaSettings, InvalidationSettings, AnchorSettings):
        prefix = other.model_config["env_prefix"]
        assert {f"{prefix}{name.upper()}" for name in other.model_fields} <= ELSEWHERE
    assert len(BaseSettings.__subclasses__()) == 5


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"redis_prot": 1}, "did you mean redis_port"),
        ({"nonsense_of_all_kinds": 1}, "known: cache_mode"),
        ({"redis_port": 0}, "CC_REDIS_PORT"),
        ({"cache_mode": "all"}, "CC_CACHE_MODE"),
        ({"mongo_connection_string": "http://x"}, "not a MongoDB connection string"),
        ({"lease_ms": 1_000, "mongo_timeout_ms": 1_000}, "must be less than lease_ms"),
        ({"redis_cluster": "one:6379,two"}, "CC_REDIS_CLUSTER: .*host:port"),
        ({"redis_cluster": "one:6379", "redis_sentinel": "two:26379"}, "exclude each other"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(arguments: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidSetting, match=says):
        load(**arguments)


def test_a_cluster_is_some_of_its_nodes() -> None:
    settings = load(redis_cluster="one:6379, [::1]:6380")
    assert settings.redis_cluster == (("one", 6379), ("::1", 6380))
    assert settings.redis_address == "the cluster of one:6379,::1:6380"


def test_no_secret_shows_in_a_repr_or_an_error() -> None:
    settings = load(mongo_connection_string=f"mongodb://user:{SECRET}@localhost/db", redis_password=SECRET)
    for text in (repr(settings), str(settings), settings.model_dump_json(), settings.mongo_address):
        assert SECRET not in text
    broken_strings = (
        f"mongodb://user:{SECRET}@",
        f"mongodb://us:er:{SECRET}@host:x/db",
        f"mongodb://u:12/{SECRET}@h/db",
    )
    for broken in (*broken_strings, f"mongodb://u:a/{SECRET}@h:27017/db"):
        with pytest.raises(InvalidSetting) as caught:
            load(mongo_connection_string=broken)
        for error in itertools.takewhile(lambda e: e is not None, (caught.value, caught.value.__cause__)):
            assert SECRET not in str(error)


def test_the_database_is_the_path_of_the_connection_string() -> None:
    assert load(mongo_connection_string="mongodb://h/trading?w=1").database == "trading"
    assert load(mongo_connection_string="mongodb://h").database == "backtest-kit"


def test_mongodb_is_always_bounded_below_the_lease() -> None:
    assert load(lease_ms=3_000).mongo_bound_ms == 2_000
    assert load().mongo_bound_ms < load().lease_ms


def test_wtimeout_bounds_a_write_as_it_says_or_is_refused() -> None:
    def bound_ms(wtimeout_ms: int) -> int:
        return load(mongo_connection_string=f"mongodb://h/x?wtimeoutMS={wtimeout_ms}").mongo_bound_ms

    assert [bound_ms(700), bound_ms(0), bound_ms(60_000)] == [700, 10_000, 10_000]
    with pytest.raises(InvalidSetting, match="wtimeoutMS=5: no write can be kept below 20 ms"):
        bound_ms(5)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().redis_port = 1


def test_every_setting_is_described() -> None:
    assert all(field.description for field in Settings.model_fields.values())
