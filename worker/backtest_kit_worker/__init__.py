"""The worker: consumes the change feed and does all that may happen after a write has returned.

`loop.py` moves entries from a stream to a role and acknowledges them; a role is one file in `roles/`. Every role's
effect is guarded by (document, revision), so redelivery and reordering are harmless.
"""
