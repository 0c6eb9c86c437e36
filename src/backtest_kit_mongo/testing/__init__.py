"""What a backend's author needs to prove a backend: the conformance suite and example payloads of all domains. Needs pytest."""

import pytest

# Before anything below is imported: assertions in modules that are not test files explain themselves only if asked to.
pytest.register_assert_rewrite("backtest_kit_mongo.testing.spots", "backtest_kit_mongo.testing.suites")
