"""Replicas: copies of all domain collections in another MongoDB deployment and in a directory of the `dump` layout.

**Events say what changed, the source says what it is now.** For each event the role reads the document from the source
(primary, majority) and copies it byte for byte, createDate and updatedDate included; an event's own payload could give
neither. Reading also folds many changes of one document into one copy. A read that is older than its event comes from a
deposed primary; a linearizable read then makes sure of the primary, and the document is read again.

**Order does not matter.** A copy is written only over an older version of itself. A version is (rev, updatedDate): our
writers raise `rev`, programs that do not know it raise updatedDate. Rows of a series are written once and never again.

**The copy of what was there before** (`copying.py`) scans the source in `_id` order while events are applied. It may
start only after the consumer group exists, so that a change behind the scan is never trimmed unseen.

**A replica belongs to one source and one copy.** Its marker says which. A target that holds data but no marker is
refused, and so is one that is not the target which the copy was made to: two workers with a directory each would
otherwise get half of the changes each.

**A document that is deleted for good** goes by its event, once the source no longer has it. Who was copying it just
then looks again afterwards, so it does not come back.

Not promised: a document that another program deletes stays in the replica until `replica rebuild`; a foreign write
reaches it with the document's next event, or by `rebuild`. `replica compare` finds both.
"""

from __future__ import annotations

from backtest_kit_mongo.errors import InvalidSetting
from backtest_kit_worker.deployment import Deployment
from backtest_kit_worker.replicas.directory import DirectoryTarget
from backtest_kit_worker.replicas.mongo import MongoTarget
from backtest_kit_worker.replicas.settings import ReplicaSettings, load_replicas
from backtest_kit_worker.replicas.source import Source
from backtest_kit_worker.replicas.target import Target


def replicas_of(deployment: Deployment, settings: ReplicaSettings | None = None) -> list[Target]:
    """The targets that are configured; they connect on first use.

    Raises:
        InvalidSetting: none is, or a value is wrong.
    """
    chosen = load_replicas() if settings is None else settings
    bound_ms = deployment.settings.mongo_bound_ms
    source = Source(deployment.database, bound_ms)
    found: list[Target] = []
    if chosen.mongo_connection_string is not None:
        uri = chosen.mongo_connection_string.get_secret_value()
        found.append(MongoTarget(uri, deployment.settings.database, source, bound_ms))
    if chosen.directory is not None:
        found.append(DirectoryTarget(chosen.directory, source))
    if not found:
        raise InvalidSetting(
            "no replica is configured: set CC_REPLICA_MONGO_CONNECTION_STRING (another MongoDB deployment) or "
            "CC_REPLICA_DIRECTORY (a directory in the layout of dump). Nothing was written."
        )
    return found
