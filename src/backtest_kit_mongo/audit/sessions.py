"""A day of a strategy, as the audit log has it: what was there before, each write, stored answers, candles. And as a
file: lines of JSON, compressed, the first of which says what it is.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from bson import json_util

from backtest_kit_mongo.audit.differences import differences
from backtest_kit_mongo.audit.known_sessions import known_sessions
from backtest_kit_mongo.audit.log import AuditLog
from backtest_kit_mongo.audit.market import Market
from backtest_kit_mongo.audit.past import Past, PastDocument
from backtest_kit_mongo.audit.records import GAP, AuditRecord, from_document, readable
from backtest_kit_mongo.backends.mongo.errors import reading
from backtest_kit_mongo.coherence.codec import pack, unpack
from backtest_kit_mongo.coherence.inventory import Selection
from backtest_kit_mongo.coherence.moments import iso, millis, moment_ms
from backtest_kit_mongo.coherence.record import Key, Part
from backtest_kit_mongo.domains.table import INTERVAL, MEASURE, RISK, STRATEGY
from backtest_kit_mongo.errors import CallerError, InvalidKey, NotFound
from backtest_kit_mongo.stored import AUDIT_ITEMS as ITEMS

__all__ = ["Session", "SessionChange", "SessionRow", "load_session", "read_session"]

FORMAT: Final = "backtest-kit session"
VERSION: Final = 1
END: Final = "end"
PAPER: Final = "~paper"
MINUTE_MS: Final = 60_000
SEEN_MS: Final = 5 * MINUTE_MS
"""Of candles that a minute sees at least."""
MODES: Final = ("live", "paper")


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A document before the session began."""

    domain: str
    parts: tuple[Part, ...]
    payload: Any
    when: int | None


@dataclass(frozen=True, slots=True)
class SessionChange:
    """A revision.

    Attributes:
        writer: host and process; what recovery published has the worker's.
        step: of its cause, `{minute}/{what}`; empty: not stamped.
        at: the simulated minute of that, ms; None: unknown.
        order: place among the changes of its writer.
        lost: why its content is not known; empty: it is.
    """

    domain: str
    parts: tuple[Part, ...]
    rev: int
    operation: str
    payload: Any
    when: int | None
    writer: str
    written_ms: int
    step: str
    at: int | None
    order: tuple[int, int]
    lost: str = ""

    def differences(self, payload: Any) -> tuple[str, ...]:
        """In which fields another payload differs from this one, a text each."""
        return tuple(map(str, differences(self.payload, _plain(payload))))


@dataclass(slots=True)
class Session:
    """Attributes:
    start, end: ms; a change belongs to it if start <= its simulated minute < end.
    contexts: symbol and exchange (as in keys) of each.
    answers: stored answers of any time.
    candles: by exchange, symbol and interval, rows of timestamp open high low close volume.
    missing: what the log no longer has.
    """

    strategy: str
    mode: str
    start: int
    end: int
    contexts: list[tuple[str, str]] = field(default_factory=list)
    before: list[SessionRow] = field(default_factory=list)
    changes: list[SessionChange] = field(default_factory=list)
    answers: list[SessionRow] = field(default_factory=list)
    candles: dict[tuple[str, str, str], list[list[float]]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write it to a file, of which nothing is there before all of it is."""
        staged = path.with_name(f"{path.name}.new")
        with gzip.open(staged, "wt", encoding="utf-8") as out:
            for line in self._lines():
                out.write(json_util.dumps(line, json_options=json_util.CANONICAL_JSON_OPTIONS) + "\n")
        staged.replace(path)

    def _lines(self) -> Iterator[dict[str, Any]]:
        head = ("strategy", "mode", "start", "end", "contexts", "missing")
        yield {"format": FORMAT, "version": VERSION, **{name: getattr(self, name) for name in head}}
        for kind in ("before", "changes", "answers"):
            yield from ({"kind": kind, **asdict(row)} for row in getattr(self, kind))
        yield from ({"kind": "candles", "series": list(name), "rows": rows} for name, rows in self.candles.items())
        yield {"kind": END}


def load_session(path: Path) -> Session:
    """What `save` wrote.

    Raises:
        CallerError: it is no such file, or of a later version.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            head = json_util.loads(next(lines, "{}"))
            if head.get("format") != FORMAT or int(head.get("version", 0)) > VERSION:
                raise CallerError(f"{path} is no {FORMAT} that this version reads ({head.get('version')})")
            session = Session(str(head["strategy"]), str(head["mode"]), int(head["start"]), int(head["end"]))
            session.contexts = [(str(symbol), str(exchange)) for symbol, exchange in head["contexts"]]
            session.missing = list(head["missing"])
            is_whole = False
            for line in lines:
                row = _plain(json_util.loads(line))
                if is_whole := row["kind"] == END:
                    break
                _take(session, row)
            if not is_whole:
                raise EOFError("its last line is not there")
    except OSError as cause:
        if not isinstance(cause, gzip.BadGzipFile):
            raise CallerError(f"{path} cannot be read: {cause.strerror}; `bkm export` writes such files") from cause
        raise CallerError(f"{path} is no {FORMAT}: {cause}") from cause
    except (zlib.error, EOFError, json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as cause:
        raise CallerError(f"{path} is no {FORMAT}, or was cut off: {cause!r:.200}") from cause
    return session


def _take(session: Session, row: dict[str, Any]) -> None:
    kind = row.pop("kind")
    if kind == "candles":
        exchange, symbol, interval = row["series"]
        session.candles[exchange, symbol, interval] = row["rows"]
        return
    row["parts"] = tuple(row["parts"])
    if kind == "changes":
        row["order"] = tuple(row["order"])
        session.changes.append(SessionChange(**row))
    else:
        {"before": session.before, "answers": session.answers}[kind].append(SessionRow(**row))


def read_session(log: AuditLog, strategy: str, mode: str, start: int, end: int, history_ms: int) -> Session:
    """Read it out of the log.

    Args:
        history_ms: candles of so long before the start are taken too.

    Raises:
        InvalidKey: `start` or `end` is no moment (see `moment_ms`), the one does not lie before the other, or there is
            no such mode.
        NotFound: the strategy wrote nothing in it.
    """
    start, end = moment_ms(start, "start"), moment_ms(end, "end")
    if start >= end or mode not in MODES:
        raise InvalidKey(f"a session is live or paper, from a moment to a later one, not {mode!r:.40} {start}..{end}")
    session = Session(strategy, mode, start, end)
    tell = session.missing.append
    chosen = Selection((("strategyName", strategy),))
    with reading(f"the session of {strategy}"):
        later = Past(log, end - 1, tell)
        found = [one for one in later.chosen(chosen, with_removed=True) if _is_of(one, mode)]
        session.contexts = sorted({context for one in found if (context := _context(one.record.key)) is not None})
        if not session.contexts:
            raise NotFound(
                f"the audit log has nothing of a strategy {strategy!r} in mode {mode} before {iso(end)}. "
                f"{known_sessions(log, strategy, mode)}"
            )
        exchanges = {exchange for _, exchange in session.contexts}
        found += [one for one in later.of_domain(RISK) if one.record.key.parts[1] in exchanges]
        for one in found:
            _read_document(session, log, one, Past(log, start - 1, tell))
        session.answers = [_row(one) for one in later.of_domain(MEASURE)]
        session.answers += [_row(one) for one in later.of_domain(INTERVAL)]
        _read_candles(session, log, start - history_ms)
    if not session.changes:
        raise NotFound(
            f"the strategy {strategy!r} in mode {mode} wrote nothing from {iso(start)} to {iso(end)}. "
            f"{known_sessions(log, strategy, mode)}"
        )
    session.changes.sort(key=lambda one: (one.order, one.rev))
    return session


def _is_of(one: PastDocument, mode: str) -> bool:
    named = one.record.key.query()
    payload = one.record.payload
    exchange = named.get("exchangeName") or (payload.get("exchangeName") if isinstance(payload, dict) else None)
    if isinstance(exchange, str):
        return exchange.endswith(PAPER) is (mode == "paper")
    owner = str(named.get("signalId", "")).split(":")
    return len(owner) < 2 or owner[-1] == mode


def _context(key: Key) -> tuple[str, str] | None:
    named = key.query()
    if key.domain.name != "strategy":
        return None
    return str(named["symbol"]), str(named["exchangeName"])


def _read_document(session: Session, log: AuditLog, one: PastDocument, earlier: Past) -> None:
    key = one.record.key
    document = {"documentId": one.change.document_id, "domain": key.domain.name}
    before = earlier.of_document(document, key)
    if before is not None:
        session.before.append(_row(before))
    since = 0 if before is None else before.change.rev
    query = {**document, "rev": {"$gt": since, "$lte": one.change.rev}}
    records = readable(log.database, ITEMS).find(query).sort([("rev", 1), ("foreign", 1)])
    expected = since + 1
    for record in map(from_document, records):
        change = _change(key, record)
        for rev in range(expected, record.rev):
            why = change.lost if record.first <= rev else "no record of it is in the log"
            session.missing.append(f"{key} revision {rev}: {why}")
            session.changes.append(replace(change, rev=rev, payload=None, step="", at=None, lost=why))
        if change.lost:
            session.missing.append(f"{key} revision {record.rev}: {change.lost}")
        session.changes.append(change)
        expected = record.rev + 1


def _row(one: PastDocument) -> SessionRow:
    record = one.record
    return SessionRow(record.key.domain.name, record.key.parts, record.payload, record.when)


def _change(key: Key, record: AuditRecord) -> SessionChange:
    written = 0 if record.written_at is None else millis(record.written_at)
    cause = record.cause
    first, _, second = record.entry.rpartition("/")[2].partition("-")
    order = (int(first), int(second)) if first.isdecimal() and second.isdecimal() else (written, 0)
    return SessionChange(
        key.domain.name,
        key.parts,
        record.rev,
        record.operation,
        _plain(record.payload),
        record.when,
        f"{record.host}:{record.process}",
        written,
        "" if cause is None else cause.step,
        None if cause is None else cause.at,
        order,
        _lost(record),
    )


def _lost(record: AuditRecord) -> str:
    if record.operation == GAP or (record.payload is None and record.reason):
        return record.reason or "its content is lost"
    return ""


def _read_candles(session: Session, log: AuditLog, since: int) -> None:
    for symbol, exchange in session.contexts:
        named = exchange.removesuffix(PAPER)
        market = Market(log.database, named, symbol, session.missing.append)
        for interval in market.intervals():
            session.candles[named, symbol, interval] = market.rows(interval, since, session.end)
        _tell_gaps(session, symbol, exchange)


def _tell_gaps(session: Session, symbol: str, exchange: str) -> None:
    """Of one-minute candles that its minutes saw."""
    names = (symbol, session.strategy, exchange)
    lived = [one.at for one in session.changes if one.domain == STRATEGY.name and one.parts == names and one.at]
    if not lived:
        return
    held = {int(row[0]) for row in session.candles.get((exchange.removesuffix(PAPER), symbol, "1m"), ())}
    lacking = [at for at in range(min(lived) - SEEN_MS, max(lived), MINUTE_MS) if at not in held]
    if lacking:
        session.missing.append(
            f"{len(lacking)} one-minute candles of {symbol} at {exchange} from {iso(lacking[0])} to "
            f"{iso(lacking[-1])}: they are not in the database (a minute without trade has none)"
        )


def _plain(payload: Any) -> Any:
    try:
        return unpack(pack(payload))
    except (TypeError, ValueError, OverflowError):
        return payload
