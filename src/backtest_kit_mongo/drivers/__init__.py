"""Drivers perform a plan's effects.

`sync.py` is the one that strategies use; an asynchronous one differs by `async` and one `await`.
"""
