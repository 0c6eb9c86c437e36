"""A payload as the text of a file, and back.

The text is the original's: compact JSON of the entity, for which `JSON.parse` is a sufficient reader. What JSON cannot
say is written so that it stays JSON: an infinity as `1e999` (readers take a number beyond the range for one), NaN as
`{"$numberDouble":"NaN"}`, a date as an ISO string where the payload's model declares one and as `{"$date":"..."}`
elsewhere, bytes as `{"$binary":"<base64>"}`. An object of the caller that looks like one of these three gets one `$`
more, which reading takes off again.

Revision and simulation time follow the JSON as a line of blanks and tabs, one bit each: JSON allows white space at its
end, so a Node reader sees the entity and nothing else. A second file beside the first could not be replaced together
with it, and a member added to the entity would show up in the maps of the original (Partial, Breakeven, Dictionary),
which take every member for data. The line has a fixed length and a checksum, so white space that happens to stand there
is not read as one. A file without it is *foreign*: written, or rewritten, by another program. Only there a null may
stand for an infinity and a whole number for a float.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from datetime import datetime, timedelta
from math import isfinite, isnan, nan
from struct import Struct
from typing import Any, Final, NamedTuple
from zlib import crc32

from backtest_kit_mongo.coherence.codec import EPOCH, millis
from backtest_kit_mongo.coherence.restoring import Restoration, restoration, restore
from backtest_kit_mongo.errors import InvalidPayload


class Stamp(NamedTuple):
    """What a file says besides its entity: how often it was written, the simulation time of the last write in ms, and
    whose it is where several keys have one name.
    """

    rev: int
    when: int | None
    owner: bytes = b""


_HEADER: Final = Struct(">QBq")
_SALT: Final = b"backtest-kit stamp 1"
OWNER_BYTES: Final = 8
_STAMP_BITS: Final = 8 * (_HEADER.size + 4)
_OWNED_BITS: Final = _STAMP_BITS + 8 * OWNER_BYTES
_TO_BLANKS: Final = bytes.maketrans(b"01", b" \t")
_TO_DIGITS: Final = bytes.maketrans(b" \t", b"01")

_TAG: Final = re.compile(r"\$+(?:numberDouble|date|binary)")
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
_HALF_CHARACTER: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_DATE_PLACE: Final = restoration(datetime, "date")
_NO_PLACE: Final = Restoration()

_text = json.JSONEncoder(ensure_ascii=False).encode
_plain_text = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
"""Most payloads are JSON as they are: no infinity, date or bytes, and nothing that looks like a tag."""


def seal(body: bytes, stamp: Stamp) -> bytes:
    """The content of a file."""
    header = _HEADER.pack(stamp.rev, stamp.when is not None, stamp.when or 0) + stamp.owner
    number = int.from_bytes(header + crc32(_SALT + header).to_bytes(4, "big"), "big")
    bits = _OWNED_BITS if stamp.owner else _STAMP_BITS
    return body + b"\n" + f"{number:0{bits}b}".encode().translate(_TO_BLANKS)


def unseal(content: bytes) -> tuple[bytes, Stamp | None]:
    """JSON text and stamp of a file; no stamp if it is foreign."""
    for bits in (_STAMP_BITS, _OWNED_BITS):
        body, line = content[: -bits - 1], content[-bits - 1 :]
        if len(line) <= bits or line[:1] != b"\n" or line[1:].strip(b" \t"):
            continue
        data = int(line[1:].translate(_TO_DIGITS), 2).to_bytes(bits // 8, "big")
        header, checksum = data[:-4], data[-4:]
        if crc32(_SALT + header).to_bytes(4, "big") == checksum:
            rev, has_when, when = _HEADER.unpack_from(header)
            return body, Stamp(rev, when if has_when else None, header[_HEADER.size :])
    return content, None


def encode(payload: Any, model: Any) -> bytes:
    """The JSON text of plain data.

    Raises:
        InvalidPayload: it holds something that is not plain data.
    """
    try:
        text = _plain_text(payload)
        if '"$' not in text and _has_text_names(payload):
            return text.encode()
    except (TypeError, ValueError, RecursionError):
        pass  # It holds what JSON cannot say, or what nobody can.
    out: list[str] = []
    try:
        _write(payload, restoration(model, "date"), out)
        return "".join(out).encode()
    except (TypeError, ValueError, RecursionError) as cause:
        raise InvalidPayload(f"the payload cannot be written as JSON: {cause}. Nothing was written.") from cause


def _has_text_names(payload: Any) -> bool:
    """The encoder would make texts of other names, so that `1` and `"1"` were one."""
    waiting = [payload]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            if any(type(name) is not str for name in one):
                return False
            waiting += [member for member in one.values() if isinstance(member, dict | list | tuple)]
        elif isinstance(one, list | tuple):
            waiting += [member for member in one if isinstance(member, dict | list | tuple)]
    return True


def _write(value: Any, place: Restoration, out: list[str]) -> None:
    """Append the text of a value. `place` says where below it the model declares dates.

    One frame a level, no comprehensions: payloads may be 500 levels deep.
    """
    if isinstance(value, dict):
        out.append("{")
        lone_tag = len(value) == 1 and _TAG.fullmatch(next(iter(value)))
        for name, member in value.items():
            out.append(_text(f"${name}" if lone_tag else _require_text(name)))
            out.append(":")
            _write(member, _below(place, name), out)
            out.append(",")
        _close(out, "}", bool(value))
    elif isinstance(value, list | tuple):
        out.append("[")
        for member in value:
            _write(member, place.each or _NO_PLACE, out)
            out.append(",")
        _close(out, "]", bool(value))
    else:
        out.append(_scalar(value, place))


def _close(out: list[str], bracket: str, after_comma: bool) -> None:
    if after_comma:
        out[-1] = bracket
    else:
        out.append(bracket)


def _require_text(name: Any) -> str:
    if type(name) is not str:
        raise TypeError(f"the key {name!r:.80} is not text")
    return name


def _below(place: Restoration, name: str) -> Restoration:
    if any(leaf[0] == name for leaf in place.leaves):
        return _DATE_PLACE
    return next((inner for branch, inner in place.branches if branch == name), place.each or _NO_PLACE)


def _scalar(value: Any, place: Restoration) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, datetime):
        moment = EPOCH + timedelta(milliseconds=millis(value))
        iso = moment.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"
        return f'"{iso}"' if place.loss else f'{{"$date":"{iso}"}}'
    if isinstance(value, bytes):
        return f'{{"$binary":"{b64encode(value).decode()}"}}'
    raise TypeError(f"a {type(value).__name__} cannot be stored")


def _float(value: float) -> str:
    if isfinite(value):
        return float.__repr__(value)
    if isnan(value):
        return '{"$numberDouble":"NaN"}'
    return "1e999" if value > 0 else "-1e999"


def decode(body: bytes, model: Any, *, foreign: bool) -> Any:
    """The payload that a JSON text means; always a fresh object.

    Raises:
        ValueError, RecursionError: it is not JSON, or too deep.
    """
    hook = _untag if b'"$' in body else None
    if not foreign:
        return restore(json.loads(body.decode(), object_hook=hook), restoration(model, "date"))
    value = json.loads(body.decode(), object_hook=hook, parse_int=_storable_number)
    if _HALF_CHARACTER.search(body):
        # JavaScript may cut a character in two. No UTF-8 has such halves, so the payload could never be stored again.
        value = _whole_characters(value)
    return restore(value, restoration(model, "integer", "infinity", "date"))


def _untag(members: dict[str, Any]) -> Any:
    """What a JSON object stands for; the object itself unless it is exactly one of the tags that `encode` writes."""
    if len(members) != 1:
        return members
    ((name, value),) = members.items()
    if not _TAG.fullmatch(name):
        return members
    if name.startswith("$$"):
        return {name[1:]: value}
    if type(value) is not str:
        return members
    try:
        return _tagged(name, value)
    except ValueError:
        return members


def _tagged(name: str, value: str) -> Any:
    if name == "$binary":
        return b64decode(value, validate=True)
    if name == "$numberDouble" and value == "NaN":
        return nan
    if name == "$date" and _DATE.fullmatch(value):
        return datetime.fromisoformat(value)
    raise ValueError(f"not a tag: {name}")


def _storable_number(digits: str) -> int | float:
    """JavaScript writes floats up to 1e21 as plain digits; integers of more than 64 bits cannot be stored."""
    number = int(digits)
    return number if -(2**63) <= number < 2**64 else float(digits)


def _whole_characters(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_whole_characters(member) for member in value]
    if isinstance(value, dict):
        return {_whole_characters(name): _whole_characters(member) for name, member in value.items()}
    return value
