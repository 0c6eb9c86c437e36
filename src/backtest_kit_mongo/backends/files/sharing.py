"""Whose a file is where the original gives several keys one name.

The original joins key parts with `_` as they are: `BTC_my_strategy_okx` is the strategy `my_strategy` on `okx`, or `my`
on `strategy_okx`. Ours would be `BTC_my%5Fstrategy_okx`, which the original never looks for. So a document stands under
the original's name as long as one key alone uses it; the file then says whose it is (`Stamp.owner`), and the directory
of our own name is made beside it, empty, so that this is known even after the original has rewritten the file. A second
key that means the same name keeps apart, under its own.

*Rivals* of a key are the other keys that the original would put into the same file. One of them may need no escape at
all: it has no other name, and takes the file over; what stood there moves to its owner's own name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from hashlib import sha256
from itertools import combinations, islice, pairwise, product
from typing import Final, NamedTuple

from backtest_kit_mongo import locks
from backtest_kit_mongo.backends.files import disk, names
from backtest_kit_mongo.backends.files.json import OWNER_BYTES, Stamp, unseal
from backtest_kit_mongo.backends.files.layout import Level, layout
from backtest_kit_mongo.coherence.keys import BACKTEST, LIVE
from backtest_kit_mongo.coherence.record import Column, Domain, Key, Part

logger = locks.logger(__name__)

RIVALS_MAX: Final = 256
"""More readings of a name than anybody uses; the others are not looked for."""


@lru_cache(maxsize=65_536)
def shared_path(key: Key) -> str | None:
    """The original's path of a key, if ours differs from it by escaped `_` alone, or not at all but others may mean
    it.
    """
    ours = names.path(key)
    plain = ours.replace("%5F", "_")
    if plain == ours:
        return ours if rivals(key) else None
    return plain if names.original_path(key) == plain else None


def owner(key: Key) -> bytes:
    """What a file says of whose it is."""
    return sha256("\0".join(names.escape(str(part)) for part in key.parts).encode()).digest()[:OWNER_BYTES]


@lru_cache(maxsize=65_536)
def rivals(key: Key) -> tuple[Key, ...]:
    """The other keys that the original would put into the same file."""
    parts = key.query()
    levels = layout(key.domain).levels
    if not any(len(level.columns) > 1 for level in levels):
        return ()
    found_of = [list(readings(level, names.original_name(level, parts))) for level in levels if not level.literal]
    keys = (key_of(key.domain, combined) for combined in product(*found_of))
    found = dict.fromkeys(islice((one for one in keys if one is not None), RIVALS_MAX))
    found.pop(key, None)
    return tuple(found)


def readings(level: Level, name: str | None) -> Iterator[dict[str, str]]:
    """Ways to tell the columns of a level from its name."""
    if name is None:
        yield dict.fromkeys(level.columns, "")
        return
    tokens = name.split("_")
    for absent in (frozenset(), level.optional) if level.optional else (frozenset(),):
        columns = [column for column in level.columns if column not in absent]
        if not columns:
            continue
        for cuts in combinations(range(1, len(tokens)), len(columns) - 1):
            edges = (0, *cuts, len(tokens))
            texts = ["_".join(tokens[start:end]) for start, end in pairwise(edges)]
            yield dict.fromkeys(absent, "") | dict(zip(columns, texts, strict=True))


def key_of(domain: Domain, of_levels: tuple[dict[str, str], ...]) -> Key | None:
    """The key of readings of all levels; None if they do not agree."""
    texts: dict[str, str] = {}
    if any(texts.setdefault(name, value) != value for reading in of_levels for name, value in reading.items()):
        return None
    parts = [_part(column, texts.get(column.name, "")) for column in domain.key]
    return Key(domain, tuple(part for part in parts if part is not None)) if None not in parts else None


def _part(column: Column, value: str) -> Part | None:
    if column.type is bool:
        return value == BACKTEST if value in (BACKTEST, LIVE) else None
    if column.type is int:
        return int(value) if value.removeprefix("-").isdecimal() else None
    return value


class Found(NamedTuple):
    """A document's file: where it is relative to the base, its JSON text, and its stamp unless it is foreign."""

    path: str
    body: bytes
    stamp: Stamp | None


def find(root: str, key: Key, shared: str) -> Found | None:
    """The file of a key that has a shared name."""
    ours = names.path(key)
    content = disk.read(f"{root}/{shared}")
    own = disk.read(f"{root}/{ours}") if ours != shared else None
    if content is not None:
        found = Found(shared, *unseal(content))
        if found.stamp is None:
            is_its = _takes(root, key, shared, has_own=own is not None)
        else:
            is_its = found.stamp.owner == (b"" if ours == shared else owner(key))
        if is_its:
            return found
    return None if own is None else Found(ours, *unseal(own))


def _takes(root: str, key: Key, shared: str, *, has_own: bool) -> bool:
    """Whether a file that another program wrote under the shared name is this key's."""
    if not has_own:
        return _claimant(root, key) is None
    own, foreign = (os.stat(f"{root}/{path}").st_mtime_ns for path in (names.path(key), shared))
    return _known_rival(root, key) is None and foreign > own


def place_for(root: str, key: Key, shared: str) -> str:
    """Where a document is written, relative to the base; as owner of the lock of the shared name's directory."""
    ours = names.path(key)
    content = disk.read(f"{root}/{shared}")
    stamp = None if content is None else unseal(content)[1]
    if ours == shared:
        if content is not None:
            _move_away(root, key, shared, stamp)
        return ours
    if stamp is not None:
        if stamp.owner == owner(key):
            return shared
        _say(key, shared, ours)
        return ours
    if _known_rival(root, key) is not None:
        _say(key, shared, ours)
        return ours
    os.makedirs(f"{root}/{names.directory(key)}", exist_ok=True)
    return shared


def _move_away(root: str, key: Key, shared: str, stamp: Stamp | None) -> None:
    """Give a file to the rival that it belongs to."""
    owners = (rival for rival in rivals(key) if stamp is not None and stamp.owner == owner(rival))
    theirs = _claimant(root, key) if stamp is None else next(owners, None)
    if theirs is not None:
        path = names.path(theirs)
        os.makedirs(os.path.dirname(f"{root}/{path}"), exist_ok=True)
        os.replace(f"{root}/{shared}", f"{root}/{path}")
        _say(theirs, shared, path)


@lru_cache(maxsize=1_024)
def _say(key: Key, shared: str, ours: str) -> None:
    logger.warning(
        "%s: another key has the same name %s in the original's layout, so this one is kept apart as %s, where the "
        "original does not look for it", key, shared, ours,
    )  # fmt: skip


def _is_marked(root: str, key: Key) -> bool:
    """Whether a key has a directory of its own name: then it was here."""
    return names.path(key) != shared_path(key) and os.path.isdir(f"{root}/{names.directory(key)}")


def _claimant(root: str, key: Key) -> Key | None:
    """The rival that a foreign file under the shared name belongs to, as far as can be known: it was here, has no file
    under its own name, and this key was not here.
    """
    if _is_marked(root, key):
        return None
    for rival in rivals(key):
        if _is_marked(root, rival) and not os.path.exists(f"{root}/{names.path(rival)}"):
            return rival
    return None


def _known_rival(root: str, key: Key) -> Key | None:
    return next((rival for rival in rivals(key) if _is_marked(root, rival)), None)
