"""Runs that have a name, a result and an end: one backtest or ten thousand, on one process or many hosts.

params.py       which combinations of parameters
code.py         what a strategy's code is, as a hash
plan.py         a study: strategy, candles and combinations as runs with ids
ledger.py       who does a run, and what came of it
rows.py         its rows in the store, by compare-and-set
series.py       one copy of candles per host
work.py         what a worker does with a batch
sweep.py        hands batches to an executor until nothing is missing
study.py        the answer: table, best, digest, report
"""
