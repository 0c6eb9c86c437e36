"""Whether a replica equals its source, found while both change.

A difference seen once may be a change on its way. It is looked at again after a moment, and only what is still behind
the state of the first look, or differs in another way, is called a difference.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from backtest_kit_mongo.coherence.record import Domain
from backtest_kit_mongo.domains.table import DOMAINS
from backtest_kit_mongo.errors import CallerError, CorruptData
from backtest_kit_worker.replicas.naming import Raw, identity
from backtest_kit_worker.replicas.source import Source
from backtest_kit_worker.replicas.target import Identity, Seen, Target, Verdict, key_of, version

SHOWN_MAX: Final = 20
SUSPECTS_MAX: Final = 1_000
RECHECK_MS: Final = 1_000


class Difference(NamedTuple):
    """A document whose copy differs, with both revisions (0: there is none)."""

    verdict: Verdict
    name: str
    source_rev: int
    replica_rev: int


@dataclass(slots=True)
class Comparison:
    """What was found. `first` holds the first differences, `counts` all of them."""

    compared: int = 0
    counts: Counter[Verdict] = field(default_factory=Counter)
    first: list[Difference] = field(default_factory=list)
    repaired: int = 0
    unstorable: int = 0
    """Documents that this target cannot hold at all."""

    @property
    def is_equal(self) -> bool:
        return not self.counts and not self.unstorable

    def add(self, difference: Difference) -> None:
        self.counts[difference.verdict] += 1
        if len(self.first) < SHOWN_MAX:
            self.first.append(difference)


class Comparer:
    """Compares one target with the source, in bounded memory.

    Args:
        repair: bring confirmed differences to the source's state; extra copies are removed.
        wait_s: how to wait the moment, a parameter for tests.
        progress: called with how many documents more were compared.
    """

    def __init__(
        self,
        source: Source,
        target: Target,
        *,
        repair: bool = False,
        recheck_ms: int = RECHECK_MS,
        wait_s: Callable[[float], None] = time.sleep,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._source = source
        self._target = target
        self._repair = repair
        self._recheck_s = recheck_ms / 1000
        self._wait_s = wait_s
        self._progress = progress
        self._found = Comparison()

    def run(self, domains: Iterable[Domain] = DOMAINS) -> Comparison:
        """Compare both ways: every document with its copy, and every copy with whether its document exists."""
        for domain in domains:
            self._documents(domain)
            self._extras(domain)
        return self._found

    # -- documents and their copies

    def _documents(self, domain: Domain) -> None:
        suspects: dict[bytes, int] = {}
        last: Any = None
        while documents := self._source.after(domain, last):
            last = documents[-1]["_id"]
            for document, seen in self._look(domain, documents):
                if seen.verdict is not Verdict.SAME:
                    suspects[identity(document)] = version(document).rev
            self._found.compared += len(documents)
            self._progress(len(documents))
            if len(suspects) >= SUSPECTS_MAX:
                self._settle(domain, suspects)
                suspects.clear()
        self._settle(domain, suspects)

    def _look(self, domain: Domain, documents: Sequence[Raw]) -> list[tuple[Raw, Seen]]:
        try:
            return list(zip(documents, self._target.look(domain, documents), strict=True))
        except (CorruptData, CallerError):
            if len(documents) == 1:
                self._found.unstorable += 1
                return []
            return [pair for document in documents for pair in self._look(domain, [document])]

    def _settle(self, domain: Domain, suspects: dict[bytes, int]) -> None:
        if not suspects:
            return
        self._wait_s(self._recheck_s)
        for documents in self._source.by_ids(domain, suspects):
            for document, seen in self._look(domain, documents):
                if self._differs(domain, document, seen, suspects[identity(document)]):
                    difference = Difference(seen.verdict, _name(domain, document), version(document).rev, seen.rev)
                    self._found.add(difference)
                    self._repair_document(domain, document)

    def _differs(self, domain: Domain, document: Raw, seen: Seen, first_rev: int) -> bool:
        if seen.verdict is Verdict.BEHIND:
            # One that has moved beyond what was looked at first is only on its way.
            return seen.rev < first_rev or seen.rev == version(document).rev
        if seen.verdict is Verdict.AHEAD:
            # The copy was read after the document, so it may be of a change in between.
            return seen.rev > max((version(now).rev for now in self._again(domain, document)), default=0)
        return seen.verdict is not Verdict.SAME

    def _again(self, domain: Domain, document: Raw) -> list[Raw]:
        return [now for chunk in self._source.by_ids(domain, [identity(document)]) for now in chunk]

    def _repair_document(self, domain: Domain, document: Raw) -> None:
        """Write the source's state whatever the copy's revision; then what the source has now, because that write may
        have put an older state over one that an event brought meanwhile.
        """
        if self._repair:
            self._target.put(domain, [document], force=True)
            self._target.put(domain, self._again(domain, document))
            self._found.repaired += 1

    # -- copies without a document

    def _extras(self, domain: Domain) -> None:
        suspects: list[Identity] = []
        for identities in self._target.stored(domain):
            suspects.extend(self._target.absent(domain, identities))
            if len(suspects) >= SUSPECTS_MAX:
                self._settle_extras(domain, suspects)
                suspects = []
        self._settle_extras(domain, suspects)

    def _settle_extras(self, domain: Domain, suspects: Sequence[Identity]) -> None:
        # Nothing to wait for: a copy is never made before its document, so one without has none any more.
        extras = self._target.absent(domain, suspects) if suspects else []
        for extra in extras:
            self._found.add(Difference(Verdict.EXTRA, f"{domain.name} {extra}", 0, 0))
        if self._repair and extras:
            # A deposed primary may not know of a document yet; nothing may be removed on its word.
            self._source.fence()
            extras = self._target.absent(domain, extras)
            self._target.discard(domain, extras)
            self._found.repaired += len(extras)


def _name(domain: Domain, document: Raw) -> str:
    try:
        return str(key_of(domain, document))
    except CorruptData:
        return f"{domain.name} {document['_id']}"
