"""What is old leaves the database for a directory, and the rest verifies as before."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database
from tests.audit.support import Worker, change
from tests.audit.test_audit_command import bkm, environment

from backtest_kit_mongo.audit.records import raw, sealed_digest
from backtest_kit_mongo.operate.backup.archive import open_backup

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("environment")]
__all__ = ["environment"]


def soon() -> int:
    """Later than all seals of now, by whatever clock."""
    return time.time_ns() // 1_000_000 + 3_600_000


def said(*arguments: object, status: int = 0) -> str:
    done = bkm(*map(str, arguments))
    assert done.exit_code == status, done.output
    return done.output


def test_a_segment_that_was_dropped_leaves_a_log_that_verifies_with_its_anchors_and_proves_what_was_there(
    worker: Worker, database: Database[dict[str, Any]], tmp_path: Path
) -> None:
    anchors, old = tmp_path / "anchors.jsonl", tmp_path / "old"
    worker.sealed([change(1), change(2), change(3), change(1, document="d2")])
    said("anchor", "--to", anchors)
    assert "4 records of 1 seals" in said("segment", old, "--until", soon())
    worker.sealed([change(4)])
    assert "add --yes" in said("drop", old)
    kept = {one["_id"]: one for one in database["audit-items"].find()}

    assert "3 payloads dropped" in said("drop", old, "--yes", "--why", "a year is enough")
    assert "0 payloads dropped" in said("drop", old, "--yes")

    assert "clean: 5 records in 2 seals" in said("verify", "--anchors", anchors)
    now = {one["_id"]: one for one in database["audit-items"].find()}
    newest = ("state/d1/4", "state/d2/1")
    assert {name for name, one in now.items() if one["payload"] is not None} == {*newest}
    assert all(now[name] == kept[name] for name in newest)
    assert "a year is enough" in now["state/d1/1"]["erased"]["why"]
    segment = open_backup(old)
    part = segment.manifest.part("audit-items")
    assert part is not None
    digests = {str(one["_id"]): sealed_digest(one) for one in segment.documents(part)}
    stored = raw(database, "audit-items").find({"_id": {"$in": [*digests]}})
    assert {str(one["_id"]): sealed_digest(one) for one in stored} == digests


def test_nothing_is_dropped_that_is_not_in_the_segment_as_it_was_sealed(
    worker: Worker, database: Database[dict[str, Any]], tmp_path: Path
) -> None:
    assert "no seal" in said("segment", tmp_path / "none", "--until", soon(), status=1)
    worker.sealed([change(1), change(2)])
    said("segment", tmp_path / "good", "--until", soon())
    held = tmp_path / "good" / "audit-items.bson.gz"
    content = held.read_bytes()
    held.write_bytes(content[:-1] + b"\1")
    assert "SHA-256" in said("drop", tmp_path / "good", "--yes", status=1)
    held.write_bytes(content)
    database["audit-items"].update_one({"rev": 1}, {"$set": {"payload": {"data": "forged"}}})
    assert "another record" in said("drop", tmp_path / "good", "--yes", status=1)
    assert "not what seal 1 sealed" in said("segment", tmp_path / "forged", "--until", soon(), status=1)
    assert database["audit-items"].count_documents({"payload": None}) == 0
