"""Runs of the original engine, made smaller: candles and plans are functions of a seed, its events are a file."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.engine.support import START_MS

MINUTE_MS = 60_000
MINUTES = 480
FILE = Path(__file__).parent / "recorded.json.gz"
ACTS = ("average_buy", "partial_profit", "partial_loss", "breakeven", "trailing_stop", "trailing_take", "close")


def candles(seed: int) -> list[list[float]]:
    """Rows of timestamp, open, high, low, close, volume; they go on after the frame."""
    draw, price, rows = random.Random(seed), (42000.0, 1.25, 180.0)[seed % 3], []
    for minute in range(MINUTES + 400):
        close = round(price * (1 + draw.gauss(0, 0.0012)), 5)
        high = round(max(price, close) * (1 + abs(draw.gauss(0, 0.0005))), 5)
        low = round(min(price, close) * (1 - abs(draw.gauss(0, 0.0005))), 5)
        volume = 0.0 if draw.random() < 0.03 else round(draw.uniform(0.5, 60), 4)
        rows.append([START_MS + minute * MINUTE_MS, price, high, low, close, volume])
        price = close
    return rows


def plan(seed: int, rows: Sequence[Sequence[float]], *, with_acts: bool) -> list[dict[str, Any]]:
    """What is proposed when, in the words of the vectors."""
    draw, entries, minute = random.Random(seed + 1), list[dict[str, Any]](), 12
    while minute < MINUTES - 2:
        long = draw.random() < 0.5
        entry: dict[str, Any] = {"at": START_MS + minute * MINUTE_MS, "position": "long" if long else "short"}
        entry |= {"tp": round(draw.uniform(0.45, 1.5), 3), "sl": round(draw.uniform(0.5, 1.5), 3)}
        entry |= {"minuteEstimatedTime": draw.choice([5, 20, 60, 200]), "note": f"p{len(entries)}"}
        if draw.random() < 0.4:
            offset = draw.uniform(-0.002, 0.004) * (-1 if long else 1)
            entry["priceOpen"] = rows[minute][4] * (1 + offset)
        if with_acts:
            entry["acts"] = sorted((_act(draw) for _ in range(draw.randint(1, 4))), key=lambda act: act["minute"])
        entries.append(entry)
        minute += draw.choice([1, 3, 20, 45])
    return entries


def _act(draw: random.Random) -> dict[str, Any]:
    act: dict[str, Any] = {"minute": draw.choice([1, 2, 5, 9, 16, 30]), "do": draw.choice(ACTS)}
    if act["do"] == "average_buy":
        act["cost"] = draw.choice([50, 200])
    elif act["do"].startswith("partial"):
        act["percent"] = draw.choice([20, 50, 100])
    elif act["do"].startswith("trailing"):
        act["shift"] = draw.choice([-0.4, -0.2, 0.2])
    return act


def vector(seed: int, *, with_acts: bool) -> dict[str, Any]:
    rows = candles(seed)
    frame = {"start": START_MS + 10 * MINUTE_MS, "end": START_MS + MINUTES * MINUTE_MS}
    return {"seed": seed, "frame": frame, "candles": rows, "plan": plan(seed, rows, with_acts=with_acts)}


def vectors() -> list[dict[str, Any]]:
    """Everything that was recorded, whole."""
    with gzip.open(FILE, "rt", encoding="utf-8") as file:
        recorded = json.load(file)
    return [vector(run["seed"], with_acts=run["acts"]) | run["answers"] for run in recorded]
