"""`python -m backtest_kit_verify.engine --help`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer

from backtest_kit.rules import DEFAULT
from backtest_kit.vectors import load
from backtest_kit_verify.engine.campaign import Tally, crash_everywhere, refuse_everywhere
from backtest_kit_verify.engine.planted import BUGS, BUGS_OF_REFUSALS
from backtest_kit_verify.engine.scripted import live_differs
from backtest_kit_verify.engine.world import Row


def main(
    files: Annotated[list[Path], typer.Argument(help="Vectors, as `python -m backtest_kit.vectors` reads them.")],
    every: Annotated[
        int, typer.Option(min=1, help="Stop after every n-th effect; with --refusals: refuse every n-th order.")
    ] = 1,
    last: Annotated[int | None, typer.Option(help="Only the first minutes of each vector.")] = None,
    planted: Annotated[bool, typer.Option(help="Find the planted mistakes instead.")] = False,
    refusals: Annotated[
        bool, typer.Option("--refusals", help="With a broker that refuses each order in turn, stopped around it.")
    ] = False,
    live: Annotated[bool, typer.Option(help="Compare a live run by a scripted clock with a replay instead.")] = False,
) -> None:
    """Stop a durable lifecycle after every effect, start it again, and check L1 to L8. Exit status 1: violations."""
    vectors = [vector for file in files for vector in load(file)]
    if live:
        raise typer.Exit(_live(vectors))
    if planted:
        raise typer.Exit(_planted(vectors, every, last))
    raise typer.Exit(_stops(vectors, every, last, refusals=refusals))


def _live(vectors: Sequence[Row]) -> int:
    found = [f"vector {vector.get('seed')}: {line}" for vector in vectors for line in live_differs(vector)]
    for line in found:
        typer.echo(line, err=True)
    typer.echo(f"{len(vectors)} vectors lived and replayed: {len(found)} differ")
    return 1 if found else 0


def _planted(vectors: Sequence[Row], every: int, last: int | None) -> int:
    missed = count = 0
    for campaign, bugs in ((crash_everywhere, BUGS), (refuse_everywhere, BUGS_OF_REFUSALS)):
        for name, bug in bugs.items():
            tally = Tally()
            for vector in vectors:
                if not tally.violations:
                    campaign(vector, DEFAULT, tally, every=every, last=last, process_class=bug)
            count, missed = count + 1, missed + (not tally.violations)
            said = f"found after {tally.points} stops" if tally.violations else f"MISSED in {tally.points} stops"
            typer.echo(f"{name}: {said}")
    typer.echo(f"{count - missed} of {count} planted mistakes found")
    return 1 if missed else 0


def _stops(vectors: Sequence[Row], every: int, last: int | None, *, refusals: bool) -> int:
    began, tally = perf_counter(), Tally()
    campaign = refuse_everywhere if refusals else crash_everywhere
    for vector in vectors:
        campaign(vector, DEFAULT, tally, every=every, last=last)
        if tally.violations:
            for violation in tally.violations:
                typer.echo(violation, err=True)
            return 1
    refused = f"{tally.refused} orders refused, " if refusals else ""
    typer.echo(
        f"{tally.vectors} vectors, {refused}{tally.points} stops, {tally.restarts} restarts ({tally.lost} lost an "
        f"answer that was not stored): no violation of L1 to L8 in {perf_counter() - began:.0f} s"
    )
    return 0


if __name__ == "__main__":
    typer.run(main)
