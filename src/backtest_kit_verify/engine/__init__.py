"""The engine under stops at every instant: a durable lifecycle, killed after every effect and started again.

    python -m backtest_kit_verify.engine [FILE...]     vectors as `python -m backtest_kit.vectors` reads them

What is checked after every restart, at the end of the minute after the present one:

- L1 at most one signal is open or scheduled. L2 every order reaches the broker once, and no other does.
- L3 each signal has one row in the history, open only if it is. L4 the state is that of an undisturbed run.
- L5 every event was reported, and none that the undisturbed run does not know. L6 nothing was asked for a past minute.
- L7 the places taken in the risk are the open positions. L8 the strategy was asked at most once per slot.

A restart may lose an answer of the strategy that was not stored yet: then nothing may remind of it anywhere.
"""
