"""`bkm demo`: several processes, as stand-ins for hosts, replay a small strategy over real candles and share one
database.

strategy.py decides (pure), rows.py says what is written, replay.py is one host's loop, desk.py the two places it can
run
against: the adapters, or memory. trader.py is a host's process; fleet.py runs, kills and restarts them; checks.py
    compares
what is stored with the same replay in memory; run.py is the whole demo and report.py what it shows.
"""

from backtest_kit_verify.demo.errors import DemoError

__all__ = ["DemoError"]
