"""The bytes of a cache entry, and the tokens of leases and rights.

    incarnation (40) | rev (16 hex) | version (1) | when (16 hex of its 64 bits, or dashes) | removed (1)
    | bytes of _id (4 hex) | _id | payload

Scripts look at the incarnation and the revision only; the rest is fixed so that a hit costs a few slices and one
decode. All up to the version is the same in all of them: what comes after it may change with another one. An entry of
another version is as good as none. Versions are letters beyond f: what was before them had a digit or a dash there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count

from backtest_kit_mongo.coherence.codec import unpack
from backtest_kit_mongo.coherence.record import Key, Record
from backtest_kit_mongo.errors import CorruptData

INCARNATION_CHARS = 40
VERSION = b"g"
_VERSION_AT = slice(56, 57)


def record_header(record: Record) -> bytes:
    """The part of an entry between the incarnation and the payload: revision, version, `when`, removed, `_id`."""
    when = "-" * 16 if record.when is None else f"{record.when & (2**64 - 1):016x}"
    name = record.id.encode()
    return b"%016x%b%b%d%04x" % (record.rev, VERSION, when.encode(), record.removed, len(name)) + name


def is_of_this_version(entry: bytes) -> bool:
    """Whether this release should be able to read it. No: another release wrote it, of before or after this one. What
    nobody can have written, or only the beginning of, is damaged.
    """
    version = entry[_VERSION_AT]
    return version == VERSION or not (version == b"-" or version.isalnum())


def parse_entry(key: Key, entry: bytes) -> Record:
    """Read an entry of this version, incarnation included.

    Raises:
        CorruptData: it cannot be decoded.
    """
    when = entry[57:73]
    try:
        end = 78 + int(entry[74:78], 16)
        moment = None if when[:1] == b"-" else int(when, 16)
        if moment is not None and moment >= 2**63:
            moment -= 2**64
        payload = unpack(entry[end:])
        return Record(key, int(entry[40:56], 16), payload, moment, entry[73:74] == b"1", entry[78:end].decode())
    except Exception as cause:
        raise CorruptData(f"{key}: the cache entry cannot be decoded: {cause!r}") from cause


class Tokens:
    """Tokens that no other attempt of any process ever uses."""

    def __init__(self) -> None:
        self._own = _own_tokens()

    def fresh(self) -> str:
        process, prefix, numbers = self._own
        if process != os.getpid():
            process, prefix, numbers = self._own = _own_tokens()
        # One step, whatever thread or signal handler comes in between.
        return f"{prefix}{next(numbers):x}"


def _own_tokens() -> tuple[int, str, Iterator[int]]:
    return os.getpid(), os.urandom(12).hex(), count(1)
