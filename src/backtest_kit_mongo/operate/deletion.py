"""Deleting documents for good: which ones belong to what, and how they go.

What hangs on a signal (state, memory, dictionary) has neither strategy nor symbol in its key. It belongs to whatever
its signal belongs to; and where the engine names it after its context, to every part of that name.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from getpass import getuser
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

from backtest_kit_mongo import locks
from backtest_kit_mongo.coherence.effects import Find
from backtest_kit_mongo.coherence.inventory import Selection
from backtest_kit_mongo.coherence.record import Domain, Key, Part, Shape
from backtest_kit_mongo.domains.table import DOMAINS
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.errors import CorruptData

__all__ = ["Belongings", "belongings", "delete", "note"]

logger = locks.logger(__name__)

THREADS: Final = 4
PAGE: Final = 250
"""Documents that are deleted under one lease: a tenth of a second, for which their writers wait."""
WAITING_MAX: Final = 8
"""Pages that are under way or wait for a thread."""
SIGNAL: Final = "signalId"


class Belongings(NamedTuple):
    """What was found.

    Attributes:
        keys: documents.
        series: candles of the symbol, which stay: they are the market's, and `bkm candles remove` is for them.
    """

    keys: list[Key]
    series: list[Key]


def note(why: str) -> dict[str, str]:
    """What a deletion says of itself: the user of this process, and why."""
    try:
        by = getuser()
    except (OSError, KeyError):
        by = "unknown"
    return {"by": by, "why": why}


def belongings(store: Store, chosen: Selection) -> Belongings:
    """The documents of a strategy, a symbol or a run (`chosen.names`), with what hangs on their signals; or those that
    were last written before some time.

    Raises:
        EnvironmentFault: it cannot be found out now.
    """
    store.open()
    keys: list[Key] = []
    series: list[Key] = []
    signals: set[Part] = set()
    for domain in DOMAINS:
        if not chosen.concerns(domain):
            continue
        for entry in store.browse(domain, chosen):
            if domain.shape is Shape.SERIES:
                series.append(entry.key)
                continue
            keys.append(entry.key)
            signals.update(_signals(store, entry.key))
    if chosen.names:
        for domain in DOMAINS:
            if SIGNAL in domain.columns and not chosen.concerns(domain):
                keys += [key for key in _all(store, domain) if _hangs(key, signals, chosen)]
    return Belongings(keys, series)


def _all(store: Store, domain: Domain) -> Iterator[Key]:
    return (entry.key for entry in store.browse(domain))


def _signals(store: Store, key: Key) -> Iterator[Part]:
    parts = key.query()
    if SIGNAL in parts:
        yield parts[SIGNAL]
    elif "strategyName" in parts:
        try:
            payload: Any = store.truth.find(Find(key)).payload
        except CorruptData as cause:
            logger.warning("%s; what hangs on its signal is not known, and is not deleted with it", cause)
            return
        if isinstance(payload, dict) and isinstance(payload.get("id"), str):
            yield payload["id"]


def _hangs(key: Key, signals: set[Part], chosen: Selection) -> bool:
    signal = str(key.query()[SIGNAL])
    return signal in signals or all(str(value) in map(unquote, signal.split(":")) for _, value in chosen.names)


def _pages(store: Store, keys: Sequence[Key]) -> Iterator[tuple[Key, ...]]:
    """Keys that are deleted in one go: of one domain, and of one list or partition of the cache."""
    store.open()  # Before it the partitions are not known.
    places: dict[tuple[Domain, object], list[Key]] = {}
    for key in keys:
        is_row = key.domain.shape is Shape.LIST
        places.setdefault((key.domain, key.scope if is_row else store.cache.partition_of(key)), []).append(key)
    for some in places.values():
        for start in range(0, len(some), PAGE):
            yield tuple(some[start : start + PAGE])


def delete(
    store: Store, keys: Sequence[Key], said: dict[str, str], on_done: Callable[[Key], object] = lambda key: None
) -> Counter[str]:
    """Delete these documents for good, some hundreds at a time; how many there were, by domain. When it returns, nobody
    reads one of them. Interrupted, some are gone and the others are whole: run it again.

    Args:
        on_done: told of each.

    Raises:
        WriteOutcomeUnknown, WriteRefused, ServerUnreachable: one could not be deleted; no further one was begun.
    """
    deleted: Counter[str] = Counter()
    under_way: dict[Future[Any], tuple[Key, ...]] = {}
    left = _pages(store, keys)
    with ThreadPoolExecutor(THREADS, thread_name_prefix="bkm-delete") as pool:
        while True:
            while len(under_way) < WAITING_MAX and (page := next(left, None)) is not None:
                under_way[pool.submit(store.delete_all, page, said)] = page
            if not under_way:
                break
            for done in wait(under_way, return_when=FIRST_COMPLETED).done:
                page = under_way.pop(done)
                if done.exception() is not None:
                    left = iter(())
                    pool.shutdown(cancel_futures=True)
                deleted[page[0].domain.name] += sum(one is not None for one in done.result())
                for key in page:
                    on_done(key)
    if store.near is not None and deleted.total():
        time.sleep(store.near.staleness_s)  # Until no process serves a copy of its own (N1), even if it hears nothing.
    return deleted
