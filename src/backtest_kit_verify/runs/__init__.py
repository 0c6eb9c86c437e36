"""Ten thousand runs, by any number of workers, some of them killed: one answer.

study.py      a strategy and its candles, made up
killing.py    SIGKILL for a share of the workers
campaign.py   the same study in many ways, and the verdict
"""
