"""The change feed as an operator sees it: where its consumer groups stand (`positions.py`), what may be trimmed
(`trimming.py`) and what was parked (`dead_letters.py`).

The worker does this work; here is what it shares with the command line, which must not import the worker.
"""
