"""The domains: what each stores (`table.py`), what its payloads are (`payloads/`), and the checks before a write
(`checks.py`).
"""
