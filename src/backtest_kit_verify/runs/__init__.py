"""Ten thousand runs, by any number of workers, some of them killed, on several hosts: one answer.

study.py      a strategy and its candles, made up
way.py        one way to do the study, in a process of its own
killing.py    SIGKILL for a share of the workers
campaign.py   the study in many ways, and the verdict
"""
