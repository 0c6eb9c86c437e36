"""Which read concerns a deployment needs, judged by what it says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from backtest_kit_mongo import locks

logger = locks.logger(__name__)


def is_router(hello: Mapping[str, Any]) -> bool:
    """Whether a mongos answered, with replica sets behind it."""
    return bool(hello.get("msg") == "isdbgrid")


def is_replicated(hello: Mapping[str, Any]) -> bool:
    """Whether writes reach several members, or could."""
    return "setName" in hello or is_router(hello)


def write_concern(given: Mapping[str, Any]) -> WriteConcern:
    """Majority with journal, unless the connection string says otherwise, which is reported."""
    concern = WriteConcern(given.get("w", "majority"), given.get("wtimeout"), given.get("j", True))
    if concern.document.get("w") != "majority" or not concern.document.get("j"):
        logger.warning(
            "the connection string weakens the write concern to %s: a write that returned can be lost",
            concern.document,
        )
    return concern


def has_one_member(hello: Mapping[str, Any]) -> bool:
    """Whether no other member could be elected: such a set's primary is never deposed."""
    return not is_router(hello) and len(hello.get("hosts", ())) <= 1


def read_concerns(
    hello: Mapping[str, Any], writes: WriteConcern, *, foreign_writers: bool = False
) -> tuple[ReadConcern, ReadConcern]:
    """For reads in general, and for those of one document, whose answer may be cached.

    Args:
        foreign_writers: others write too, perhaps acknowledged by one member (the npm package with w:1).
    """
    if foreign_writers and is_replicated(hello):
        # The majority's view lags such a write by the journal's and the other members' time; the primary's own does
        # not, and a linearizable read sees what the primary has and waits until a majority has it too.
        return ReadConcern("local"), ReadConcern("local" if has_one_member(hello) else "linearizable")
    # A write acknowledged by one member is not yet what a majority read sees; such writes are read locally.
    if not is_replicated(hello) or writes.document.get("w") != "majority":
        return ReadConcern("local"), ReadConcern("local")
    # What a reader installs in the cache must be current even if this primary was deposed a moment ago and does not
    # know yet. A set of one cannot be deposed, and there the linearizable no-op write would only cost time.
    return ReadConcern("majority"), ReadConcern("majority" if has_one_member(hello) else "linearizable")
