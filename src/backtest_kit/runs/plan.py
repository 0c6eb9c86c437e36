"""A study as runs: which there are, and the id of each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import backtest_kit_mongo as bk
from backtest_kit.declare import Frame
from backtest_kit.errors import DeclarationError
from backtest_kit.fleet import FleetMarket
from backtest_kit.identity import digest
from backtest_kit.leases import make_leases
from backtest_kit.market import Market
from backtest_kit.rules import DEFAULT, Rules
from backtest_kit.running import RUNS_DIRECTORY, Job, choose
from backtest_kit.runs.code import Source, source_of
from backtest_kit.runs.params import Params, combinations, require_taken
from backtest_kit.runs.series import SeriesFiles

__all__ = ["Plan", "Run", "make_plan", "market_of", "package_version"]

BACKFILL_LEASE_MS: Final = 60_000
PATIENCE_S: Final = 900.0
"""Years of candles take an exchange minutes."""


@dataclass(frozen=True, slots=True)
class Run:
    """One backtest with everything chosen.

    Attributes:
        run_id: 32 hexadecimal characters: the same run has the same id on every host.
        start, end: first and last simulated minute, epoch ms.
        candles: fingerprint of its one-minute candles.
    """

    run_id: str
    params: Params
    symbol: str
    frame: str
    start: int
    end: int
    candles: str

    @property
    def framed(self) -> Frame:
        return Frame(self.frame, self.start, self.end)


@dataclass(frozen=True, slots=True)
class Plan:
    """All runs of a study.

    Attributes:
        notes: what was filled or left out of the candles.
    """

    study: str
    source: Source
    exchange: str
    rules: Rules
    fill_gaps: bool
    runs: tuple[Run, ...]
    notes: tuple[str, ...]

    @property
    def code(self) -> str:
        return self.source.code


def make_plan(
    strategy: Any,
    *,
    params: Any,
    symbols: str | Iterable[str],
    frame: Any = None,
    exchange: Any = None,
    study: str | None = None,
    samples: int | None = None,
    rules: Rules = DEFAULT,
    fill_gaps: bool = False,
) -> Plan:
    """Check everything that can be checked before a run, read the candles, and name the runs.

    Raises:
        DeclarationError: something does not fit; the message says what.
        CandlesMissing: of a symbol.
    """
    names, files = _symbols(symbols), SeriesFiles()
    found = combinations(params, samples)
    frames: Sequence[Any] = frame if isinstance(frame, list) else [frame]
    with bk.keeping_blocks(files.directory):
        jobs = [
            choose(
                symbol, "backtest", strategy=strategy, exchange=exchange, frame=one, rules=rules, fill_gaps=fill_gaps
            )
            for symbol in names
            for one in frames
        ]
        first = jobs[0]
        require_taken(first.strategy, found)
        source, notes = source_of(first.strategy), dict[str, None]()
        candles = [_candles(job, files, notes) for job in jobs]
    texts = [json.dumps(one, sort_keys=True, ensure_ascii=True) for one in found]
    ruled = json.dumps(asdict(rules), sort_keys=True)
    runs: dict[str, Run] = {}
    for job, kept in zip(jobs, candles, strict=True):
        for one, text in zip(found, texts, strict=True):
            run = _run(job, source, one, kept, text, ruled)
            runs.setdefault(run.run_id, run)
    title = f"{first.strategy.name}-{source.code[:8]}" if study is None else study
    _require_title(title)
    return Plan(title, source, first.exchange.name, rules, fill_gaps, tuple(runs.values()), tuple(notes))


def _symbols(symbols: Any) -> list[str]:
    names = [symbols] if isinstance(symbols, str) else list(symbols)
    if not names:
        raise DeclarationError("symbols= names none; a run needs one, as symbols=['BTCUSDT']. Nothing was run.")
    return list(dict.fromkeys(names))


def _require_title(title: object) -> None:
    if not isinstance(title, str) or not title.strip() or not title.isprintable() or len(title) > 100:
        raise DeclarationError(f"a study is named by up to 100 printable characters, not {title!r:.60}")


def _candles(job: Job, files: SeriesFiles, notes: dict[str, None]) -> str:
    frame = job.frame
    assert frame is not None
    with bk.in_mode("backtest", RUNS_DIRECTORY / "plan"), bk.simulation_time(None):
        market = market_of(job)
        series = market.minutes(frame.start, frame.end, job.rules.vwap_candles)
    notes.update(dict.fromkeys(f"{job.symbol}: {note}" for note in market.notes))
    return files.put(series)


def market_of(job: Job) -> Market:
    """Its candles; of all hosts that lack some, one asks the exchange."""
    if job.exchange.get_candles is None and job.exchange.ccxt is None:
        return Market(job.exchange, job.symbol, fill_gaps=job.fill_gaps)
    leases = make_leases()
    return FleetMarket(
        job.exchange, job.symbol, leases, fill_gaps=job.fill_gaps, lease_ms=BACKFILL_LEASE_MS, patience_s=PATIENCE_S
    )


def _run(job: Job, source: Source, params: Params, candles: str, reported: str, ruled: str) -> Run:
    """`reported` and `ruled` are its parameters and rules as texts."""
    frame = job.frame
    assert frame is not None
    run_id = digest(
        "run", source.strategy, source.code, reported, job.symbol, job.exchange.name, frame.name, frame.start,
        frame.end, candles, ruled, package_version(),
    )  # fmt: skip
    return Run(run_id, params, job.symbol, frame.name, frame.start, frame.end, candles)


@lru_cache(maxsize=1)
def package_version() -> str:
    """Of this package; another one may trade otherwise."""
    try:
        return version("backtest-kit-mongo")
    except PackageNotFoundError:
        return "unknown"
