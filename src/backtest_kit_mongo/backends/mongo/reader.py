"""MongoDB as it is: for looking at a database that others use, or that this package would refuse."""

from __future__ import annotations

from typing import Any

from pymongo.collection import Collection

from backtest_kit_mongo.backends.mongo.documents import MongoTruth
from backtest_kit_mongo.coherence.record import Domain


class MongoReader(MongoTruth):
    """Reads only. Nothing is prepared, so its writes would not be safe."""

    def _prepare(self, collections: dict[Domain, Collection[dict[str, Any]]]) -> None:
        """Builds no index, and needs none."""
