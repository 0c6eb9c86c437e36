"""The audit log: one immutable record a (document, revision), chained and sealed, and the questions that it answers.

with open_log() as log:
    for record in log.timeline("state/signal-1/bucket"):
        print(record.rev, record.payload)
    log.asof("state/signal-1/bucket", when=1_704_067_200_000).payload

The worker writes it; here it is only read. Theory of operation: `chain.py`. What tampering is and is not detected:
`verify.py`.
"""

from backtest_kit_mongo.audit.differences import Difference, differences
from backtest_kit_mongo.audit.export import export_jsonl, export_parquet
from backtest_kit_mongo.audit.findings import Anchor, Finding, Kind, Report
from backtest_kit_mongo.audit.gaps import Gap, gaps
from backtest_kit_mongo.audit.keytext import format_key, parse_key
from backtest_kit_mongo.audit.log import AuditLog, Snapshot, open_log
from backtest_kit_mongo.audit.records import AuditRecord
from backtest_kit_mongo.audit.verify import verify

__all__ = [
    "Anchor",
    "AuditLog",
    "AuditRecord",
    "Difference",
    "Finding",
    "Gap",
    "Kind",
    "Report",
    "Snapshot",
    "differences",
    "export_jsonl",
    "export_parquet",
    "format_key",
    "gaps",
    "open_log",
    "parse_key",
    "verify",
]
