"""Imported before the suites: assertions in modules that are not test files explain themselves only if pytest is asked first."""

import pytest

pytest.register_assert_rewrite("backtest_kit_mongo.testing.spots", "backtest_kit_mongo.testing.suites")
