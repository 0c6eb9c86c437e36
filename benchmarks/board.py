"""Draws every panel of the Grafana board from real data, for `docs/board.png`.

    python benchmarks/board.py [--seconds 90] [--out docs/board.png]      # the demo again and again, with trouble on
    the way python benchmarks/board.py --url http://127.0.0.1:9090 --minutes 30   # what a Prometheus of yours has seen

Without --url, private servers of the `embedded` extra, two workers and the demo run under a Prometheus (it must be on
PATH). After a third of the time Redis is killed and started again, after two thirds both workers are stopped for some
seconds. Needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# The tests' rig is no part of what is installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.monitoring.rig import BOARD, Watched, ask, watched_demo

from backtest_kit_mongo import embedded

POINTS = 240
TROUBLE_S = 6.0
COLUMNS = 24
LINES_MAX = 8
"""In a legend; more would hide the lines."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=90, help="how long to run the demo")
    parser.add_argument("--url", help="an existing Prometheus")
    parser.add_argument("--minutes", type=float, default=30, help="with --url: how far to look back")
    parser.add_argument("--out", type=Path, default=Path("docs/board.png"))
    arguments = parser.parse_args()
    if arguments.url:
        draw(arguments.url, arguments.minutes * 60, "60s", arguments.out)
    else:
        run_and_draw(arguments.seconds, arguments.out)
    print(arguments.out)


def run_and_draw(seconds: int, out: Path) -> None:
    """A demo with trouble, drawn."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        servers = embedded.up(directory / "servers", die_with_caller=True)
        try:
            with watched_demo(servers, "board", directory, interval="1s", workers=2, repeat=True) as run:
                time.sleep(seconds / 3)
                _without_redis(directory / "servers")
                time.sleep(seconds / 3)
                _without_workers(run)
                time.sleep(seconds / 3)
                draw(run.prometheus.url, seconds + 2 * TROUBLE_S, "5s", out)
        finally:
            embedded.down(directory / "servers")


def _without_redis(directory: Path) -> None:
    embedded.stop_redis(directory, kill=True)
    time.sleep(TROUBLE_S)
    embedded.start_redis(directory)


def _without_workers(run: Watched) -> None:
    for worker in run.workers:
        os.kill(worker.pid, signal.SIGSTOP)
    time.sleep(TROUBLE_S)
    for worker in run.workers:
        os.kill(worker.pid, signal.SIGCONT)


def draw(url: str, seconds: float, rate_window: str, out: Path) -> None:
    """All panels where Grafana would put them."""
    from matplotlib import pyplot

    panels = json.loads(BOARD.read_text("utf-8"))["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = pyplot.figure(figsize=(18, rows * 0.46), dpi=75)
    grid = figure.add_gridspec(rows, COLUMNS, hspace=9, wspace=3, left=0.03, right=0.985, top=0.98, bottom=0.02)
    end_s = time.time()
    for panel in panels:
        at = panel["gridPos"]
        area: Any = figure.add_subplot(grid[at["y"] : at["y"] + at["h"], at["x"] : at["x"] + at["w"]])
        if panel["type"] == "row":
            area.axis("off")
            area.text(0, -2.5, panel["title"], fontsize=13, weight="bold")
            continue
        lines = [line for target in panel["targets"] for line in _lines(url, target, end_s, seconds, rate_window)]
        area.set_title(panel["title"], fontsize=11, loc="left")
        (_draw_stat if panel["type"] == "stat" else _draw_lines)(area, panel, lines, seconds)
    figure.savefig(out)


Line = tuple[str, list[tuple[float, float]]]


def _lines(url: str, target: dict[str, str], end_s: float, seconds: float, rate_window: str) -> list[Line]:
    """A query's series: legend, and (seconds before now, value)."""
    expr = target["expr"].replace("$__rate_interval", rate_window)
    step_s = max(1.0, seconds / POINTS)
    answer = ask(url, "query_range", query=expr, start=end_s - seconds, end=end_s, step=step_s)
    found = []
    for series in answer["result"]:
        legend = target["legendFormat"]
        for label, value in series["metric"].items():
            legend = legend.replace("{{" + label + "}}", value)
        points = [(float(at) - end_s, float(value)) for at, value in series["values"]]
        found.append((legend, [(at, value) for at, value in points if math.isfinite(value)]))
    return [line for line in found if line[1]]


def _draw_stat(area: Any, panel: dict[str, Any], lines: list[Line], _: float) -> None:
    value = lines[0][1][-1][1] if lines else math.nan
    last = panel["fieldConfig"]["defaults"]["thresholds"]["steps"][-1]
    bad = last["value"] is not None and value >= last["value"]
    area.set_facecolor("#e05c5c" if bad else "#73bf69")
    shown = f"{value:.1%}" if panel["fieldConfig"]["defaults"]["unit"] == "percentunit" else f"{value:.3g}"
    area.text(0.5, 0.45, shown, ha="center", va="center", fontsize=20, color="white", transform=area.transAxes)
    area.set_xticks([])
    area.set_yticks([])


def _draw_lines(area: Any, panel: dict[str, Any], lines: list[Line], seconds: float) -> None:
    # Those that matter first: legends are cut.
    for legend, points in sorted(lines, key=lambda line: -max(value for _, value in line[1])):
        area.plot([at for at, _ in points], [value for _, value in points], label=legend, linewidth=1.2)
    area.set_xlim(-seconds, 0)
    highest = max((value for _, points in lines for _, value in points), default=0)
    area.set_ylim(0, 1.35 * highest or 1)  # Room for the legend.
    area.set_title(f"{panel['title']} [{panel['fieldConfig']['defaults']['unit']}]", fontsize=11, loc="left")
    area.tick_params(labelsize=8)
    area.grid(alpha=0.3)
    if not lines:
        area.text(0.5, 0.5, "no data", ha="center", transform=area.transAxes)
        return
    handles, legends = area.get_legend_handles_labels()
    area.legend(handles[:LINES_MAX], legends[:LINES_MAX], fontsize=8, loc="upper left", ncols=3, framealpha=0.6)


if __name__ == "__main__":
    main()
