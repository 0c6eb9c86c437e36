"""Each test of the front declares for itself and keeps its files to itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import backtest_kit_mongo as bk
from backtest_kit import declare, listening
from backtest_kit_mongo.adapters.registries import REGISTRIES


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory, nothing declared, adapters as they are before `setup()`."""
    monkeypatch.chdir(tmp_path)
    for name in ("MODE", "STRATEGY_FILE", "SYMBOL", "STRATEGY", "EXCHANGE", "FRAME", "CC_MONGO_CONNECTION_STRING"):
        monkeypatch.delenv(name, raising=False)
    for registry in REGISTRIES:
        registry.clear()
    yield tmp_path
    for registry in REGISTRIES:
        registry.use_default()
    bk.set_modes({})
    listening._listeners.clear()
    forget()


def forget() -> None:
    """Nothing is declared any more."""
    declare.strategies.clear()
    declare.exchanges.clear()
    declare.frames.clear()
    declare.risks.clear()
