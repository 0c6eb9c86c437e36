"""Collections that this package and its worker keep in MongoDB beside the domains' documents: each name once.

| name | a document is | who writes |
|---|---|---|
| audit-items | a record of one (document, revision) | the worker: role audit, recovery |
| audit-pending | the digests of records that are not sealed yet | the role audit; the service seal deletes |
| audit-seals, audit-heads | a seal over a run of records; where each document's chain has come to | service seal |
| candle-blocks, candle-ranges | candles in columns; ranges that wait to become blocks | role and service blocks |
| candle-conflicts | a candle that was offered with other values than the stored one | whoever offered it |
| candle-removals | removed ranges, which raise the generation of their series | `bkm candles remove` |
| cache-identity | the era that Redis belongs to | every process that opens a store |
| engine-leases | which process runs a context of the engine | the engine |
| feed-groups | how far a consumer has read the past | `consume` |
| parked-items | a dead letter: an entry that no role could apply | the worker; `bkm park` |
| parked-items.files, parked-items.chunks | bytes of a dead letter too large for a document (GridFS) | the same |
| recovery-state | where recovery stands in MongoDB's log | service recovery |
| repaired-items | all versions of a document of which there were several | `bkm repair` |
| persist-values | values of `MongoPersist` | whoever chose it for an adapter |
| bkm-restoring | how far a restore has come | `bkm restore`; gone when it is done |
| replica-state | how far a replica was copied | role replica |
| worker-leases, worker-troubles | who leads a service; what stands still | the worker |
"""

from __future__ import annotations

from typing import Final

AUDIT_ITEMS: Final = "audit-items"
AUDIT_PENDING: Final = "audit-pending"
AUDIT_SEALS: Final = "audit-seals"
AUDIT_HEADS: Final = "audit-heads"
CANDLE_BLOCKS: Final = "candle-blocks"
CANDLE_RANGES: Final = "candle-ranges"
CANDLE_CONFLICTS: Final = "candle-conflicts"
CANDLE_REMOVALS: Final = "candle-removals"
CACHE_IDENTITY: Final = "cache-identity"
DOCTOR_SCRATCH: Final = "bkm-doctor"
ENGINE_LEASES: Final = "engine-leases"
FEED_GROUPS: Final = "feed-groups"
PARKED_ITEMS: Final = "parked-items"
PARKED_FILES: Final = f"{PARKED_ITEMS}.files"
PARKED_CHUNKS: Final = f"{PARKED_ITEMS}.chunks"
PERSIST_VALUES: Final = "persist-values"
RECOVERY_STATE: Final = "recovery-state"
REPAIRED_ITEMS: Final = "repaired-items"
REPLICA_STATE: Final = "replica-state"
RESTORING: Final = "bkm-restoring"
WORKER_LEASES: Final = "worker-leases"
WORKER_TROUBLES: Final = "worker-troubles"

ALL: Final = frozenset(name for key, name in dict(vars()).items() if key.isupper())

STAGED: Final = "bkm-restore."
"""In front of a collection's name, as long as it is being restored."""
