"""The chapters of the conformance suite. `conformance.py` binds them together."""
