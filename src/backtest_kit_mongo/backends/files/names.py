r"""Names of files: the original's `dump` layout, made reversible and free of collisions.

The levels of a domain's layout become directories and a file name. The original joins key parts with `_` as they are,
so two contexts can mean one file, a `/` leads elsewhere and `..` leads outside. Here each part is escaped first (where
only `_` had to be, the file may stand under the original's name all the same: `sharing.py`):

    %XX     control characters and  % ~ / \ < > : " | ? *  and a dot in front, and a dot or a blank at the end
    %5F     `_`, where a level joins more than one column: its name then has exactly one raw `_` between two parts
    %2Ejson a directory's `.json` at its end, so that no directory is taken for a file
    %       an empty part that is alone in its level

A name of more than 200 bytes is cut into nested directories that end in `~` (a file system's limit is 255 bytes; a hash
would lose the id that a listing has to give back). Escaped names never start with a dot, so none looks like a temporary
file. On a file system that ignores case or normalizes Unicode, ids that differ only therein meet.

`original_path` is where the original would have put the same document, if that is elsewhere and below the base.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from backtest_kit_mongo.backends.files.layout import Level, layout
from backtest_kit_mongo.coherence.keys import text
from backtest_kit_mongo.coherence.record import Key, Part

EXTENSION: Final = ".json"
TEMPORARY: Final = ".tmp-"
"""What the original's temporary files start with, and ours."""
CONTINUED: Final = "~"

_CHUNK_BYTES: Final = 200
"""Leaves room for `.tmp-`, 12 hex digits and an extension below 255."""
_NAME_MAX_BYTES: Final = 255
_EMPTY: Final = "%"

_ALWAYS: Final = r'[\x00-\x1f\x7f%~/\\<>:"|?*]|\A\.|[. ]\Z'
_UNSAFE: Final = re.compile(_ALWAYS)
_UNSAFE_JOINED: Final = re.compile(f"{_ALWAYS}|_")
_ESCAPED: Final = re.compile("%([0-9A-F]{2})")
_DIRECTORY_LIKE_A_FILE: Final = re.compile(r"\.(?=json\Z)", re.IGNORECASE)
_TOKEN: Final = re.compile(r"\d+|[^\W\d_]+|[\W_]+")


def directory(key: Key) -> str:
    """The directory of a document or scope, relative to the base."""
    parts = key.query()
    levels = layout(key.domain).directories
    return "/".join(chunk for level in levels for chunk in _chunks(_directory_name(level, parts)))


def path(key: Key) -> str:
    """The file of a document, relative to the base."""
    return f"{directory(key)}/{chunked(_name(layout(key.domain).file, key.query()))}{EXTENSION}"


def original_directory(key: Key) -> str | None:
    """Where the original keeps a scope; None if that is not a plain place below the base."""
    parts = key.query()
    names = (original_name(level, parts) for level in layout(key.domain).directories)
    return _reachable("/".join(name for name in names if name is not None))


def original_path(key: Key) -> str | None:
    """Where the original keeps a document; None if that is `path(key)`, or not a plain place below the base."""
    where = original_directory(key)
    found = where and _reachable(f"{where}/{original_name(layout(key.domain).file, key.query())}{EXTENSION}")
    return None if not found or found == path(key) else found


def item(name: str) -> str | None:
    """The id in a file's name (relative to its scope, without extension); None if `path` would never give this name."""
    found = unescape(name.replace(f"{CONTINUED}/", ""))
    return found if chunked(escape(found)) == name else None


def escape(part: str) -> str:
    """The name of a part that is alone in its level."""
    return _escape(part, _UNSAFE) or _EMPTY


def unescape(name: str) -> str:
    """The part that `escape` made a name of."""
    return "" if name == _EMPTY else _ESCAPED.sub(lambda found: chr(int(found[1], 16)), name)


def _escape(part: str, unsafe: re.Pattern[str]) -> str:
    return unsafe.sub(lambda found: f"%{ord(found[0]):02X}", part)


def _present(level: Level, parts: dict[str, Part]) -> list[str]:
    return [text(parts[name]) for name in level.columns if not (name in level.optional and parts[name] == "")]


def _name(level: Level, parts: dict[str, Part]) -> str:
    """Empty only if all columns of the level are optional and absent: the level then does not exist."""
    if level.literal:
        return level.literal
    if len(level.columns) == 1:
        return "".join(map(escape, _present(level, parts)))
    return "_".join(_escape(part, _UNSAFE_JOINED) for part in _present(level, parts))


def _directory_name(level: Level, parts: dict[str, Part]) -> str:
    return _DIRECTORY_LIKE_A_FILE.sub("%2E", _name(level, parts))


def chunked(name: str) -> str:
    """A name of any length as a path."""
    return "/".join(_chunks(name))


def _chunks(name: str) -> list[str]:
    data = name.encode()
    if len(data) <= _CHUNK_BYTES:
        return [name] if name else []
    # No chunk may start with a dot, wherever the cuts fall.
    data = name.replace(".", "%2E").encode()
    chunks, start = [], 0
    while start < len(data):
        end = min(start + _CHUNK_BYTES, len(data))
        while end < len(data) and data[end] & 0xC0 == 0x80:  # inside a character
            end -= 1
        chunks.append(data[start:end].decode())
        start = end
    return [*(f"{chunk}{CONTINUED}" for chunk in chunks[:-1]), chunks[-1]]


def original_name(level: Level, parts: dict[str, Part]) -> str | None:
    if level.literal:
        return level.literal
    present = _present(level, parts)
    return "_".join(present) if present else None


def _reachable(where: str) -> str | None:
    """The place, unless it leads outside the base, is a temporary file's, or cannot exist."""
    for name in where.split("/"):
        if name in ("", ".", "..") or name.startswith(TEMPORARY) or len(name.encode()) > _NAME_MAX_BYTES:
            return None
    return None if "\0" in where else where


def natural_order(part: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key in the original's order: numbers by value, letters whatever their case and accent, punctuation first."""
    decomposed = unicodedata.normalize("NFKD", part.casefold())
    bare = "".join(char for char in decomposed if not unicodedata.combining(char))
    return [_token(found) for found in _TOKEN.findall(bare)], part


def _token(found: str) -> tuple[int, int, str]:
    if found[0].isdecimal():
        return 1, int(found), ""
    return (2 if found[0].isalpha() else 0), 0, found
