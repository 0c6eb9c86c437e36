"""`python -m backtest_kit_worker`."""

from backtest_kit_worker.cli import main

main()
