"""`python -m backtest_kit_verify.engine --help`."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer

from backtest_kit.rules import DEFAULT
from backtest_kit.vectors import load
from backtest_kit_verify.engine.campaign import Tally, crash_everywhere
from backtest_kit_verify.engine.planted import BUGS


def main(
    files: Annotated[list[Path], typer.Argument(help="Vectors, as `python -m backtest_kit.vectors` reads them.")],
    every: Annotated[int, typer.Option(min=1, help="Stop after every n-th effect.")] = 1,
    last: Annotated[int | None, typer.Option(help="Only the first minutes of each vector.")] = None,
    planted: Annotated[bool, typer.Option(help="Find the planted bugs instead.")] = False,
) -> None:
    """Stop a durable lifecycle after every effect, start it again, and check L1 to L8. Exit status 1: violations."""
    vectors = [vector for file in files for vector in load(file)]
    began = perf_counter()
    if planted:
        missed = 0
        for name, bug in BUGS.items():
            tally = Tally()
            for vector in vectors:
                if not tally.violations:
                    crash_everywhere(vector, DEFAULT, tally, every=every, last=last, process_class=bug)
            missed += not tally.violations
            typer.echo(
                f"{'found ' if tally.violations else 'MISSED'} {name}: {tally.points} stops; {tally.violations[:1]}"
            )
        raise typer.Exit(1 if missed else 0)
    tally = Tally()
    for vector in vectors:
        crash_everywhere(vector, DEFAULT, tally, every=every, last=last)
        for violation in tally.violations:
            typer.echo(violation, err=True)
        if tally.violations:
            raise typer.Exit(1)
    seconds = perf_counter() - began
    typer.echo(
        f"{tally.vectors} vectors, {tally.points} stops, {tally.restarts} restarts ({tally.lost} lost an answer that was "
        f"not stored): no violation of L1 to L8 in {seconds:.0f} s"
    )


if __name__ == "__main__":
    typer.run(main)
