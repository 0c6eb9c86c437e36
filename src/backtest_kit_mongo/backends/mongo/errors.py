"""The one place where pymongo's exceptions become ours, and where it is decided whether a write may have happened."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import bson.errors
import pymongo.errors as pe

from backtest_kit_mongo.backends.mongo.layout import collection_of
from backtest_kit_mongo.coherence.record import Domain
from backtest_kit_mongo.errors import (
    InvalidPayload,
    LegacyIndex,
    ReadFailed,
    ServerUnreachable,
    WriteOutcomeUnknown,
    WriteRefused,
    WriteTooLate,
)

DUPLICATE_KEY = 11_000
_BAD_VALUE = 2
NO_UNIQUE_INDEX = 51183
"""No unique index covers the fields that `$merge` is told to join on."""
_TYPE_MISMATCH = 14
LATE: Final = "this write arrived after its deadline"
"""What a late command cannot convert to a number (`deadline.py`), and so part of the server's error."""
_CONVERSION_FAILURE: Final = 241
UNAUTHORIZED: Final = 13
_WRITTEN: Final = ("nInserted", "nMatched", "nUpserted", "nRemoved")
"""What a bulk counts that did not fail as a whole."""
_TIMED_OUT_CODES = frozenset({50, 64, 89, 91, 112, 189, 262, 11_600, 11_602, 10_107, 13_435, 13_436})
"""Server errors after which the write may still have been applied or may be retried by the driver: time limits,
shutdown, elections.
"""


class NoRevision(WriteRefused):
    """What another program stored as the revision cannot be counted on. Nothing was written."""


class IndexGone(WriteRefused):
    """The unique index that the write named is not there. Nothing was written."""


@contextmanager
def reading(what: object) -> Iterator[None]:
    """Translate the errors of a query.

    Raises:
        InvalidPayload: what is asked for cannot be put into a query. No server was asked.
        ServerUnreachable, ReadFailed: nothing was written.
    """
    try:
        yield
    except (pe.DocumentTooLarge, bson.errors.InvalidDocument, bson.errors.InvalidStringData, OverflowError) as cause:
        raise InvalidPayload(
            f"{what}: MongoDB cannot be asked for this: {brief(cause)}. Nothing was read or written."
        ) from cause
    except (pe.ConnectionFailure, pe.ConfigurationError) as cause:
        raise ServerUnreachable(f"{what}: MongoDB cannot be reached, nothing was read: {brief(cause)}") from cause
    except pe.PyMongoError as cause:
        raise ReadFailed(f"{what}: MongoDB could not answer the read: {brief(cause)}") from cause


FAULTS: Final = (pe.PyMongoError, bson.errors.BSONError, OverflowError)
"""What a write may raise."""


@contextmanager
def writing(what: object) -> Iterator[None]:
    """Translate the errors of a write; raises what `write_error` says."""
    try:
        yield
    except FAULTS as cause:
        raise write_error(what, cause) from cause


def write_error(what: object, cause: Exception, settled_in_ms: Callable[[], int] | None = None) -> Exception:
    """What an error of a write means.

    Args:
        settled_in_ms: asked when its outcome is unknown: for how long it may still happen.

    Returns:
        InvalidPayload, ServerUnreachable, LegacyIndex, WriteTooLate, WriteRefused: the write did not happen and will
        not.
        WriteOutcomeUnknown: it may have happened.
    """
    if isinstance(cause, pe.DocumentTooLarge | bson.errors.BSONError | OverflowError):
        return InvalidPayload(f"{what}: MongoDB cannot store this: {brief(cause)}. Nothing was written.")
    if isinstance(cause, pe.ServerSelectionTimeoutError | pe.ConfigurationError):
        # The driver raises the first attempt's error if there was one, so no attempt was made.
        return ServerUnreachable(f"{what}: MongoDB cannot be reached, nothing was written: {brief(cause)}")
    if isinstance(cause, pe.DuplicateKeyError):
        return LegacyIndex(f"{what}: a unique index forbids this document, nothing was written: {brief(cause)}")
    if isinstance(cause, pe.OperationFailure) and not isinstance(cause, pe.WriteConcernError):
        return _refusal(what, cause) or WriteOutcomeUnknown(unknown(what, cause, _asked(settled_in_ms)))
    return WriteOutcomeUnknown(unknown(what, cause, _asked(settled_in_ms)))


def _refusal(what: object, cause: pe.OperationFailure) -> Exception | None:
    """What a server's error means; None if the write may have happened all the same."""
    if is_late(cause):
        return WriteTooLate(
            f"{what}: the write reached MongoDB too late and was refused, nothing was written. Try again. If this goes "
            "on, the network delays commands, or the server's clock jumps: see docs/coherence.md."
        )
    if cause.code in _TIMED_OUT_CODES or cause.timeout or cause.has_error_label("RetryableWriteError"):
        return None
    if _is_index_gone(cause):
        return IndexGone(f"{what}: the unique index is gone, nothing was written. Try again")
    if cause.code == _TYPE_MISMATCH and "$inc" in str(cause):
        return NoRevision(f"{what}: the stored revision is no number, nothing was written")
    return WriteRefused(f"{what}: MongoDB refused the write, nothing was written: {brief(cause)}")


def _is_index_gone(cause: pe.OperationFailure) -> bool:
    """Whether the server refused a command, or the first write of an ordered bulk, because it has no such index."""
    details: Mapping[str, Any] = cause.details or {}
    for each in details.get("writeErrors", [details])[:1]:
        is_unknown_hint = "hint provided does not correspond to an existing index" in str(each.get("errmsg"))
        if each.get("code") == NO_UNIQUE_INDEX or (each.get("code") == _BAD_VALUE and is_unknown_hint):
            return not any(details.get(name) for name in _WRITTEN)
    return False


def is_late(cause: pe.OperationFailure) -> bool:
    """Whether the server refused a command because of its deadline, all of it."""
    details: Mapping[str, Any] = cause.details or {}
    errors = details.get("writeErrors", [details])
    written = any(details.get(name) for name in _WRITTEN)
    late = [each.get("code") == _CONVERSION_FAILURE and LATE in str(each.get("errmsg")) for each in errors]
    return bool(late) and all(late) and not written


def own_duplicates(domain: Domain, cause: pe.BulkWriteError) -> set[int]:
    """The positions of a bulk's documents that met an existing key of the domain, if nothing else went wrong.

    Raises:
        WriteOutcomeUnknown: some may not be on a majority of the servers, or were refused for another reason.
        LegacyIndex: another unique index is in the way.
    """
    details: Mapping[str, Any] = cause.details or {}
    errors = details.get("writeErrors", [])
    if details.get("writeConcernErrors") or not errors:
        raise WriteOutcomeUnknown(
            f"{domain.name}: the rows may not be on a majority of the servers; repeat the write"
        ) from cause
    for error in errors:
        if error.get("code") != DUPLICATE_KEY:
            raise WriteOutcomeUnknown(
                f"{domain.name}: some rows were written, some refused: {error.get('errmsg', '')!s:.300}"
            ) from cause
        own_duplicate(domain, error, cause)
    return {error["index"] for error in errors}


def own_duplicate(domain: Domain, error: Mapping[str, Any], cause: Exception) -> None:
    """See that it was the domain's key, or `_id`, which a document met.

    Raises:
        LegacyIndex: another unique index is in the way.
    """
    met = tuple(error.get("keyPattern", domain.columns))
    if met not in (domain.columns, ("_id",)):
        raise LegacyIndex(
            f"{domain.name}: a unique index on {', '.join(met)} forbids valid documents; some rows may have been "
            "written. "
            f"Drop that index of {collection_of(domain)}, then repeat the write."
        ) from cause


def may_be_partial(cause: pe.OperationFailure) -> bool:
    """Whether a command that inserts many documents may have inserted some of them before it was refused."""
    return not (
        is_late(cause)
        or isinstance(cause, pe.WriteConcernError)
        or cause.code in (UNAUTHORIZED, NO_UNIQUE_INDEX)
        or cause.code in _TIMED_OUT_CODES
    )


def _asked(settled_in_ms: Callable[[], int] | None) -> int | None:
    return None if settled_in_ms is None else settled_in_ms()


def unknown(what: object, cause: Exception, settled_in_ms: int | None) -> str:
    """The text of a `WriteOutcomeUnknown`."""
    until = "" if settled_in_ms is None else f"; what has not happened {settled_in_ms} ms from now never will"
    return (
        f"{what}: the write may or may not have happened{until}. Read the value to learn which, or repeat the "
        f"write: {brief(cause)}"
    )


def brief(cause: BaseException) -> str:
    """The first line of pymongo's message, without its dump of the topology."""
    return f"{type(cause).__name__}: {str(cause).splitlines()[0].split(', Topology Description')[0]:.300}"
