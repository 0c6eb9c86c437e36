"""Documents as JSON files in the original's `dump` layout, one file per document. The default backend.

Files of this room help: `names.py` (where), `json.py` (what), `disk.py` (durably), `series.py` (candles).

**Writes** replace a file atomically and survive a power failure when they return. Reading the old revision and writing
the next one happens under a lock on the scope's directory. Node processes know no such locks: between them and us the
last rename wins, as among themselves, except in the log, where the first write wins, which a hard link decides.

**Reads** take no lock and change nothing; a missing directory stays missing. A file that cannot be read is never
deleted. A document read by key raises `CorruptData`; lists and windows go on without it and say so in the log, so a
candle that cannot be read is a missing one. A write of the same document repairs it, after the bytes got a second name
that ends in `.corrupt`: only then the name is needed, and a file that a careless copy is still filling is left alone.

**Dumps of the original** are read where they are. Where its name and ours differ by escaped `_` alone, both write the
same file, as long as one key uses that name (`sharing.py`). Where they differ otherwise and ours does not exist, its
file is taken, but only if it is foreign (bears no stamp); writes go to our name, and the original's file stays, unread
from then on. Files that we write always bear a stamp, which says whose they are if their name could be another key's;
so the original's way to join names can never lead one of our contexts to a document of another.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

from backtest_kit_mongo import locks
from backtest_kit_mongo.backends.files import disk as disk
from backtest_kit_mongo.backends.files import journal
from backtest_kit_mongo.backends.files import names as names
from backtest_kit_mongo.backends.files import sharing as sharing
from backtest_kit_mongo.backends.files.browsing import FileBrowsing
from backtest_kit_mongo.backends.files.json import Stamp, encode, seal, unseal
from backtest_kit_mongo.backends.files.reading import record_of
from backtest_kit_mongo.backends.files.series import FileSeries
from backtest_kit_mongo.backends.files.stepping import FileSteps, Prepared, Prior
from backtest_kit_mongo.backends.row_series import RowsOnly
from backtest_kit_mongo.candles.intervals import find_grid
from backtest_kit_mongo.coherence.codec import pack
from backtest_kit_mongo.coherence.deletion import Delete, DeleteAll, deletion, one_by_one
from backtest_kit_mongo.coherence.effects import Find, Published, SoftRemove, Upsert
from backtest_kit_mongo.coherence.lists import ALL, Merge, Only, Rows
from backtest_kit_mongo.coherence.record import Change, Domain, Key, OnConflict, Part, Record
from backtest_kit_mongo.coherence.series import Append, Appended
from backtest_kit_mongo.coherence.steps import require_rev
from backtest_kit_mongo.errors import CorruptData, ReadFailed

logger = locks.logger(__name__)

PROBES_MAX: Final = 5_000
"""Up to so many candles are looked for by name, beyond that in a listing.

Reading 1,000 files takes some 30 ms however many the directory holds, while listing 500,000 takes a second: windows of
the usual size must not pay for the history behind them. A sparse range of any length must end too, hence the listing.
"""


class _Place(NamedTuple):
    """Where a document is, relative to the base: under our name, or else under the original's if that is another; under
    `shared` if that name is also other keys' (`sharing.py`).
    """

    path: str
    original: str | None = None
    shared: str | None = None


class _Entry(NamedTuple):
    """A listed document and when its file changed."""

    item: str
    place: _Place
    mtime_ns: int


class FileTruth(FileBrowsing, FileSteps, RowsOnly):
    """Thread-safe, and safe for several processes on one directory.

    Args:
        base: the dump directory; a relative one follows the working directory. Made by the first write.
    """

    def __init__(self, base: Path) -> None:
        self._base = base
        self._swept: set[str] = set()
        self._candles = FileSeries(self._root, self._writing, self._single, self._single_at)

    def open(self) -> None:
        """Nothing to prepare: directories are made, and freed of leftovers, by the first write to them."""

    def close(self) -> None:
        """Nothing is held between calls."""

    def find(self, effect: Find) -> Record:
        return self._load(self._root(), effect.key, _place(effect.key))

    def rows(self, effect: Rows) -> Mapping[Part, Record]:
        root = self._root()
        keys = (effect.scope.child(item) for item in effect.items)
        found = (self._load_if_readable(root, key, _place(key)) for key in keys)
        return {record.key.item: record for record in found if record.exists}

    def upsert(self, effect: Upsert) -> Record:
        root, key = self._root(), effect.change.key
        with self._writing(root, key):
            if effect.expected_rev is not None:
                prior = self._find_prior(root, key)
                require_rev(prior.record, effect.expected_rev)
                return self._put(self._prepare(root, [effect.change], [prior]))[0].record
            return self._store(root, [effect.change])[0].record

    def remove(self, effect: SoftRemove) -> Record | None:
        root, key = self._root(), effect.key
        if not self._load(root, key, _place(key)).exists:
            return None  # Before a lock would make the directory.
        with self._writing(root, key):
            record = self._load(root, key, _place(key))
            if not record.exists or record.removed:
                return None
            kept = record.payload if isinstance(record.payload, dict) else {}
            payload = {**kept, "removed": True}
            change = Change(key, payload, pack(payload), record.when, removed=True)
            return self._store(root, [change])[0].record

    def delete(self, effect: Delete) -> Record | None:
        root, key = self._root(), effect.key
        place = _place(key)
        if self._find(root, key, place) is None:
            return None
        with self._writing(root, key):
            # Also what our file hides: the original's of the same key, which would be read next.
            revs = []
            while (found := self._find(root, key, place)) is not None:
                revs.append(found.stamp.rev if found.stamp else 0)
                disk.remove(f"{root}/{found.path}")
        return deletion(Record(key, max(revs), id=place.path), effect.note) if revs else None

    def delete_all(self, effect: DeleteAll) -> tuple[Record | None, ...]:
        return one_by_one(self.delete, effect)

    def merge(self, effect: Merge) -> tuple[Published, ...]:
        root = self._root()
        with self._writing(root, effect.scope):
            return tuple(self._store(root, [row.change for row in effect.rows]))

    def append(self, effect: Append) -> Appended:
        return self._candles.append(effect)

    def scan(
        self, scope: Key, *, when: int | None, limit: int | None, keys_only: bool, only: Only = ALL
    ) -> Iterator[Record]:
        """In natural order of the ids; with a limit or `only` the most recently changed first.

        Files are read as the iteration reaches them.
        """
        root = self._root()
        if limit is None and only == ALL:
            entries = sorted(self._entries(root, scope, timed=False), key=lambda one: names.natural_order(one.item))
            return self._visible(root, scope, entries, when, keys_only)
        entries = self._entries(root, scope, timed=True)
        if only.items is not None:
            entries = [entry for entry in entries if entry.item in only.items]
        entries.sort(key=lambda entry: (entry.mtime_ns, names.natural_order(entry.item)), reverse=True)
        changed_ms = {entry.item: entry.mtime_ns // 1_000_000 for entry in entries}
        found = self._visible(root, scope, entries, when, keys_only)
        return islice((one for one in found if only.fits(one, changed_ms[str(one.key.item)])), limit)

    @property
    def series(self) -> FileSeries:
        return self._candles

    def window(self, scope: Key, since: int, until: int) -> list[dict[str, Any]]:
        return self._candles.window(scope, since, until)

    def _single(self, scope: Key, since: int, until: int) -> list[dict[str, Any]]:
        """Rows of a series that are files of their own."""
        root = self._root()
        moments = _expected_times(scope, since, until)
        if moments is None:
            moments = self._series(root, scope).times(root, since, until)
        return self._listed(root, scope, moments)

    def _single_at(self, root: str, scope: Key, times: Sequence[int]) -> list[dict[str, Any]]:
        """Those of these times, ascending."""
        if len(times) > PROBES_MAX:
            wanted = set(times)
            listed = self._series(root, scope).times(root, times[0], times[-1] + 1)
            times = [moment for moment in listed if moment in wanted]
        return self._listed(root, scope, times)

    def _listed(self, root: str, scope: Key, moments: Iterable[int]) -> list[dict[str, Any]]:
        """The rows of these times that are stored and can be read."""
        places = self._series(root, scope)
        found = (self._load_if_readable(root, scope.child(moment), places.at(moment)) for moment in moments)
        return [_row(record) for record in found if record.exists]

    def _root(self) -> str:
        """The base of one operation: a working directory that changes meanwhile does not tear it apart."""
        try:
            root = os.path.abspath(self._base)
        except OSError as cause:
            raise ReadFailed(f"the working directory cannot be used: {cause.strerror}. Nothing was written.") from cause
        journal.settle(root, wait=False)
        return root

    # ---- reading

    def _load(self, root: str, key: Key, place: _Place, *, keys_only: bool = False) -> Record:
        found = self._find(root, key, place)
        return Record(key) if found is None else record_of(key, *found, keys_only=keys_only)

    @staticmethod
    def _find(root: str, key: Key, place: _Place) -> sharing.Found | None:
        if place.shared is not None:
            return sharing.find(root, key, place.shared)
        content = disk.read(f"{root}/{place.path}")
        if content is not None:
            return sharing.Found(place.path, *unseal(content))
        if place.original is None or (content := disk.read(f"{root}/{place.original}")) is None:
            return None
        found = sharing.Found(place.original, *unseal(content))
        return found if found.stamp is None else None

    def _load_if_readable(self, root: str, key: Key, place: _Place, *, keys_only: bool = False) -> Record:
        try:
            return self._load(root, key, place, keys_only=keys_only)
        except CorruptData as cause:
            logger.warning("skipped: %s", cause)
            return Record(key)

    def _visible(
        self, root: str, scope: Key, entries: Iterable[_Entry], when: int | None, keys_only: bool
    ) -> Iterator[Record]:
        for entry in entries:
            record = self._load_if_readable(root, scope.child(entry.item), entry.place, keys_only=keys_only)
            if record.visible(when):
                yield record

    def _entries(self, root: str, scope: Key, *, timed: bool) -> list[_Entry]:
        """All documents of a scope by our names, and those under the original's names that ours do not hide."""
        ours, originals = names.directory(scope), names.original_directory(scope)
        found: dict[str, _Entry] = {}
        foreign: dict[str, _Entry] = {}
        for name, mtime_ns in disk.listing(f"{root}/{ours}", timed=timed):
            path = f"{ours}/{name}{names.EXTENSION}"
            if (item := names.item(name)) is not None:
                found[item] = _Entry(item, _Place(path), mtime_ns)
            elif originals == ours:
                foreign[name] = _Entry(name, _Place(names.path(scope.child(name)), path), mtime_ns)
        if originals is not None and originals != ours:
            for name, mtime_ns in disk.listing(f"{root}/{originals}", timed=timed):
                foreign[name] = _Entry(name, _place(scope.child(name)), mtime_ns)
            found = {item: entry._replace(place=_place(scope.child(item))) for item, entry in found.items()}
        return list({**foreign, **found}.values())

    def _series(self, root: str, scope: Key) -> _Series:
        ours, originals = names.directory(scope), names.original_directory(scope)
        has_originals = originals is not None and originals != ours and os.path.isdir(f"{root}/{originals}")
        return _Series(ours, originals if has_originals else None)

    # ---- writing

    @staticmethod
    def _directory(root: str, key: Key) -> str:
        """The one to lock for a write of this document or scope."""
        shared = sharing.shared_path(key) if len(key.parts) == len(key.domain.key) else None
        return f"{root}/{names.directory(key) if shared is None else os.path.dirname(shared)}"

    @contextmanager
    def _writing(self, root: str, key: Key) -> Iterator[None]:
        directory = self._directory(root, key)
        with locks.quiet(), disk.locked(directory):
            journal.settle(root, wait=True)
            if directory not in self._swept:
                disk.sweep(directory)
                self._swept.add(directory)
            yield

    def _store(self, root: str, changes: Sequence[Change]) -> list[Published]:
        """Write documents of one scope, as its lock's owner; what was kept instead is left out."""
        return self._put(self._prepare(root, changes))

    @staticmethod
    def _put(prepared: Prepared) -> list[Published]:
        outputs, published, moved = prepared
        written = disk.write_all(outputs)
        for path in moved:  # What stood under our own name is now under the one that the original sees.
            with suppress(FileNotFoundError):
                os.unlink(path)
        return [new for new, is_written in zip(published, written, strict=True) if is_written]

    def _prepare(self, root: str, changes: Sequence[Change], priors: Sequence[Prior] | None = None) -> Prepared:
        outputs: list[disk.Output] = []
        published: list[Published] = []
        moved: list[str] = []
        for index, change in enumerate(changes):
            key, place = change.key, _place(change.key)
            prior = self._prior(root, key, place) if priors is None else priors[index]
            if prior.record.exists and key.domain.on_conflict is OnConflict.KEEP:
                continue
            rev, stamp = prior.record.rev + 1, Stamp(prior.record.rev + 1, change.when)
            if place.shared is not None:
                ours, place = place.path, _Place(sharing.place_for(root, key, place.shared))
                if place.path != ours:
                    stamp = stamp._replace(owner=sharing.owner(key))
                    moved.append(f"{root}/{ours}")
            outputs.append(_output(root, place, key.domain, change.payload, stamp, prior))
            record = Record(key, rev, change.payload, change.when, change.removed, place.path)
            published.append(Published(record, "remove" if change.removed else "upsert", change.body))
        return Prepared(outputs, published, moved)

    def _find_prior(self, root: str, key: Key) -> Prior:
        """What is stored under a key; one that cannot be read counts as none."""
        return self._prior(root, key, _place(key))

    def _prior(self, root: str, key: Key, place: _Place) -> Prior:
        """What is stored now. Unreadable bytes get a second name first, because the write will replace them."""
        try:
            return Prior(self._load(root, key, place))
        except CorruptData:
            found = self._find(root, key, place)
            kept = disk.set_aside(f"{root}/{place.path if found is None or place.shared is None else found.path}")
            logger.warning("%s: an unreadable file is replaced; its bytes are kept as %s", key, kept or place.original)
            return Prior(Record(key), is_corrupt=True)


class _Series(NamedTuple):
    """The directories of a series: ours, and the original's if it is another and exists."""

    directory: str
    original: str | None

    def at(self, moment: int) -> _Place:
        name = f"{moment}{names.EXTENSION}"
        return _Place(f"{self.directory}/{name}", f"{self.original}/{name}" if self.original is not None else None)

    def times(self, root: str, since: int, until: int) -> list[int]:
        """Listed times in a range, ascending."""
        directories = (self.directory,) if self.original is None else (self.directory, self.original)
        listed = {name for where in directories for name, _ in disk.listing(f"{root}/{where}", timed=False)}
        moments = (int(name) for name in listed if name.removeprefix("-").isdecimal())
        return sorted(moment for moment in moments if since <= moment < until)


@lru_cache(maxsize=4096)
def _place(key: Key) -> _Place:
    return _Place(names.path(key), names.original_path(key), sharing.shared_path(key))


def _expected_times(scope: Key, since: int, until: int) -> list[int] | None:
    """The times of a range, unless they are many: a series' scope ends in its interval."""
    grid = find_grid(str(scope.item))
    if grid is None or grid.count(since, until) > PROBES_MAX:
        return None
    times: list[int] = grid.times(since, until).tolist()
    return times


def _row(record: Record) -> dict[str, Any]:
    """A row of a series as plain data, without what else a foreign file may hold."""
    return {"timestamp": record.key.item, **{name: record.payload[name] for name in record.key.domain.fields}}


def _output(root: str, place: _Place, domain: Domain, payload: Any, stamp: Stamp, prior: Prior) -> disk.Output:
    keep = domain.on_conflict is OnConflict.KEEP and not prior.is_corrupt
    content = seal(encode(payload, domain.model), stamp)
    return disk.Output(f"{root}/{place.path}", content, exclusive=keep, forced=not domain.remade)
