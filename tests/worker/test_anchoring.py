"""Anchors that the worker hands over by itself, and who is reported when it cannot."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pymongo
import pytest
from tests.audit.support import Worker, change
from tests.integration.support import settings_for

from backtest_kit_mongo.audit.anchors import TreeAnchor
from backtest_kit_mongo.audit.targets import COLLECTION, AnchorFile, AnchorNotKept
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_mongo.errors import InvalidSetting
from backtest_kit_mongo.feed.troubles import troubles
from backtest_kit_worker import roles
from backtest_kit_worker.deployment import connect
from backtest_kit_worker.services.anchor import AnchorService

pytestmark = pytest.mark.live


def test_each_configured_target_gets_an_anchor_an_interval_and_a_forged_one_is_reported(
    servers: Endpoints, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = connect(settings_for(servers, database))
    Worker(deployment.database).sealed([change(1), change(2)])
    assert roles.build_service("anchor", deployment) is None
    file, other = tmp_path / "anchors", f"{database}_other"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC_ANCHOR_FILE", str(file))
    monkeypatch.setenv("CC_ANCHOR_COMMAND", f"tee {tmp_path / 'teed'}")
    monkeypatch.setenv("CC_ANCHOR_INTERVAL_MS", "1000")
    monkeypatch.setenv("CC_ANCHOR_MONGO_CONNECTION_STRING", servers.mongo_connection_string(database))
    with pytest.raises(InvalidSetting, match="is not another database than the log's"):
        roles.build_service("anchor", deployment)
    monkeypatch.setenv("CC_ANCHOR_MONGO_CONNECTION_STRING", servers.mongo_connection_string(other))
    service: Any = roles.build_service("anchor", deployment)
    service.open()
    assert (service.run_once(), service.run_once()) == (3, 0)
    anchors: Any = deployment.mongo[other][COLLECTION]
    lines = [file.read_text(), (tmp_path / "teed").read_text(), json.dumps(anchors.find_one({}, {"_id": 0}))]
    assert len({TreeAnchor.parse(line).root for line in lines}) == 1
    anchors.update_one({}, {"$set": {"root": "0" * 64}})
    service._due_s.clear()
    assert service.run_once() == 3
    assert [found.name for found in troubles(deployment.database)] == ["anchor-differs"]
    assert len(file.read_text().splitlines()) == anchors.count_documents({}) == 2
    service.close()
    deployment.mongo.drop_database(other)
    deployment.close()


class Broken(AnchorFile):
    def keep(self, anchor: TreeAnchor) -> None:
        raise OSError("no space left")


def test_a_target_without_an_anchor_for_some_intervals_fails_the_service_whatever_was_restarted(
    servers: Endpoints, database: str, tmp_path: Path
) -> None:
    with pymongo.MongoClient[dict[str, Any]](servers.mongo_url, tz_aware=True) as client:

        def served(hours_ago: float) -> int:
            time = (datetime.now(UTC) - timedelta(hours=hours_ago)).isoformat()
            path = tmp_path / "anchors"
            path.write_text(TreeAnchor(time, 0, 0, 0, "0" * 64, "0" * 64).line() + "\n")
            return AnchorService(client[database], [Broken(path)], directory=tmp_path).run_once()

        assert served(hours_ago=2.9) == 0
        with pytest.raises(AnchorNotKept, match=r"no anchor was kept for 3 intervals: .*anchors"):
            served(hours_ago=3.1)
