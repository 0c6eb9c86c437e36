"""What a worker can do, by name. A role is what is done with change events, one file each here; a service is work that
no event drives, one file each in `services/`. Adding one is adding a file and a line to the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from backtest_kit_mongo.coherence.events import Event
from backtest_kit_mongo.feed.opened import FeedServers
from backtest_kit_worker.deployment import Deployment
from backtest_kit_worker.services import Service


class Role(Protocol):
    """One effect on change events. `name` is also its consumer group, so every role sees every event. A role is a
    subclass: what has a body here it need not have.
    """

    name: str

    def open(self) -> None:
        """Prepare (indexes). May be repeated."""
        return

    def apply(self, events: Sequence[tuple[str, Event]]) -> int:
        """Apply a batch of (stream entry id, event); returns how many were new.

        Events come at least once and in any order; applying one again must change nothing. An exception means that the
        whole batch is delivered again later. A ConnectionError, TimeoutError or a driver's own form of them says that a
        server is away, and nothing about the events; anything else starts a search for the event that causes it.
        """

    def close(self) -> None:
        """Close connections of its own; called when its loop has ended."""
        return

    def unfilled_s(self) -> Mapping[str, float]:
        """By replica that it fills and that is not full: for how long (s) it has not been."""
        return {}


Apply: TypeAlias = Callable[[Sequence[tuple[str, Event]]], int]
"""What `Role.apply` is."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a name in `--roles` stands for: a role, a service, or one of each. A maker returns None where nothing is
    configured for it. Makers import what they make: a worker that only audits needs nothing that replicas need.
    """

    role: Callable[[Deployment], Role | None] | None = None
    service: Callable[[Deployment], Service | None] | None = None


def _audit(deployment: Deployment) -> Role:
    from backtest_kit_worker.roles.audit import AuditRole

    return AuditRole(deployment.database)


def _seal(deployment: Deployment) -> Service:
    from backtest_kit_worker.services.seal import SealService

    return SealService(deployment.database)


def _has_replicas() -> bool:
    from backtest_kit_worker.replicas.settings import load_replicas

    return load_replicas().is_configured


def _replica(deployment: Deployment) -> Role | None:
    from backtest_kit_worker.roles.replica import ReplicaRole

    return ReplicaRole(deployment) if _has_replicas() else None


def _copy(deployment: Deployment) -> Service | None:
    from backtest_kit_worker.replicas.copying import CopyService

    return CopyService(deployment) if _has_replicas() else None


def _invalidation(deployment: Deployment) -> Role | None:
    from backtest_kit_worker.roles.invalidation import InvalidationRole

    return InvalidationRole.build(deployment)


def _recovery(deployment: Deployment) -> Service:
    from backtest_kit_worker.services.recovery import RecoveryService

    return RecoveryService(deployment)


def _verify(deployment: Deployment) -> Service:
    from backtest_kit_worker.services.verify import VerifyService

    servers = FeedServers(deployment.settings, deployment.database, deployment.redis)
    return VerifyService(deployment.database, servers)


def _anchor(deployment: Deployment) -> Service | None:
    from backtest_kit_worker.services.anchor import AnchorService

    return AnchorService.build(deployment)


def _trim(deployment: Deployment) -> Service:
    from backtest_kit_worker.services.trim import TrimService

    return TrimService.build(deployment)


def _blocks(deployment: Deployment) -> Role:
    from backtest_kit_worker.roles.blocks import BlocksRole

    return BlocksRole(deployment)


def _compaction(deployment: Deployment) -> Service:
    from backtest_kit_worker.services.blocks import CompactionService

    return CompactionService(deployment)


TABLE: Final[Mapping[str, Work]] = {
    "audit": Work(_audit, _seal),
    "replica": Work(_replica, _copy),
    "invalidation": Work(_invalidation),
    "recovery": Work(service=_recovery),
    "blocks": Work(_blocks, _compaction),
    "trim": Work(service=_trim),
    "verify": Work(service=_verify),
    "anchor": Work(service=_anchor),
}
NAMES: Final = tuple(TABLE)
"""All that `--roles` knows."""


def build_role(name: str, deployment: Deployment) -> Role | None:
    """The role of a name in `NAMES`; None if the name has none, or none is configured."""
    make = TABLE[name].role
    return make(deployment) if make else None


def build_service(name: str, deployment: Deployment) -> Service | None:
    """The service of a name in `NAMES`; None if the name has none, or none is configured."""
    make = TABLE[name].service
    return make(deployment) if make else None
