"""The npm package's own cache keys. With CC_CACHE_MODE=id they are kept up to date: only `_id` stands under them, and
it is only written.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from backtest_kit_mongo.coherence.keys import text
from backtest_kit_mongo.coherence.record import Domain, Key

_CONTEXT: Final = "exchangeName strategyName symbol"
_ORDERS: Final = {
    "signal": _CONTEXT,
    "schedule": _CONTEXT,
    "strategy": _CONTEXT,
    "risk": "exchangeName riskName",
    "partial": f"{_CONTEXT} signalId",
    "breakeven": f"{_CONTEXT} signalId",
    "recent": "backtest exchangeName strategyName frameName symbol",
    "session": "exchangeName strategyName frameName symbol backtest",
}
"""The key's columns, where they stand in another order than in the row of the domain table."""


@lru_cache
def template(domain: Domain) -> str:
    """The name of a document's `_id`, as a format string over the key's columns."""
    columns = _ORDERS[domain.name].split() if domain.name in _ORDERS else domain.columns
    return ":".join((f"{domain.name}_cache", *(f"{{{name}}}" for name in columns)))


def name(key: Key) -> str:
    """The name of a document's `_id`, unescaped as there; empty where a part holds a colon, for it would be another
    document's name too.
    """
    if any(":" in text(part) for part in key.parts):
        return ""
    return template(key.domain).format(**{column: text(part) for column, part in key.query().items()})
