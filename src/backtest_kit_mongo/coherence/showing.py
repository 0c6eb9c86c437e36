"""Names and texts from outside as people may be shown them: nothing in them acts on a terminal or a log."""

from __future__ import annotations

from typing import Final

__all__ = ["shown", "visible"]

SHOWN_MAX: Final = 200
"""Characters of a key part in a message; a part may have as many as a document has room for."""
_ACTED_ON: Final = (
    *(code for code in range(32) if chr(code) not in "\n\t"),
    *range(0x7F, 0xA0),
    *(0x200E, 0x200F, 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xFEFF),
)
"""C0 and C1 controls, and what changes the direction or the line of text. A surrogate is left to the encoding's
escapes.
"""
_VISIBLE: Final = {code: f"\\u{code:04x}" for code in _ACTED_ON}
_ONE_LINE: Final = {**_VISIBLE, **{ord(char): f"\\u{ord(char):04x}" for char in "\n\t"}}


def visible(text: str) -> str:
    """A text whose control characters, but for newline and tab, are escapes, which JSON's strings take too."""
    return text if text.isprintable() else text.translate(_VISIBLE)


def shown(name: str) -> str:
    """A name in one line, cut if it is very long."""
    if len(name) > SHOWN_MAX:
        name = f"{name[:SHOWN_MAX]}... ({len(name):,} characters)"
    return name if name.isprintable() else name.translate(_ONE_LINE)
