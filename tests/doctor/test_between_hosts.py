"""What only another host sees: names, addresses that mean itself, plain text; and the file that it is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from backtest_kit_mongo.cli.main import app
from backtest_kit_mongo.operate.doctor import Level
from backtest_kit_mongo.operate.doctor.between_hosts import is_here, judge_members, judge_plain, why_unreached
from backtest_kit_mongo.settings import load

AWAY = "198.51.100.7"
"""Of nobody: an address for documentation."""
KNOWN = {"db.example.net": [AWAY], "localhost": ["127.0.0.1", "::1"], AWAY: [AWAY], "127.0.0.1": ["127.0.0.1"]}


def known(name: str) -> list[str]:
    return KNOWN.get(name, [])


@pytest.mark.parametrize(
    ("member", "seed", "direct", "level", "said"),
    [
        ("db.example.net:27017", "db.example.net", False, Level.OK, "knows them all"),
        ("mongo:27017", "db.example.net", False, Level.ERROR, "does not know the name of the member mongo:27017"),
        ("localhost:27017", "db.example.net", False, Level.ERROR, "means this host itself"),
        ("mongo:27017", "db.example.net", True, Level.NOTE, "directConnection goes around"),
        ("localhost:27017", "localhost", False, Level.OK, "knows them all"),
    ],
)
def test_a_member_must_have_a_name_that_this_host_can_use(
    member: str, seed: str, direct: bool, level: Level, said: str
) -> None:
    (found,) = judge_members([member], [seed], is_direct=direct, resolved=known)
    assert found.level is level
    assert said in found.seen
    assert bool(found.advice) is (level is not Level.OK)


def test_plain_text_is_named_only_where_it_leaves_the_machine(tmp_path: Path) -> None:
    def levels(host: str, container: Path) -> list[Level]:
        return [found.level for found in judge_plain("Redis", [host], "", resolved=known, container=container)]

    outside, inside = tmp_path / "none", tmp_path
    assert levels("localhost", outside) == []
    assert levels("db.example.net", outside) == [Level.WARNING]
    assert levels("db.example.net", inside) == [Level.NOTE]
    assert is_here("127.0.0.1")
    assert not is_here(AWAY)


def test_who_does_not_find_mongodb_is_told_which_name_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backtest_kit_mongo.operate.doctor.between_hosts.resolve", known)
    monkeypatch.setattr(
        "backtest_kit_mongo.operate.doctor.between_hosts._asked", lambda _, host, __: ["mongo:27017"] if host else []
    )
    settings = load(mongo_connection_string="mongodb://db.example.net,elsewhere/db?replicaSet=rs0")
    found = [finding.seen for finding in why_unreached(settings)]
    assert found[0] == "this host does not know the name elsewhere of CC_MONGO_CONNECTION_STRING"
    assert "does not know the name of the member mongo:27017" in found[1]


SECRETS = {
    "CC_MONGO_CONNECTION_STRING": "mongodb://strategy:tops3cret@127.0.0.1:27018,localhost/bk?tls=true&tlsCAFile={ca}",
    "CC_REDIS_PASSWORD": "hush'hush",
    "CC_REDIS_TLS": "1",
    "CC_LEASE_MS": "9000",
    "CC_METRICS_PORT": "9100",
}


class TestJoinFile:
    @pytest.fixture(autouse=True)
    def environment(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "ca.pem").write_text("")
        for name, value in SECRETS.items():
            monkeypatch.setenv(name, value.format(ca=tmp_path / "ca.pem"))

    def run(self, *words: str) -> Any:
        return CliRunner().invoke(app, ["join-file", *words])

    def test_the_screen_shows_no_password_and_the_file_has_them_for_its_owner_alone(self, tmp_path: Path) -> None:
        file = tmp_path / "second.env"
        shown = self.run("--address", "db.example.net")
        written = self.run("--address", "db.example.net", "--out", str(file))
        assert (shown.exit_code, written.exit_code) == (0, 0)
        assert "tops3cret" not in shown.output + written.output
        assert "hush" not in shown.output + written.output
        assert file.stat().st_mode & 0o777 == 0o600
        assert f"# Files that must be there, too: {tmp_path / 'ca.pem'}" in shown.stdout
        text = file.read_text("utf-8")
        assert "strategy:tops3cret@db.example.net:27018,db.example.net/bk?tls=true" in text
        assert "CC_LEASE_MS=9000\nCC_CACHE_MODE=document\nCC_PARTITIONS=1\nCC_REDIS_HOST=db.example.net\n" in text
        assert """CC_REDIS_PASSWORD='hush'"'"'hush'""" in text
        assert "CC_REDIS_TLS=1\n" in text
        assert "METRICS" not in text, "that is each host's own"

    def test_nothing_is_written_without_an_address_or_over_a_file(self, tmp_path: Path) -> None:
        file = tmp_path / "second.env"
        assert self.run("--out", str(file)).exit_code == 2
        assert not file.exists()
        file.write_text("mine")
        assert self.run("--address", "db.example.net", "--out", str(file)).exit_code == 2
        assert file.read_text() == "mine"
