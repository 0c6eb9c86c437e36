"""Drivers perform a plan's effects: `drive.py` runs one, `store.py` says who performs what and counts how it ended."""
