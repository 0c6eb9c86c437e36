"""`bkm simulate`, `bkm chaos` and `bkm demo`."""
