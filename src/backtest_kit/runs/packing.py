"""Tables as one text: columns as JSON, compressed. A row of a run stays small, and nothing is lost."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from typing import Any

from backtest_kit.results import Trade

__all__ = ["compressed", "pack", "trades_text", "unpack", "unpack_trades"]


def pack(value: Any) -> str:
    """Base64 of zlib of JSON."""
    return compressed(_json(value))


def compressed(text: bytes) -> str:
    """Base64 of zlib. It may differ from host to host, unlike the text."""
    return base64.b64encode(zlib.compress(text, 6)).decode()


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode()


def unpack(text: str) -> Any:
    """What was packed."""
    return json.loads(zlib.decompress(base64.b64decode(text)))


def trades_text(trades: Sequence[Trade]) -> bytes:
    """Trades by column, as JSON."""
    return _json({name: [getattr(trade, name) for trade in trades] for name in Trade.__slots__})


def unpack_trades(text: str) -> tuple[Trade, ...]:
    """The trades that were packed, of an older version too: what it did not know is None."""
    columns = unpack(text) if text else {"id": []}
    nothing = [None] * len(columns["id"])
    return tuple(Trade(*row) for row in zip(*(columns.get(name, nothing) for name in Trade.__slots__), strict=True))
