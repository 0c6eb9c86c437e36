"""What a run with workers must end with: a record for every revision, that tells what was written; what strangers wrote
recorded or set aside; a log that verifies, replicas like their source, and nothing that stands still.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import bson
from bson import ObjectId
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.raw_bson import RawBSONDocument
from pymongo.database import Database

from backtest_kit_mongo.audit import verify
from backtest_kit_mongo.backends.mongo.layout import collection_of, payload_field
from backtest_kit_mongo.coherence.record import Domain, Key, Shape
from backtest_kit_mongo.domains.table import DOMAINS
from backtest_kit_mongo.feed.dead_letters import LOG
from backtest_kit_mongo.feed.troubles import FOREIGN_WRITES, MISMATCHED, ODD_IDS, ODD_REVISION, troubles
from backtest_kit_mongo.stored import AUDIT_ITEMS, AUDIT_PENDING, AUDIT_SEALS, CACHE_IDENTITY, REPLICA_STATE
from backtest_kit_mongo.stored import PARKED_ITEMS as PARKED
from backtest_kit_verify.chaos.checks import Story, Violation
from backtest_kit_verify.chaos.history import Revision
from backtest_kit_verify.chaos.strangers import FORGED, NUMBER, Forged
from backtest_kit_verify.chaos.workload import mark_of

__all__ = ["AuditState", "AuditVerdict", "Traces", "check_audit", "check_records", "differing_copies"]

Document = dict[str, Any]
SHOWN_MAX = 20
OLD_MIN = 1
REVISIONS = ("upsert", "remove", "gap")
SEEN = frozenset({MISMATCHED, ODD_IDS, ODD_REVISION, FOREIGN_WRITES})
"""Notes that tell what strangers did: they have to be there."""
ANYTHING: CodecOptions[Document] = CodecOptions(
    tz_aware=True, datetime_conversion=DatetimeConversion.DATETIME_AUTO, unicode_decode_error_handler="surrogateescape"
)


@dataclass(frozen=True, slots=True)
class Traces:
    """What a run left behind on purpose.

    Attributes:
        forged: revisions that events informed of which no writer published.
        entries: numbers of odd entries that nothing took away.
        restore_count: how often MongoDB was set back.
        restored_at: when it was for the last time, if somebody has to have noticed: Redis remembered what was before.
    """

    forged: frozenset[Forged] = frozenset()
    entries: Sequence[int] = ()
    restore_count: int = 0
    restored_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class AuditVerdict:
    """What the audit log holds.

    Attributes:
        revisions: that the clients' documents have, which is how many records there must be.
        records: of those revisions. gaps: those among them whose payload is lost.
        beyond: of revisions that a forged event, or one of before a restore, informed of.
        corrections: records that put another one right.
        restores: records that report one.
        strangers: documents of others, each recorded or parked.
        seals: of the verified log. parked: entries that nobody could apply.
        reported: the mark that the log has for each revision of a document.
    """

    revisions: int
    records: int
    gaps: int
    beyond: int
    corrections: int
    restores: int
    strangers: int
    seals: int
    parked: int
    violations: tuple[Violation, ...] = ()
    reported: Mapping[Revision, str | None] = field(default_factory=dict, repr=False)


class _Stored(NamedTuple):
    key: Key
    name: str
    rev: int
    mark: str | None


class AuditState:
    """Whether the workers have caught up with MongoDB.

    Args:
        keys: the clients' documents.
        waiting: asks Redis how many entries each consumer group still has to do.
    """

    def __init__(
        self, database: Database[Document], keys: Sequence[Key], waiting: Callable[[], Mapping[str, int]]
    ) -> None:
        self.database = database
        self._keys = keys
        self._waiting = waiting

    def left(self) -> str:
        """What is left to do, for people; empty when nothing is."""
        missing = sum(len(_missing(self.database, stored)) for stored in _documents(self.database, self._keys))
        if missing:
            return f"{missing:,} revisions without a record"
        waiting = {name: count for name, count in self._waiting().items() if count}
        if waiting:
            return ", ".join(f"{name} has {count:,} to do" for name, count in waiting.items())
        if unseen := _unseen(self.database, self._keys).missing:
            return f"{len(unseen)} documents of strangers to record, the first is {unseen[0]:.80}"
        copies = list(self.database[REPLICA_STATE].find({"_id": {"$regex": "^copy/"}}))
        done = min((sum(part["done"] for part in copy.get("domains", {}).values()) for copy in copies), default=0)
        if done < len(DOMAINS):
            return f"{len(DOMAINS) - done} domains to copy"
        restores = _noticed(self.database)
        if any(not one.get("recorded") for one in restores):
            return "a restore to record"
        follows = self.database[REPLICA_STATE].find_one({"_id": {"$regex": "^restored/"}}) or {}
        if (
            restores
            and copies
            and (follows.get("over"), follows.get("domains")) != (restores[-1]["over"], len(DOMAINS))
        ):
            return "replicas to follow a restore"
        # A batch whose worker died before it confirmed it is sealed after a minute's grace; `verify` covers it as it
        # is. One that came back with a restore is old already.
        old = ObjectId.from_datetime(datetime.now(UTC) - timedelta(minutes=OLD_MIN))
        query = {"$or": [{"confirmed": True}, {"_id": {"$lt": old}}]}
        unsealed = self.database[AUDIT_PENDING].count_documents(query)
        return f"{unsealed:,} batches to seal" if unsealed else ""


def check_audit(
    database: Database[Document], keys: Sequence[Key], traces: Traces, left: str, differing_replicas: str
) -> AuditVerdict:
    """Look at everything once more. Precondition: nobody works any more.

    Args:
        left: what the workers did not finish.
    """
    stored = list(_documents(database, keys))
    reported = dict(_reported(database, stored))
    strangers = _unseen(database, keys)
    beyond = list(_beyond(database, {(one.key.domain.name, one.name): one.rev for one in stored}, strangers.names))
    restores = database[AUDIT_ITEMS].count_documents({"operation": "restore"})
    violations = [violation for one in stored for violation in _check_revisions(database, one, reported)]
    if not traces.restore_count:
        text = "nobody came to this revision, and nobody forged it"
        lost = [one for one in beyond if one not in traces.forged]
        violations += [Violation("a record of nothing", "/".join(map(str, one)), text) for one in lost]
    violations += _check_restores(database, traces)
    violations += [
        Violation("an odd input not set aside", "", f"neither a record nor a parked change reports {name}")
        for name in strangers.missing
    ]
    violations += _check_entries(database, traces.entries)
    report = verify(database, findings_max=SHOWN_MAX)
    violations += [Violation("the log does not verify", "", str(finding)) for finding in report.findings]
    violations += _check_progress(database, left, beyond)
    if differing_replicas:
        violations.append(Violation("a replica differs", "", differing_replicas))
    items = database[AUDIT_ITEMS]
    return AuditVerdict(
        revisions=sum(one.rev for one in stored),
        records=sum(one.rev - len(_missing(database, one)) for one in stored),
        gaps=items.count_documents({"operation": "gap"}),
        beyond=len(beyond),
        corrections=items.count_documents({"operation": "correction"}),
        restores=restores,
        strangers=len(strangers.names),
        seals=database[AUDIT_SEALS].estimated_document_count(),
        parked=database[PARKED].estimated_document_count(),
        violations=tuple(violations),
        reported=reported,
    )


def _noticed(database: Database[Document]) -> list[Document]:
    """The restores that somebody has noticed."""
    found = database.get_collection(CACHE_IDENTITY, codec_options=ANYTHING).find_one({}) or {}
    return list(found.get("restores") or ())


def _check_restores(database: Database[Document], traces: Traces) -> Iterator[Violation]:
    noticed = _noticed(database)
    if traces.restored_at is not None and not any(one["at"] >= traces.restored_at for one in noticed):
        text = f"MongoDB was set back at {traces.restored_at}, and nobody has noticed"
        yield Violation("a restore that nothing reports", "", text)
    for one in noticed:
        record = database[AUDIT_ITEMS].find_one({"operation": "restore", "documentId": one["over"]}, {"_id": 1})
        if record is None:
            text = f"the one after era {one['over']}, noticed at {one['at']}, has no record"
            yield Violation("a restore that nothing reports", "", text)


def check_records(reported: Mapping[Revision, str | None], stories: Iterable[Story]) -> tuple[int, list[Violation]]:
    """Whether the log has for each revision what those were reported who wrote or read it; how many could be
    compared.
    """
    compared, violations = 0, []
    for story in stories:
        for rev, values in story.values.items():
            seen = next(iter(values)).mark
            recorded = reported.get(Revision(story.key, rev))
            if seen is None or recorded is None:
                continue
            compared += 1
            if seen != recorded:
                text = f"revision {rev} is {seen}; its record tells {recorded}, and nothing corrects it"
                kind = "a forged record" if recorded.startswith(FORGED) else "a record of another value"
                violations.append(Violation(kind, story.key, text))
    return compared, violations


def differing_copies(database: Database[Document], replica: Database[Document], keys: Iterable[Key]) -> str:
    """Which of the clients' documents differ from their copies. What strangers write has no event, so that comes to a
    replica by the first copy or not at all, and `replica compare` says so.
    """
    options: CodecOptions[RawBSONDocument] = CodecOptions(RawBSONDocument)
    both = [one.with_options(codec_options=options) for one in (database, replica)]
    wrong = []
    for key in keys:
        source, copy = ([found.raw for found in one[collection_of(key.domain)].find(key.query())] for one in both)
        if source != copy:
            wrong.append(str(key))
    return ", ".join(wrong)


def _documents(database: Database[Document], keys: Iterable[Key]) -> Iterator[_Stored]:
    for key in keys:
        for document in database[collection_of(key.domain)].find(key.query()):
            mark = mark_of(key.domain, document[payload_field(key.domain)])
            yield _Stored(key, str(document["_id"]), int(document.get("rev") or 0), mark)


def _recorded(database: Database[Document], stored: _Stored) -> list[range]:
    """The revisions that records stand for, up to the document's own."""
    query = {
        "domain": stored.key.domain.name,
        "documentId": stored.name,
        "operation": {"$in": REVISIONS},
        "rev": {"$lte": stored.rev},
    }
    found = database[AUDIT_ITEMS].find(query, {"rev": 1, "first": 1})
    return [range(int(one.get("first") or one["rev"]), int(one["rev"]) + 1) for one in found]


def _missing(database: Database[Document], stored: _Stored) -> set[int]:
    recorded = {rev for run in _recorded(database, stored) for rev in run}
    return set(range(1, stored.rev + 1)) - recorded


def _check_progress(database: Database[Document], left: str, beyond: Sequence[Forged]) -> Iterator[Violation]:
    if left:
        yield Violation("a role without progress", "", left)
    ahead = {f"{one.domain}/{one.document}" for one in beyond}
    for trouble in troubles(database):
        # Nobody leads a service once all have stopped; and a record that was forged far ahead leaves a hole behind it.
        is_over = trouble.name in SEEN or trouble.name.startswith("service.")
        if not is_over and not (trouble.name == "audit.hole" and trouble.seen.split()[0] in ahead):
            yield Violation("a role without progress", trouble.name, trouble.seen)


def _check_revisions(
    database: Database[Document], stored: _Stored, reported: Mapping[Revision, str | None]
) -> Iterator[Violation]:
    if reported.get(Revision(str(stored.key), stored.rev), stored.mark) != stored.mark:  # A gap has nothing to compare.
        text = f"the record of revision {stored.rev} is not what is stored"
        yield Violation("a record of another value", str(stored.key), text)
    revisions = [rev for run in _recorded(database, stored) for rev in run]
    missing = sorted(set(range(1, stored.rev + 1)) - set(revisions))
    if missing or len(revisions) != stored.rev:
        text = f"{stored.rev} revisions are stored, {len(revisions)} recorded; missing: {missing[:SHOWN_MAX]}"
        yield Violation("a revision without exactly one record", str(stored.key), text)


def _beyond(
    database: Database[Document], revs: Mapping[tuple[str, str], int], strangers: frozenset[tuple[str, str]]
) -> Iterator[Forged]:
    """Records of revisions to which no document of theirs has come."""
    for found in database[AUDIT_ITEMS].find(
        {"operation": {"$in": REVISIONS}}, {"domain": 1, "documentId": 1, "rev": 1}
    ):
        name = found["domain"], found["documentId"]
        if name not in strangers and int(found["rev"]) > revs.get(name, 0):
            yield Forged(*name, int(found["rev"]))


class _Strangers(NamedTuple):
    names: frozenset[tuple[str, str]]
    missing: list[str]


def _unseen(database: Database[Document], keys: Iterable[Key]) -> _Strangers:
    """Documents that no client wrote; and those that are neither recorded nor, as far as can be known, parked."""
    own: dict[Domain, set[tuple[Any, ...]]] = defaultdict(set)
    for key in keys:
        own[key.domain].add(key.parts)
    found = []
    for domain in (domain for domain in DOMAINS if domain.shape is not Shape.SERIES):
        columns = dict.fromkeys(domain.columns, 1)
        for document in database.get_collection(collection_of(domain), codec_options=ANYTHING).find({}, columns):
            parts = tuple(_comparable(document.get(name)) for name in domain.columns)
            if parts not in own[domain]:
                found.append((domain.name, _text(document["_id"])))
    recorded = {
        (one["domain"], one["documentId"])
        for one in database[AUDIT_ITEMS].find(
            {"documentId": {"$in": [name for _, name in found]}}, {"domain": 1, "documentId": 1}
        )
    }
    missing = [f"{domain}/{name}" for domain, name in found if (domain, name) not in recorded]
    parked = database[PARKED].count_documents({"stream": LOG, "cause": {"$ne": ""}})
    return _Strangers(frozenset(found), missing if len(missing) > parked else [])


def _comparable(value: Any) -> Any:
    return value if type(value) in (str, bool, int) else repr(value)


def _text(name: Any) -> str:
    """As records name a document, whatever its `_id` is."""
    shown = str(name)
    try:
        shown.encode()
    except UnicodeEncodeError:
        return shown.encode("ascii", "backslashreplace").decode()
    return shown


def _check_entries(database: Database[Document], numbers: Iterable[int]) -> Iterator[Violation]:
    for number in numbers:
        carried = [bson.Binary(NUMBER), bson.Binary(b"%d" % number)]
        row = database[PARKED].find_one({"role": "audit", "fields": carried}, {"cause": 1})
        if row is None or not row["cause"]:
            text = f"entry {number} of the feed is no event, and it is not parked with its cause"
            yield Violation("an odd input not set aside", "", text)


def _reported(database: Database[Document], stored: Iterable[_Stored]) -> Iterator[tuple[Revision, str | None]]:
    """The mark of each revision, as the log has it: that of a correction, where there is one."""
    items = database.get_collection(AUDIT_ITEMS, codec_options=ANYTHING)
    for one in stored:
        marks: dict[int, str | None] = {}
        corrected: dict[int, str | None] = {}
        query = {"domain": one.key.domain.name, "documentId": one.name, "rev": {"$lte": one.rev}}
        for record in items.find(query, {"operation": 1, "rev": 1, "payload": 1}):
            if record["operation"] in ("upsert", "remove"):
                marks[int(record["rev"])] = mark_of(one.key.domain, record["payload"])
            elif record["operation"] == "correction":
                corrected[int(record["rev"])] = mark_of(one.key.domain, record["payload"])
        for rev, mark in (marks | corrected).items():
            yield Revision(str(one.key), rev), mark
