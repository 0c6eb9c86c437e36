"""The pages: each a function of what was asked, which returns a template and its values."""

from __future__ import annotations

from typing import Final

from . import audit, candles, letters, overview, positions, proof, runs, signals
from .asking import Answer, Asked, Download, Show

__all__ = ["PAGES", "Answer", "Asked", "Download", "Show"]

PAGES: Final[tuple[tuple[str, str, Show], ...]] = (
    ("/", "Overview", overview.show),
    ("/positions", "Positions", positions.show),
    ("/signals", "Signals", signals.show),
    ("/runs", "Runs", runs.show),
    ("/runs/study", "", runs.show_study),
    ("/runs/run", "", runs.show_run),
    ("/runs/compare", "", runs.compare),
    ("/audit", "Audit", audit.show),
    ("/audit/key", "", audit.show_key),
    ("/audit/proof", "", proof.show),
    ("/audit/proof.zip", "", proof.download),
    ("/audit/growth.proof", "", proof.growth),
    ("/letters", "Dead letters", letters.show),
    ("/letters/one", "", letters.show_one),
    ("/candles", "Candles", candles.show),
    ("/candles/series", "", candles.show_series),
)
"""Address, name in the menu (empty: not in it), and the function."""
