"""Which directories and which file a document of a domain is. It follows from the row of the domain table; where the
original's `dump` has it otherwise, that stands here by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from backtest_kit_mongo.coherence.record import Domain


@dataclass(frozen=True, slots=True)
class Level:
    """One level of a file path: literal text, or columns joined with `_`. Columns in `optional` are left out when
    empty.
    """

    columns: tuple[str, ...] = ()
    literal: str = ""
    optional: frozenset[str] = frozenset()


class Layout(NamedTuple):
    """The directories of a domain's documents, and the file of one."""

    directories: tuple[Level, ...]
    file: Level

    @property
    def levels(self) -> tuple[Level, ...]:
        return (*self.directories, self.file)


def _level(text: str) -> Level:
    """From `name` (literal), `{a}`, or `{a}_{b?}`, where `?` says that it may be absent."""
    if not text.startswith("{"):
        return Level(literal=text)
    names = text[1:-1].split("}_{")
    optional = frozenset(name[:-1] for name in names if name.endswith("?"))
    return Level(tuple(name.removesuffix("?") for name in names), optional=optional)


_CONTEXT: Final = "{symbol}_{strategyName}_{exchangeName}"
_ORIGINAL: Final = {
    "signal": f"data/signal/{_CONTEXT}/{{symbol}}",
    "schedule": f"data/schedule/{_CONTEXT}/{{symbol}}",
    "strategy": f"data/strategy/{_CONTEXT}/strategy",
    "risk": "data/risk/{riskName}_{exchangeName}/positions",
    "partial": f"data/partial/{_CONTEXT}/{{signalId}}",
    "breakeven": f"data/breakeven/{_CONTEXT}/{{signalId}}",
    "candle": "data/candle/{exchangeName}/{symbol}/{interval}/{timestamp}",
    "storage": "data/storage/{backtest}/{signalId}",
    "notification": "data/notification/{backtest}/{notificationId}",
    "log": "data/log/log/{entryId}",
    "measure": "data/measure/{bucket}/{entryKey}",
    "interval": "data/interval/{bucket}/{entryKey}",
    "recent": f"data/recent/{_CONTEXT}_{{frameName?}}_{{backtest}}/{{symbol}}",
    "state": "state/{signalId}/{bucketName}/{bucketName}",
    "session": "session/{strategyName}/{exchangeName}/{frameName?}/{symbol}_{backtest}",
}


@lru_cache
def layout(domain: Domain) -> Layout:
    """A directory of the domain's name, in it one for each column but the last, which names the file; unless the
    original has another.
    """
    usual = "/".join((domain.name, *(f"{{{name}}}" for name in domain.columns)))
    *directories, file = map(_level, _ORIGINAL.get(domain.name, usual).split("/"))
    return Layout(tuple(directories), file)
