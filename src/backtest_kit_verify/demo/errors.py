"""The one error of the demo."""

__all__ = ["DemoError"]


class DemoError(Exception):
    """The demo cannot go on: its input is unusable or one of its processes hangs. The message says what to do."""
