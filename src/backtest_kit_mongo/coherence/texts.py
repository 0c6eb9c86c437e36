"""Texts that name something: what every server can hold."""

from __future__ import annotations

from typing import Any

from backtest_kit_mongo.coherence.codec import plain_scalar
from backtest_kit_mongo.errors import InvalidKey

__all__ = ["plain_text"]


def plain_text(given: Any, name: str) -> str:
    """A text that names something; one of another library or of an enumeration becomes plain.

    Raises:
        InvalidKey: it is none, or no valid Unicode.
    """
    text = plain_scalar(given)
    if type(text) is not str:
        raise InvalidKey(f"{name} must be a text, not {type(given).__name__} ({given!r:.80})")
    try:
        if not text.isascii():
            text.encode()
    except UnicodeEncodeError as cause:
        raise InvalidKey(f"{name} is not valid Unicode text: {text!r:.80}") from cause
    return text
