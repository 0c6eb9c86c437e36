"""An upgrade: import paths of earlier releases go on working."""

from __future__ import annotations

import importlib
import logging

import pytest

from backtest_kit_mongo.moved import MOVED


@pytest.mark.parametrize("old", MOVED)
def test_an_old_path_is_the_module_at_its_new_place_and_says_so(old: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        module = importlib.import_module(old)
    assert module is importlib.import_module(MOVED[old])
    assert module.__name__ == module.__spec__.name == MOVED[old]  # type: ignore[union-attr]
    assert f"import {MOVED[old]}" in caplog.text


def test_what_was_below_an_old_package_is_below_the_new_one() -> None:
    old = importlib.import_module("backtest_kit_mongo.stream.event")
    assert old is importlib.import_module("backtest_kit_mongo.feed.consume.event")


def test_the_public_registries_are_found_where_they_were() -> None:
    from backtest_kit_mongo.adapters import REGISTRIES, PersistSignalAdapter

    assert PersistSignalAdapter in REGISTRIES
