"""Keys as people type and read them: `domain/part/part`, as a `Key` prints itself.

A part that contains a slash or a percent sign has it percent-escaped: the signal of BTC/USDT is
`signal/BTC%2FUSDT/trend/binance`. An empty part is nothing between two slashes. The boolean column is written `live` or
`backtest`; `False` and `True` are understood too.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote, unquote

from backtest_kit_mongo.coherence.keys import BACKTEST, LIVE, text
from backtest_kit_mongo.coherence.record import Column, Domain, Key, Part, Shape
from backtest_kit_mongo.domains.table import BY_NAME
from backtest_kit_mongo.errors import InvalidKey

_BOOLEANS = {LIVE: False, "False": False, "false": False, BACKTEST: True, "True": True, "true": True}
_PLAIN = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in "/%")


def columns(domain: Domain) -> tuple[Column, ...]:
    """The columns of a key in the audit log: all of them; of candles those of the series."""
    return domain.key[:-1] if domain.shape is Shape.SERIES else domain.key


def format_key(domain: str, parts: Sequence[Part]) -> str:
    """The text that `parse_key` reads."""
    return "/".join((domain, *(_escaped(text(part)) for part in parts)))


def _escaped(part: str) -> str:
    return "".join(char if ord(char) > 0x7F else quote(char, safe=_PLAIN) for char in part)


def parse_key(written: str) -> Key:
    """Read `domain/part/part`.

    Raises:
        InvalidKey: there is no such domain, or the parts do not fit its columns; the message shows the form.
    """
    name, *texts = written.split("/")
    domain = BY_NAME.get(name)
    if domain is None:
        raise InvalidKey(f"no domain {name!r} in key {written!r}; domains: {', '.join(sorted(BY_NAME))}")
    wanted = columns(domain)
    if len(texts) != len(wanted):
        raise InvalidKey(
            f"key {written!r} has {len(texts)} parts, expected {form(domain)}; write a slash inside a part as %2F"
        )
    return Key(domain, tuple(_part(column, unquote(part), written) for column, part in zip(wanted, texts, strict=True)))


def form(domain: Domain) -> str:
    """What a key of the domain looks like, for messages."""
    return "/".join((domain.name, *(column.name for column in columns(domain))))


def _part(column: Column, written: str, key: str) -> Part:
    if column.type is bool:
        if written not in _BOOLEANS:
            raise InvalidKey(f"{column.name} in key {key!r} must be live or backtest, not {written!r}")
        return _BOOLEANS[written]
    if column.type is int:
        try:
            return int(written)
        except ValueError:
            raise InvalidKey(f"{column.name} in key {key!r} must be a number, not {written!r}") from None
    return written
