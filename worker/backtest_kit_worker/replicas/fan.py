"""All targets of one process as one: a target that fails keeps the others from nothing."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from backtest_kit_mongo.coherence.record import Domain, Key
from backtest_kit_mongo.errors import BacktestKitError
from backtest_kit_worker.replicas.naming import Raw
from backtest_kit_worker.replicas.state import State, enrol
from backtest_kit_worker.replicas.target import ReplicaFailed, ReplicaUnreachable, Target

logger = logging.getLogger(__name__)


class Fan:
    """Call `begin`, any number of `put`, `finish`. Not thread-safe."""

    def __init__(self, state: State, targets: Sequence[Target]) -> None:
        self._state = state
        self._targets = tuple(targets)
        self._runs: dict[str, str] = {}
        self._failures: dict[str, ReplicaFailed] = {}

    def open(self) -> None:
        """Open what can be reached; the rest is tried again by each `begin`.

        Raises:
            BacktestKitError: a target must not be written to, and waiting will not change that.
        """
        for target in self._targets:
            try:
                self._enrol(target)
            except ReplicaFailed as cause:
                logger.warning("replica: %s", cause)

    def _enrol(self, target: Target) -> None:
        if target.name not in self._runs:
            target.open()
            self._runs[target.name] = enrol(self._state, target).run

    def begin(self) -> None:
        """Start a batch."""
        self._failures.clear()
        for target in self._targets:
            try:
                self._enrol(target)
            except ReplicaFailed as cause:
                self._failures[target.name] = cause
            except BacktestKitError as cause:
                # Of the target, not of the batch: that must be held until an operator has set the target right.
                self._failures[target.name] = ReplicaUnreachable(str(cause))

    def put(self, domain: Domain, documents: Sequence[Raw]) -> int:
        """Write to every target that has not failed in this batch; returns the most that one of them had not yet."""
        written = 0
        for target in self._targets:
            if target.name not in self._failures:
                try:
                    written = max(written, target.put(domain, documents))
                except ReplicaFailed as cause:
                    self._failures[target.name] = cause
        return written

    def forget(self, domain: Domain, documents: Mapping[str, Key]) -> None:
        """Discard the copies of those documents (by `_id`) that the source no longer has."""
        for target in self._targets:
            if target.name not in self._failures:
                try:
                    named = [target.named_by(domain, key, document) for document, key in documents.items()]
                    # Not on the event's word alone: a path may be a newer document's of the same key.
                    target.discard(domain, target.absent(domain, named))
                except ReplicaFailed as cause:
                    self._failures[target.name] = cause

    def finish(self) -> None:
        """End a batch: when this returns, it is durable in every target.

        Raises:
            ReplicaFailed: a target failed, or another replica has taken its place. Deliver the batch again.
        """
        for target in self._targets:
            if target.name in self._runs and self._state.run(target.name) != self._runs[target.name]:
                # A copy begun after this check sees what was just applied; one begun before may have passed it by.
                del self._runs[target.name]
                self._failures[target.name] = ReplicaUnreachable(
                    f"a new copy to the {target.name} replica was begun; the batch is delivered again"
                )
        # While one is away it is not known whether another's refusal will last.
        for failure in sorted(self._failures.values(), key=lambda one: not isinstance(one, ReplicaUnreachable)):
            raise failure
