"""What an outsider is handed: a record with the proof that it was in the log at the time of an anchor, and the proof
that between two anchors the log only grew. `docs/check_proof.py` checks both without a database.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from backtest_kit_console.sources import Look, Sources
from backtest_kit_mongo.audit.anchors import TreeAnchor
from backtest_kit_mongo.audit.export import to_json
from backtest_kit_mongo.audit.keytext import format_key
from backtest_kit_mongo.audit.proofs import prove_consistency, prove_inclusion
from backtest_kit_mongo.audit.records import AuditRecord, from_document, readable
from backtest_kit_mongo.domains.table import BY_NAME
from backtest_kit_mongo.errors import EnvironmentFault, NotFound
from backtest_kit_mongo.stored import AUDIT_ITEMS

from .anchored import anchored
from .asking import Answer, Asked, Download

__all__ = ["download", "growth", "show"]

FRESH_S: Final = 600.0
DOWNLOAD_S: Final = 60.0
"""So long a download waits for the seals to be read, which happens once on a host."""
STILL: Final = "The seals are still being read; ask again in a minute."
CHECK: Final = "python check_proof.py anchors.jsonl record.proof record.bson"
READ_ME: Final = """\
{record}
was in the audit log at the time of the anchor with seal {seal}. To check it without a database:

    {check}

check_proof.py    docs/check_proof.py of backtest-kit-mongo: under 100 lines of Python, to be read first
anchors.jsonl     the anchors that you got before there was a question; one of them has "seal":{seal}
record.proof      the proof
record.bson       the record, the bytes that were sealed; record.json shows what they say
{anchor}"""
HAD: Final = """\
anchor.jsonl      that anchor as whoever gave you this has it. It proves something only if you have the same line
                  from before.
"""


class Proof(NamedTuple):
    """A proof and the record's bytes."""

    proof: Mapping[str, Any]
    stored: bytes


def show(asked: Asked) -> Answer:
    record = _record(asked)
    known = _known(asked)
    # Without a choice the newest: whoever got any later one can have the growth proved as well.
    number = asked.whole("anchor", known[0].seal if known else 0, 10**15)
    found = None if number == 0 else _proof(asked.sources, record.id, number)
    has_key = bool(record.key) and record.domain in BY_NAME
    values = {
        "record": record,
        "key": format_key(record.domain, record.key) if has_key else "",
        "known": known,
        "number": number,
        "anchor": _anchor(known, number),
        "found": found,
        "check": CHECK,
        "size": 0 if found is None or found.value is None else len(_text(found.value.proof)),
    }
    return Answer("proof.html", values)


def download(asked: Asked) -> Download:
    record, number = _record(asked), asked.whole("anchor", 0, 10**15)
    found = _proof(asked.sources, record.id, number, DOWNLOAD_S)
    if found.value is None:
        raise EnvironmentFault(found.trouble or STILL)
    anchor = _anchor(_known(asked), number)
    said = READ_ME.format(record=record.id, seal=number, check=CHECK, anchor=HAD if anchor is not None else "")
    parts: dict[str, str | bytes] = {
        "README.txt": said,
        "record.proof": _text(found.value.proof),
        "record.bson": found.value.stored,
        "record.json": f"{to_json(record)}\n",
        **({} if anchor is None else {"anchor.jsonl": f"{anchor.line()}\n"}),
    }
    name = re.sub(r"[^\w.-]+", "-", record.id, flags=re.ASCII)[:80]
    return Download(f"proof-{name}-anchor-{number}.zip", _zipped(parts), "application/zip")


def growth(asked: Asked) -> Download:
    older, newer = (asked.whole(name, 0, 10**15) for name in ("older", "newer"))
    found = asked.sources.look(
        f"growth {older} {newer}", lambda: prove_consistency(asked.sources.database, older, newer), FRESH_S, DOWNLOAD_S
    )
    if found.value is None:
        raise EnvironmentFault(found.trouble or STILL)
    return Download(f"growth-{older}-{newer}.proof", _text(found.value).encode(), "application/json")


def _record(asked: Asked) -> AuditRecord:
    name = asked.exact("record")
    stored = readable(asked.sources.database, AUDIT_ITEMS).find_one({"_id": name})
    if stored is None:
        raise NotFound(f"The audit log has no record {name!r:.200}. The page of a key links to the proof of each.")
    return from_document(stored)


def _known(asked: Asked) -> Sequence[TreeAnchor]:
    """The anchors that the console was given, the newest first."""
    found = anchored(asked.sources)
    return found.value.newest if found is not None and found.value is not None else ()


def _anchor(known: Sequence[TreeAnchor], number: int) -> TreeAnchor | None:
    return next((one for one in known if one.seal == number), None)


def _proof(sources: Sources, record: str, number: int, wait_s: float = 0.15) -> Look[Proof]:
    def make() -> Proof:
        return Proof(*prove_inclusion(sources.log, record, number))

    return sources.look(f"proof {number} {record}", make, FRESH_S, wait_s)


def _text(proof: Mapping[str, Any]) -> str:
    return json.dumps(proof, separators=(",", ":"), ensure_ascii=False) + "\n"


def _zipped(parts: Mapping[str, str | bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in parts.items():
            file.writestr(zipfile.ZipInfo(name), content)
    return made.getvalue()
