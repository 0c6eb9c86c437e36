"""What led to a decision, as Markdown files that a person reads: prompts, answers, tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from backtest_kit.context import Context

__all__ = ["dump"]

ROOT: Final = Path("dump/agent")


class Dump:
    """`bt.dump(ctx, "prompt", text)` writes ./dump/agent/<context>/<topic>/<minute>.md; an existing file stays as it
    is.
    """

    def __init__(self) -> None:
        self._is_on = True

    def use_markdown(self) -> None:
        """Write files. This is the default."""
        self._is_on = True

    def use_dummy(self) -> None:
        """Write nothing."""
        self._is_on = False

    def __call__(self, ctx: Context, topic: str, content: Any, *, name: str = "") -> Path | None:
        """Write a text, a table (dicts of equal keys) or any JSON.

        Args:
            topic: directory; one for each kind of thing.
            name: distinguishes several of one minute.

        Returns:
            The file; None if nothing was written.
        """
        if not self._is_on:
            return None
        file = f"{ctx.now}{'-' + quote(name, safe='') if name else ''}.md"
        path = ROOT / quote(ctx._place.owner, safe=" ") / quote(topic, safe=" ") / file
        if path.exists():
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f"# {topic}\n\n{ctx.symbol}, {ctx.identity.strategy}, {ctx.time}\n\n{_markdown(content)}\n", "utf-8"
        )
        return path


def _markdown(content: Any) -> str:
    if isinstance(content, str):
        return content
    is_table = isinstance(content, Sequence) and content and all(isinstance(row, Mapping) for row in content)
    if is_table:
        names = list(content[0])
        lines = [names, ["---"] * len(names), *([row.get(name, "") for name in names] for row in content)]
        return "\n".join(f"| {' | '.join(str(cell).replace('|', '&#124;') for cell in line)} |" for line in lines)
    return f"```json\n{json.dumps(content, indent=2, default=str, ensure_ascii=False)}\n```"


dump: Final = Dump()
