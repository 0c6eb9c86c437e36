"""`python -m backtest_kit_verify.engine --help`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer

from backtest_kit.rules import DEFAULT
from backtest_kit.vectors import load
from backtest_kit_verify.engine.campaign import Tally, crash_everywhere
from backtest_kit_verify.engine.planted import BUGS
from backtest_kit_verify.engine.scripted import live_differs
from backtest_kit_verify.engine.world import Row


def main(
    files: Annotated[list[Path], typer.Argument(help="Vectors, as `python -m backtest_kit.vectors` reads them.")],
    every: Annotated[int, typer.Option(min=1, help="Stop after every n-th effect.")] = 1,
    last: Annotated[int | None, typer.Option(help="Only the first minutes of each vector.")] = None,
    planted: Annotated[bool, typer.Option(help="Find the planted mistakes instead.")] = False,
    live: Annotated[bool, typer.Option(help="Compare a live run by a scripted clock with a replay instead.")] = False,
) -> None:
    """Stop a durable lifecycle after every effect, start it again, and check L1 to L8. Exit status 1: violations."""
    vectors = [vector for file in files for vector in load(file)]
    if live:
        raise typer.Exit(_live(vectors))
    if planted:
        raise typer.Exit(_planted(vectors, every, last))
    raise typer.Exit(_stops(vectors, every, last))


def _live(vectors: Sequence[Row]) -> int:
    found = [f"vector {vector.get('seed')}: {line}" for vector in vectors for line in live_differs(vector)]
    for line in found:
        typer.echo(line, err=True)
    typer.echo(f"{len(vectors)} vectors lived and replayed: {len(found)} differ")
    return 1 if found else 0


def _planted(vectors: Sequence[Row], every: int, last: int | None) -> int:
    missed = 0
    for name, bug in BUGS.items():
        tally = Tally()
        for vector in vectors:
            if not tally.violations:
                crash_everywhere(vector, DEFAULT, tally, every=every, last=last, process_class=bug)
        missed += not tally.violations
        said = f"found after {tally.points} stops" if tally.violations else f"MISSED in {tally.points} stops"
        typer.echo(f"{name}: {said}")
    typer.echo(f"{len(BUGS) - missed} of {len(BUGS)} planted mistakes found")
    return 1 if missed else 0


def _stops(vectors: Sequence[Row], every: int, last: int | None) -> int:
    began, tally = perf_counter(), Tally()
    for vector in vectors:
        crash_everywhere(vector, DEFAULT, tally, every=every, last=last)
        if tally.violations:
            for violation in tally.violations:
                typer.echo(violation, err=True)
            return 1
    typer.echo(
        f"{tally.vectors} vectors, {tally.points} stops, {tally.restarts} restarts ({tally.lost} lost an answer that "
        "was "
        f"not stored): no violation of L1 to L8 in {perf_counter() - began:.0f} s"
    )
    return 0


if __name__ == "__main__":
    typer.run(main)
