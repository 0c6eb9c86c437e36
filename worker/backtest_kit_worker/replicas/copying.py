"""The copy of everything that was there before the first event: a scan in `_id` order, beside the role that applies
events.

A step copies some documents, then records the last `_id`. A crash between the two repeats the step, which changes
nothing; so do two processes that copy at once. Documents inserted behind the scan, and changes of what it has passed,
come as events: their consumer group exists before the scan starts, and recovery republishes what the feed loses.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import redis

from backtest_kit_mongo.backends.mongo.layout import collection_of
from backtest_kit_mongo.caches import identity_document
from backtest_kit_mongo.coherence.record import Domain
from backtest_kit_mongo.domains.table import DOMAINS
from backtest_kit_mongo.errors import BacktestKitError, CallerError, CorruptData
from backtest_kit_worker.deployment import Deployment
from backtest_kit_worker.replicas import replicas_of
from backtest_kit_worker.replicas.comparing import Comparer
from backtest_kit_worker.replicas.naming import Raw
from backtest_kit_worker.replicas.source import Source
from backtest_kit_worker.replicas.state import Copy, Part, State, enrol
from backtest_kit_worker.replicas.target import ReplicaFailed, Target
from backtest_kit_worker.services import Service

logger = logging.getLogger(__name__)

GROUP = "replica"


class CopyService(Service):
    """Fills the targets, one bounded step at a time.

    Args:
        targets: by default those that the CC_REPLICA_ variables name.

    Raises:
        InvalidSetting: no target is configured, or a variable has a wrong value.
    """

    name = "replica-copy"
    interval_ms = 10_000

    def __init__(self, deployment: Deployment, targets: Sequence[Target] | None = None) -> None:
        self._source = Source(deployment.database, deployment.settings.mongo_bound_ms)
        self._state = State(deployment.database)
        self._redis: Any = deployment.redis
        self._streams = deployment.streams
        self._targets = tuple(replicas_of(deployment) if targets is None else targets)
        self._runs: dict[str, str] = {}
        self._identity = identity_document(deployment.settings, lambda: deployment.mongo)

    def open(self) -> None:
        """Make sure of the consumer group: a change behind the scan must not be trimmed before the role sees it.

        Raises:
            RedisError: nothing was copied.
        """
        for stream in self._streams:
            try:
                self._redis.xgroup_create(stream, GROUP, id="0", mkstream=True)
            except redis.ResponseError as cause:
                if not str(cause).startswith("BUSYGROUP"):
                    raise

    def close(self) -> None:
        for target in self._targets:
            target.close()

    def run_once(self) -> int:
        """Copy some documents to each target that is not complete; returns how many steps were made.

        Raises:
            ReplicaFailed, InvalidSetting: no target could be written to; the first one's reason.
        """
        steps = 0
        failures: list[Exception] = []
        for target in self._targets:
            try:
                steps += self.step(target) or self.follow_restore(target)
            except (ReplicaFailed, BacktestKitError) as cause:
                failures.append(cause)
                logger.warning("replica: the copy to %s pauses: %s", target.place, cause)
        if failures and not steps:
            raise failures[0]
        return steps

    def restart(self, target: Target) -> None:
        """Begin the copy to a target again from the first document."""
        target.open()
        self._runs[target.name] = enrol(self._state, target, again=True).run

    def step(self, target: Target) -> int:
        """Copy one chunk, or find that a domain has no more; 0 if the copy is complete."""
        copy = self._state.copy(target.name)
        if copy is not None and copy.is_complete:
            return 0
        if copy is None or self._runs.get(target.name) != copy.run:
            target.open()
            copy = enrol(self._state, target)
            self._runs[target.name] = copy.run
        domain = next((domain for domain in DOMAINS if not copy.part(domain.name).done), None)
        if domain is None:
            return 0
        self._step(target, copy, domain)
        return 1

    def follow_restore(self, target: Target) -> int:
        """Take one domain back to where a source that was restored is: its revisions are lower than the copies', so
        events alone would change nothing. 0 if there is nothing to follow.
        """
        restores = self._identity.read().get("restores") or [{}]
        newest = str(restores[-1].get("over", ""))
        over, done = self._state.restored(target.name)
        done = done if over == newest else 0
        if not newest or done >= len(DOMAINS):
            return 0
        target.open()
        found = Comparer(self._source, target, repair=True).run([DOMAINS[done]])
        if found.repaired:
            logger.warning(
                "replica: the source was restored; %d copies of %s at %s follow",
                found.repaired, DOMAINS[done].name, target.place,
            )  # fmt: skip
        self._state.set_restored(target.name, newest, done + 1)
        return 1

    def _step(self, target: Target, copy: Copy, domain: Domain) -> None:
        part = copy.part(domain.name)
        documents = self._source.after(domain, part.after)
        if documents:
            skipped = self._put(target, domain, documents)
            copied = part.copied + len(documents) - skipped
            new = Part(documents[-1]["_id"], copied, part.skipped + skipped)
        else:
            new = Part(part.after, part.copied, part.skipped, done=True)
            logger.info("replica: %d documents of %s copied to %s", part.copied, domain.name, target.place)
        self._state.advance(target.name, copy.run, domain.name, new)

    def _put(self, target: Target, domain: Domain, documents: Sequence[Raw]) -> int:
        """Copy documents; returns how many this target cannot hold. One of those must not end the copy of the rest."""
        try:
            target.put(domain, documents)
            return 0
        except (CorruptData, CallerError) as cause:
            if len(documents) == 1:
                logger.error("replica: %s %s is left out: %s", collection_of(domain), documents[0].get("_id"), cause)
                return 1
            return sum(self._put(target, domain, [document]) for document in documents)
