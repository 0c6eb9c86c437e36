"""The one error of the chaos run."""

__all__ = ["ChaosError"]


class ChaosError(Exception):
    """The run cannot go on, and so has no verdict: a server did not come back or a process hangs. The message says
    which.
    """
