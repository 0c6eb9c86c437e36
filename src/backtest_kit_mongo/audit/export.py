"""The audit log as files for other programs.

Payloads are MongoDB's Extended JSON (relaxed), because JSON has no infinity, no dates and no bytes, and payloads have:
`{"$numberDouble": "Infinity"}`, `{"$date": ...}`, `{"$binary": ...}`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from bson import json_util

from backtest_kit_mongo.audit.keytext import format_key
from backtest_kit_mongo.audit.records import AuditRecord
from backtest_kit_mongo.coherence.causes import as_fields
from backtest_kit_mongo.errors import EnvironmentFault

ROWS_MAX = 10_000
"""Records held at once while a Parquet file is written: one row group."""


class ParquetMissing(EnvironmentFault, ImportError):
    """Parquet needs pyarrow, which is not installed. Nothing was written."""


def row(record: AuditRecord) -> dict[str, Any]:
    """A record as one flat row. `key` is the text that `parse_key` reads; None where the record does not know its
    key.
    """
    return {
        "id": record.id,
        "domain": record.domain,
        "key": format_key(record.domain, record.key) if record.key else None,
        "document_id": record.document_id,
        "rev": record.rev,
        "foreign": record.foreign,
        "operation": record.operation,
        "when": record.when,
        "written_at": record.written_at,
        "recorded_at": record.recorded_at,
        "host": record.host,
        "process": record.process,
        "entry": record.entry,
        "reason": record.reason or None,
        "step": record.step or None,
        "signal": record.signal or None,
        "cause": None if record.cause is None else json.dumps(as_fields(record.cause), ensure_ascii=False),
        "payload": record.payload,
    }


def to_json(record: AuditRecord) -> str:
    """One line of JSON, dates in ISO 8601."""
    fields = row(record)
    payload = fields.pop("payload")
    head = json.dumps(fields, default=_iso, ensure_ascii=False)
    return f'{head[:-1]}, "payload": {_payload(payload)}}}'


def _payload(payload: Any) -> str:
    text: str = json_util.dumps(payload, json_options=json_util.RELAXED_JSON_OPTIONS, ensure_ascii=False)
    return text


def _iso(value: Any) -> str:
    assert isinstance(value, datetime)
    return value.isoformat()


def export_jsonl(records: Iterable[AuditRecord], out: TextIO) -> int:
    """Write one JSON object per line; returns how many."""
    count = 0
    for count, record in enumerate(records, 1):  # noqa: B007 - the count is the answer
        out.write(to_json(record) + "\n")
    return count


def export_parquet(records: Iterable[AuditRecord], path: Path) -> int:
    """Write a Parquet file with a column a field, the payload as JSON text; returns how many records.

    Raises:
        ParquetMissing: pyarrow is not installed; nothing was written.
    """
    try:
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as cause:
        raise ParquetMissing(
            "Parquet needs pyarrow, nothing was written: pip install 'backtest-kit-mongo[parquet]'. Or use --format "
            "jsonl."
        ) from cause
    schema = _schema(arrow)
    count = 0
    with parquet.ParquetWriter(str(path), schema, compression="zstd") as writer:
        for rows in _batches(records):
            writer.write_table(arrow.Table.from_pylist(rows, schema=schema))
            count += len(rows)
    return count


def _schema(arrow: Any) -> Any:
    text, number, moment = arrow.string(), arrow.int64(), arrow.timestamp("ms", tz="UTC")
    return arrow.schema(
        [
            ("id", text), ("domain", text), ("key", text), ("document_id", text), ("rev", number), ("foreign", number),
            ("operation", text), ("when", number), ("written_at", moment), ("recorded_at", moment), ("host", text),
            ("process", number), ("entry", text), ("reason", text), ("step", text), ("signal", text), ("cause", text),
            ("payload", text),
        ]
    )  # fmt: skip


def _batches(records: Iterable[AuditRecord]) -> Iterator[list[dict[str, Any]]]:
    source = iter(records)
    while batch := [{**row(record), "payload": _payload(record.payload)} for record in islice(source, ROWS_MAX)]:
        yield batch
