"""The journal of one process: one JSON array a line, one `write()` a line, so that what is written survives SIGKILL.

| line                                     | meaning |
|------------------------------------------|---------|
| `["+", n, t, kind, key, wanted]`         | call n begins; written before the call. `wanted`: the mark, or {item: mark} for a list |
| `["l", n, t]`, `["b", n, t]`             | its write holds a lease; or goes past Redis. Written before MongoDB is asked |
| `["=", n, t, result, deferred]`          | it returned; `deferred`: its event is kept until Redis is back |
| `["!", n, t, outcome, text]`             | it raised; `outcome` as in `Outcome` |
| `["f", t, text]`                         | a command to Redis failed; it may or may not have been executed |
| `["r", t, [[key, rev], ...]]`            | Redis is reached again; these events had been kept, and were appended |

t is CLOCK_MONOTONIC in ns. Results: a read `[rev, mark, removed, from the cache]`, a write `[rev]`, a removal `[rev]`
or `[]`, a list write {item: [rev, written]}, a scan {item: [rev, mark]}.
"""

import json
import os
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeAlias

__all__ = ["Journal", "CallKind", "Outcome"]


class CallKind(StrEnum):
    """What a call does."""

    READ = "read"
    WRITE = "write"
    REMOVE = "remove"
    SCAN = "scan"
    MERGE = "merge"
    #: Not calls: a document and a cache entry, seen when all is quiet.
    STORED = "stored"
    #: What MongoDB was set back to.
    RESTORED = "restored"
    CACHED = "cached"


class Outcome(StrEnum):
    """How a call ended, by what it allows its caller to believe."""

    DONE = "done"
    #: It raised an error that promises that nothing was and will be written; or it was a read and gave nothing.
    REFUSED = "refused"
    #: It raised an error that promises nothing.
    UNKNOWN = "unknown"
    #: It raised what no docstring announces.
    UNDOCUMENTED = "undocumented"
    #: Its process ended before it did.
    PENDING = "pending"


Result: TypeAlias = Sequence[Any] | dict[str, Sequence[Any]]


class Journal:
    """Appends to the file of one process. Not thread-safe: a client is one thread."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.count = 0

    def _put(self, *fields: Any) -> None:
        os.write(self._file, json.dumps(fields, separators=(",", ":")).encode() + b"\n")

    def begin(self, kind: CallKind, key: str, wanted: Any = None) -> int:
        """Record a call that is about to be made; its number."""
        self.count += 1
        self._put("+", self.count, time.monotonic_ns(), kind, key, wanted)
        return self.count

    def leased(self, number: int, is_leased: bool) -> None:
        self._put("l" if is_leased else "b", number, time.monotonic_ns())

    def done(self, number: int, result: Result, is_deferred: bool, is_left: bool = False) -> None:
        self._put("=", number, time.monotonic_ns(), result, int(is_deferred), int(is_left))

    def told(self, number: int, is_deferred: bool) -> None:
        """What became of the COMMIT that a call did not wait for. Any thread may write this."""
        self._put("t", number, time.monotonic_ns(), int(is_deferred))

    def raised(self, number: int, outcome: Outcome, text: str) -> None:
        self._put("!", number, time.monotonic_ns(), outcome, text)

    def link_failed(self, text: str) -> None:
        self._put("f", time.monotonic_ns(), text)

    def reached(self, events: Sequence[tuple[str, int]]) -> None:
        self._put("r", time.monotonic_ns(), events)
