"""Anchors outside the database, on a real server, and proofs checked by the script that others are given."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database
from tests.audit.support import START, Worker, change, gap
from tests.audit.test_audit_command import bkm, environment
from tests.audit.test_audit_merkle import SCRIPT

from backtest_kit_mongo.audit.chain import seal_hash
from backtest_kit_mongo.exits import ExitCode

pytestmark = pytest.mark.live
__all__ = ["environment"]

KEY = "state/signal/bucket"
Documents = Database[dict[str, Any]]


def check(*files: Path) -> tuple[int, str]:
    """What the script says, run with the standard library alone."""
    done = subprocess.run([sys.executable, "-ISO", str(SCRIPT), *map(str, files)], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def kept(environment: None, worker: Worker, tmp_path: Path) -> Path:
    """The anchors of a log with one, two and three seals."""
    for rev in (1, 2, 3):
        worker.sealed([change(rev), change(rev, document="d2", key=("signal", "other"))])
        assert bkm("anchor", "--to", str(tmp_path / "anchors")).exit_code == 0
    return tmp_path / "anchors"


def test_a_record_and_the_growth_are_proved_offline(kept: Path, tmp_path: Path) -> None:
    assert [json.loads(line)["records"] for line in kept.read_text().splitlines()] == [2, 4, 6]
    assert bkm("verify", "--anchors", str(kept)).exit_code == 0
    proof, record, growth = tmp_path / "proof", tmp_path / "record", tmp_path / "growth"
    proof.write_text(bkm("prove", KEY, "2", "--anchor", "3", "--record", str(record)).stdout)
    assert proof.stat().st_size < 1_000
    code, said = check(kept, proof, record)
    assert (code, said.startswith("proved: state/d1/2 was in the log at ")) == (0, True), said
    record.write_bytes(record.read_bytes().replace(b"bucket", b"backet"))
    assert check(kept, proof, record) == (4, "NOT PROVED: ValueError('the record is another one')\n")
    proof.write_text(proof.read_text().replace("state/d1/2", "state/d1/3"))
    assert check(kept, proof)[0] == 4
    growth.write_text(bkm("consistency", "1", "3").stdout)
    assert check(kept, growth) == (0, "proved: anchor 3 holds all that anchor 1 held, unchanged\n")
    assert bkm("prove", KEY, "3", "--anchor", "2").exit_code == 1


def test_each_anchor_that_does_not_fit_a_rewritten_log_is_reported_and_a_new_one_is_kept(
    kept: Path, database: Documents
) -> None:
    for name in ("audit-items", "audit-seals", "audit-heads"):
        database[name].delete_many({})
    forger = Worker(database)
    forger.sealed([change(1, {"data": "forged"})])
    forger.sealed([change(2)])
    assert bkm("verify").exit_code == 0
    found = bkm("verify", "--anchors", str(kept))
    assert (found.exit_code, found.stdout.count("anchor differs: ")) == (ExitCode.DIFFERS, 3)
    assert "it saw seal 3; the last one now is 2: what came after is gone" in found.stdout
    restore = {
        "domain": "restore",
        "documentId": "an era",
        "operation": "restore",
        "reason": "the database was set back",
    }
    forger.writer.write([{**gap(1), **restore, "_id": "restore/an era/1", "key": [], "writtenAt": START}])
    again = bkm("anchor", "--to", str(kept))
    assert (again.exit_code, again.stderr.count("anchor differs: ")) == (ExitCode.DIFFERS, 3)
    assert again.stderr.count("The log has a record `restore` of 2024-01-01 00:00:00 UTC: ") == 3
    after = bkm("verify", "--anchors", str(kept))
    assert after.stdout.count("anchor differs: ") == 3, "the last anchor saw the forged log and fits it"


def test_an_anchor_holds_on_to_the_log_as_this_host_read_it_first(kept: Path, database: Documents) -> None:
    seals = database["audit-seals"]
    two = {**(seals.find_one({"_id": 2}) or {}), "total": 9}
    seals.replace_one({"_id": 2}, {**two, "hash": seal_hash(two)})
    again = bkm("anchor", "--to", str(kept))
    assert again.exit_code == 0
    before, after = [json.loads(line)["root"] for line in kept.read_text().splitlines()[-2:]]
    assert before == after, "the seal of before, not the one that lies there now"
    assert "anchor differs: " in bkm("verify", "--anchors", str(kept)).stdout
    refused = bkm("prove", KEY, "2", "--anchor", "3")
    assert (refused.exit_code, "seal 2 is not what it was" in refused.stderr) == (1, True)
    seals.delete_one({"_id": 3})
    gone = bkm("anchor")
    assert gone.exit_code == ExitCode.DIFFERS
    assert "seal 3: when this host read it, its hash was" in gone.stderr
    assert json.loads(bkm("anchor").stdout)["seal"] == 2, "reported once; then everything was read again"


def test_an_anchor_is_signed_and_handed_to_a_command_or_the_failure_is_reported(kept: Path, tmp_path: Path) -> None:
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    key, public, target = ed25519.Ed25519PrivateKey.generate(), tmp_path / "public", tmp_path / "signed"
    private = tmp_path / "private"
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    kind = serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, kind))
    assert bkm("anchor", "--sign", str(private), "--command", f"tee {target}").exit_code == 0
    assert bkm("verify", "--anchors", str(target), "--public-key", str(public)).exit_code == 0
    target.write_text(target.read_text().replace('"time":"2', '"time":"1'))
    changed = bkm("verify", "--anchors", str(target), "--public-key", str(public))
    assert (changed.exit_code, "its signature is not of this key" in changed.stdout) == (ExitCode.DIFFERS, True)
    assert "it is not signed" in bkm("verify", "--anchors", str(kept), "--public-key", str(public)).stdout
    refused = bkm("anchor", "--command", "false")
    assert (refused.exit_code, "may not have been kept" in refused.stderr) == (1, True)
    target.write_text("{}\n")
    wrong = bkm("verify", "--anchors", str(target))
    assert (wrong.exit_code, "line 1 is not an anchor: its field time" in wrong.stderr) == (2, True)
