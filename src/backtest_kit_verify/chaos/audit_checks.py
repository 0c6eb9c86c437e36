"""What a run with workers must end with: a record for every revision, a log that verifies, and replicas like their
source.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from pymongo.database import Database

from backtest_kit_mongo.audit import verify
from backtest_kit_mongo.backends.mongo.layout import collection_of, payload_field
from backtest_kit_mongo.coherence.record import Domain, Shape
from backtest_kit_mongo.domains.table import DOMAINS
from backtest_kit_mongo.stored import AUDIT_ITEMS, AUDIT_PENDING, AUDIT_SEALS, PARKED_ITEMS, REPLICA_STATE
from backtest_kit_verify.chaos.checks import Violation
from backtest_kit_verify.chaos.workload import mark_of

__all__ = ["AuditState", "AuditVerdict", "check_audit"]

Document = dict[str, Any]
SHOWN_MAX = 20


@dataclass(frozen=True, slots=True)
class AuditVerdict:
    """What the audit log holds.

    Attributes:
        revisions: that documents have, which is how many records there must be.
        records: of revisions. gaps: those among them whose payload is lost.
        seals: of the verified log. parked: entries that nobody could apply.
    """

    revisions: int
    records: int
    gaps: int
    seals: int
    parked: int
    violations: tuple[Violation, ...] = ()


class _Audited(NamedTuple):
    records: int
    lowest: int
    highest: int


class AuditState:
    """Whether the workers have caught up with MongoDB.

    Args:
        waiting: asks Redis how many entries each consumer group still has to do.
    """

    def __init__(self, database: Database[Document], waiting: Callable[[], Mapping[str, int]]) -> None:
        self.database = database
        self._waiting = waiting

    def left(self) -> str:
        """What is left to do, for people; empty when nothing is."""
        revisions = sum(rev for _, rev in _documents(self.database))
        recorded = sum(found.records for found in _audited(self.database).values())
        if recorded < revisions:
            return f"{revisions - recorded:,} revisions without a record"
        waiting = {name: count for name, count in self._waiting().items() if count}
        if waiting:
            return ", ".join(f"{name} has {count:,} to do" for name, count in waiting.items())
        copies = list(self.database[REPLICA_STATE].find({"_id": {"$regex": "^copy/"}}))
        done = min((sum(part["done"] for part in copy.get("domains", {}).values()) for copy in copies), default=0)
        if done < len(DOMAINS):
            return f"{len(DOMAINS) - done} domains to copy"
        # A batch whose worker died before it confirmed it is sealed after a minute's grace; `verify` covers it as it
        # is.
        unsealed = self.database[AUDIT_PENDING].count_documents({"confirmed": True})
        return f"{unsealed:,} batches to seal" if unsealed else ""


def check_audit(database: Database[Document], differing_replicas: str) -> AuditVerdict:
    """Look at everything once more. Precondition: nobody works any more."""
    violations: list[Violation] = []
    audited = _audited(database)
    revisions = 0
    for (domain, document), rev in _documents(database):
        revisions += rev
        found = audited.pop((domain.name, str(document["_id"])), _Audited(0, 0, 0))
        name = f"{domain.name}/{document['_id']}"
        if found != _Audited(rev, 1, rev):
            violations.append(
                Violation(
                    "a revision without exactly one record", name, f"{rev} revisions are stored; records: {found}"
                )
            )
        elif not _is_reported(database, domain, document, rev):
            text = f"the record of revision {rev} is not what is stored"
            violations.append(Violation("a record of another value", name, text))
    for (domain_name, identity), found in audited.items():
        name = f"{domain_name}/{identity}"
        violations.append(Violation("a record of nothing", name, f"no document is stored; records: {found}"))
    report = verify(database, findings_max=SHOWN_MAX)
    violations += [Violation("the log does not verify", "", str(finding)) for finding in report.findings]
    if differing_replicas:
        violations.append(Violation("a replica differs", "", differing_replicas))
    items = database[AUDIT_ITEMS]
    return AuditVerdict(
        revisions,
        items.count_documents({"operation": {"$in": ["upsert", "remove", "gap"]}}),
        items.count_documents({"operation": "gap"}),
        database[AUDIT_SEALS].estimated_document_count(),
        database[PARKED_ITEMS].estimated_document_count(),
        tuple(violations),
    )


def _documents(database: Database[Document]) -> Iterator[tuple[tuple[Domain, Document], int]]:
    for domain in DOMAINS:
        if domain.shape is not Shape.SERIES:
            for document in database[collection_of(domain)].find():
                yield (domain, document), int(document.get("rev") or 0)


def _audited(database: Database[Document]) -> dict[tuple[str, str], _Audited]:
    of_document = {"domain": "$domain", "document": "$documentId"}
    pipeline: list[Document] = [
        {"$match": {"operation": {"$in": ["upsert", "remove", "gap"]}}},
        {"$group": {"_id": of_document, "n": {"$sum": 1}, "low": {"$min": "$rev"}, "high": {"$max": "$rev"}}},
    ]
    return {
        (found["_id"]["domain"], found["_id"]["document"]): _Audited(found["n"], int(found["low"]), int(found["high"]))
        for found in database[AUDIT_ITEMS].aggregate(pipeline, allowDiskUse=True)
    }


def _is_reported(database: Database[Document], domain: Domain, document: Document, rev: int) -> bool:
    """Whether the newest record carries the mark of what is stored. A gap has no payload to compare."""
    record = database[AUDIT_ITEMS].find_one({"_id": f"{domain.name}/{document['_id']}/{rev}"})
    if record is None or record["operation"] == "gap":
        return record is not None
    return mark_of(domain, record["payload"]) == mark_of(domain, document[payload_field(domain)])
