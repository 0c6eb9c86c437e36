"""Live bots under SIGKILL and SIGSTOP, beside real servers: positions, orders and money are what they would have been.

`desk.py` is the world that outlives a bot (clock, exchange, broker, in one SQLite file), `plan.py` the strategy,
`child.py` a bot's process, `campaign.py` kills it, `verdict.py` compares with an undisturbed replay.
"""
