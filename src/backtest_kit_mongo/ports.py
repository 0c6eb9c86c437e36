"""What a backend must offer. A *truth* stores documents; a *cache* keeps copies and tells the change feed.

A store is one of each: files and memory have no cache (`NoCache`), production is `MongoTruth` with `RedisCache`. Adding
a backend costs one class here and one line in the conformance tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from backtest_kit_mongo.candles.plans import FindBlocks, FindGeneration, FindRows, PutBlock
from backtest_kit_mongo.coherence.deletion import Delete, DeleteAll
from backtest_kit_mongo.coherence.effects import (
    Abort,
    CacheRead,
    Commit,
    Defer,
    Fill,
    Find,
    Lease,
    Leased,
    Publish,
    Published,
    Right,
    SoftRemove,
    Upsert,
)
from backtest_kit_mongo.coherence.inventory import Census, Entry, Selection
from backtest_kit_mongo.coherence.lists import ALL, Merge, Only, Rows
from backtest_kit_mongo.coherence.near import Fetch, NearBegin, NearEnd
from backtest_kit_mongo.coherence.record import Domain, Key, Part, Record
from backtest_kit_mongo.coherence.series import Append, Appended, Conflict, KeepConflicts
from backtest_kit_mongo.coherence.steps import AbortAll, Atomic, CommitAll, LeaseAll

if TYPE_CHECKING:
    from backtest_kit_mongo.candles.columns import Columns
    from backtest_kit_mongo.candles.plans import Blocks


class Truth(Protocol):
    """Durable storage of records. Each method performs one effect or one query; all are thread-safe.

    Errors: `ServerUnreachable` and `WriteRefused` promise that nothing was and will be written; `WriteOutcomeUnknown`
    promises nothing.
    """

    def open(self) -> None:
        """Connect and prepare (indexes, directories). Called before each first use; a failed call may be repeated."""

    def close(self) -> None: ...

    def find(self, effect: Find) -> Record: ...

    def upsert(self, effect: Upsert) -> Record: ...

    def remove(self, effect: SoftRemove) -> Record | None: ...

    def delete(self, effect: Delete) -> Record | None: ...

    def delete_all(self, effect: DeleteAll) -> tuple[Record | None, ...]:
        """In the order of the keys; `one_by_one` is good enough."""

    def rows(self, effect: Rows) -> Mapping[Part, Record]: ...

    def merge(self, effect: Merge) -> tuple[Published, ...]: ...

    def atomic(self, effect: Atomic) -> tuple[tuple[Published, ...], ...]:
        """Errors besides those of all writes: `Conflict`, and `Contended` for what may be tried again at once."""

    def require_steps(self) -> None:
        """See that `atomic` can be done here.

        Raises:
            UnsafeServer: it cannot, and the message says what to do.
        """

    def step_lifetime_ms(self) -> int:
        """How long after `atomic` has begun its writes may still be committed, if nobody hears of it."""

    def append(self, effect: Append) -> Appended: ...

    def keep_conflicts(self, effect: KeepConflicts) -> tuple[Conflict, ...]:
        """A truth that has no place for conflicts keeps none and answers with none: then the log alone has them."""

    def now_ms(self) -> int:
        """The time by which a candle is closed or not, milliseconds since 1970: of the servers where there are any."""

    @property
    def series(self) -> Series:
        """The columnar way to the rows of series."""

    def scan(
        self, scope: Key, *, when: int | None, limit: int | None, keys_only: bool, only: Only = ALL
    ) -> Iterator[Record]:
        """Records of a scope that are visible at `when`, those of `only` (which says in which order), `limit` at most.

        With `keys_only` the payloads need not be loaded: listing names must not cost their contents.
        """

    def window(self, scope: Key, since: int, until: int) -> list[dict[str, Any]]:
        """Rows of a series with since <= timestamp < until, ascending, as plain dicts with integer timestamps."""

    def browse(self, domain: Domain, chosen: Selection) -> Iterator[Entry]:
        """What is stored of a domain, in the order of its keys where that costs little; a series is one entry. Prepares
        nothing and changes nothing. What cannot be read has a `fault`; what has no key is named in the log.
        """

    def census(self, domain: Domain, chosen: Selection) -> Census:
        """How much there is of what `browse` gives."""


class Series(Protocol):
    """Rows of series as columns. All methods are thread-safe; errors are those of `Truth`."""

    def find_blocks(self, effect: FindBlocks) -> Blocks: ...

    def find_rows(self, effect: FindRows) -> Columns: ...

    def find_generation(self, effect: FindGeneration) -> int: ...

    def put_block(self, effect: PutBlock) -> None: ...


class CacheFigures(NamedTuple):
    """What a cache has counted, see `docs/monitoring.md`."""

    lease_conflicts: int
    fills_refused: int
    no_room: int
    incarnation_changes: int
    bypass_s: float
    is_bypassing: bool
    closed_s: float


class Cache(Protocol):
    """Shared copies and the change feed.

    A method that cannot reach its server raises `CacheDown`, except where it says otherwise.
    """

    def open(self) -> None: ...

    def confirm(self) -> None:
        """Look again whether what is cached belongs to the truth."""

    def close(self) -> None: ...

    def lease(self, effect: Lease) -> Leased | None:
        """None instead of `CacheDown` where the settings allow to go on without a cache."""

    def abort(self, effect: Abort) -> None: ...

    def commit(self, effect: Commit) -> None: ...

    def publish(self, effect: Publish) -> None: ...

    def defer(self, effect: Defer) -> None: ...

    def read(self, effect: CacheRead) -> Record | Right:
        """An empty right instead of `CacheDown`: a read goes on at the truth."""

    def fill(self, effect: Fill) -> None: ...

    def partition_of(self, key: Key) -> str:
        """A name of the partition that has the key: one script may work on all keys of one."""

    def lease_all(self, effect: LeaseAll) -> Leased | None:
        """As `lease`."""

    def abort_all(self, effect: AbortAll) -> None: ...

    def commit_all(self, effect: CommitAll) -> None: ...

    def figures(self) -> CacheFigures | None:
        """None: nothing is counted."""
        return None


class Near(Protocol):
    """Copies in this process, in front of a cache. All methods are thread-safe and never fail."""

    @property
    def domains(self) -> frozenset[Domain]:
        """Those of which copies may be kept."""

    @property
    def bytes(self) -> int:
        """What the copies take, at most."""
        return 0

    @property
    def staleness_s(self) -> float:
        """How long copies may be served after what they are of has changed, in any process that is set up alike."""
        return 0.0

    def get(self, key: Key) -> Record | None:
        """A copy that may be served now; the caller owns the record."""

    def begin(self, effect: NearBegin) -> Fetch: ...

    def end(self, effect: NearEnd) -> None: ...

    def drop(self, keys: Iterable[Key]) -> None:
        """These are being written by this process."""

    def close(self) -> None: ...


class NoCache:
    """The cache of stores that need none."""

    def open(self) -> None:
        return

    def confirm(self) -> None:
        return

    def close(self) -> None:
        return

    def lease(self, effect: Lease) -> Leased | None:
        return None

    def abort(self, effect: Abort) -> None:
        return

    def commit(self, effect: Commit) -> None:
        return

    def publish(self, effect: Publish) -> None:
        return

    def defer(self, effect: Defer) -> None:
        return

    def read(self, effect: CacheRead) -> Record | Right:
        return Right("")

    def fill(self, effect: Fill) -> None:
        return

    def partition_of(self, key: Key) -> str:
        return ""

    def lease_all(self, effect: LeaseAll) -> Leased | None:
        return None

    def abort_all(self, effect: AbortAll) -> None:
        return

    def commit_all(self, effect: CommitAll) -> None:
        return

    def figures(self) -> CacheFigures | None:
        return None
