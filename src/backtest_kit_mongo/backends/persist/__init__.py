"""Backends of one class: whatever keeps values by id, behind all domains (`docs/backends.md`)."""
