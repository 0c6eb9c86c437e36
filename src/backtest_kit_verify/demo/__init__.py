"""`bkm demo`: several processes, as stand-ins for hosts, trade real candles on paper and share one database.

strategy.py is a strategy file as anybody writes one; host.py a process that trades it, minute after minute, as fast as
its store lets it; fleet.py starts, kills and restarts them; evidence.py collects what they left behind, checks.py says
what must be true of it; run.py is the whole demo and report.py what it shows.
"""

from backtest_kit_verify.demo.errors import DemoError

__all__ = ["DemoError"]
