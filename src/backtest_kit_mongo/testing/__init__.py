"""What a backend's author needs to prove a backend: the conformance suite (which needs pytest) and example payloads."""

import sys

if (pytest := sys.modules.get("pytest")) is not None:
    # Before anything below is imported: assertions in modules that are not test files explain themselves only if asked
    # to. Not imported here, because `bkm` uses the examples and is installed without pytest.
    pytest.register_assert_rewrite("backtest_kit_mongo.testing.handles", "backtest_kit_mongo.testing.suites")
