"""The console in a headless Chromium: pictures of its pages, and what a browser finds wrong with them.

    pip install playwright
    python benchmarks/console_browser.py http://127.0.0.1:8321 pictures DIRECTORY
    python benchmarks/console_browser.py http://127.0.0.1:8321 check [--axe axe.min.js]
    python benchmarks/console_browser.py http://127.0.0.1:8321 follow
    python benchmarks/console_browser.py http://127.0.0.1:8321 docs docs    # the three of docs/console.md

`check` opens each page in both widths and colour schemes. It fails at an error of the console, a request to elsewhere,
a page that is wider than its window, and with axe-core (`npm pack axe-core`) at a serious fault. Before, it loads each
page eleven times and prints the first, the median and the slowest (until its load event, by the browser's own clock),
with the CPU that a load costs the browser and the processes of `--process`; it fails at a median over 300 ms.
`follow` writes positions to the servers of the CC_ variables, those of the console, and says how long after its write
each is in the page. Chromium is Debian's, or the one that CHROMIUM names.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
WIDTHS = (1280, 390)
SCHEMES = ("light", "dark")
PAGE_MS = 300
TIMES = 10
FOLLOW_MS = 1_000
FOLLOWED = (
    "/audit/key",
    "/audit/proof",
    "/letters/one",
    "/candles/series",
    "/runs/study",
    "/runs/run",
    "/runs/compare",
    "/signals?id=",
)
"""Pages that are found by the first link to one."""


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser."""
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


def addresses(page: Any, base: str) -> list[str]:
    """The pages of the menu, and one of each kind that they lead to."""
    page.goto(base)
    menu = page.eval_on_selector_all("header nav a", "links => links.map(link => link.href)")
    found = dict.fromkeys(menu)
    for _ in range(2):
        for address in list(found):
            page.goto(address)
            links = page.eval_on_selector_all("main a", "links => links.map(link => link.href)")
            for kind in FOLLOWED:
                mine = [link for link in links if _is_of(kind, link)]
                if mine and not any(_is_of(kind, each) for each in found):
                    found[mine[0]] = None
    return list(found)


def _is_of(kind: str, address: str) -> bool:
    parts = urlsplit(address)
    return parts.path == kind if "?" not in kind else f"{parts.path}?{parts.query}".startswith(kind)


def pictures(browser: Any, base: str, directory: Path, only: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for width in WIDTHS:
        for scheme in SCHEMES:
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            for address in [one for one in addresses(page, base) if only in one]:
                page.goto(address)
                page.wait_for_timeout(300)
                name = re.sub(r"\W+", "-", urlsplit(address).path).strip("-") or "overview"
                name = "signal" if _is_of("/signals?id=", address) else name
                page.screenshot(path=directory / f"{name}-{width}-{scheme}.png", full_page=True)
            page.close()


def for_docs(browser: Any, base: str, directory: Path) -> None:
    """The first screen of three pages: of signals, the first that was closed."""
    page = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme="light")
    page.goto(f"{base}/signals")
    closed = page.locator("tbody tr", has=page.locator("td.win, td.loss")).locator("th a").first
    addresses = {"signal": closed.get_attribute("href"), "positions": "/positions", "study": "/runs"}
    page.goto(f"{base}/runs")
    addresses["study"] = page.locator("tbody th a").first.get_attribute("href")
    for name, address in addresses.items():
        page.goto(f"{base}{address}")
        page.wait_for_timeout(500)
        page.screenshot(path=directory / f"console-{name}.png")


def measure(browser: Any, base: str, found: list[str], numbers: list[int]) -> list[str]:
    """How long each page takes; those that take too long."""
    page = browser.new_page(viewport={"width": WIDTHS[0], "height": 900})
    servers = [psutil.Process(number) for number in numbers]
    wrong = []
    print(f"load {os.getloadavg()[0]:.1f}; of {TIMES} loads after the first:")
    print("first  median  slowest, ms    CPU, ms: browser  servers")
    for address in found:
        first = _load_ms(page, address)
        before = _cpu_s(psutil.Process().children(recursive=True)), _cpu_s(servers)
        others = [_load_ms(page, address) for _ in range(TIMES)]
        after = _cpu_s(psutil.Process().children(recursive=True)), _cpu_s(servers)
        cpu_ms = [(b - a) * 1000 / TIMES for a, b in zip(before, after, strict=True)]
        middle = statistics.median(others)
        costs = f"{cpu_ms[0]:14.0f} {cpu_ms[1]:8.0f}"
        print(f"{first:5.0f} {middle:7.0f} {max(others):8.0f} {costs}     {address.removeprefix(base)}", flush=True)
        if middle > PAGE_MS:
            wrong.append(f"{address}: {middle:.0f} ms")
    print(f"load {os.getloadavg()[0]:.1f}")
    return wrong


def _load_ms(page: Any, address: str) -> float:
    """From the beginning of the navigation to the end of the page's load event."""
    page.goto(address)
    page.wait_for_function("performance.getEntriesByType('navigation')[0].loadEventEnd > 0")
    return float(page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd"))


def _cpu_s(processes: list[psutil.Process]) -> float:
    found = 0.0
    for one in processes:
        with suppress(psutil.NoSuchProcess):
            found += sum(one.cpu_times()[:2])
    return found


def check(browser: Any, base: str, found: list[str], axe: Path | None) -> list[str]:
    """What is wrong, in words."""
    wrong: list[str] = []
    for width, scheme in ((width, scheme) for width in WIDTHS for scheme in SCHEMES):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=bool(axe))
        _listen(page, base, wrong)
        for address in found:
            wrong += [f"{width} {scheme} {address}: {one}" for one in _faults(page, address, axe)]
        page.close()
    return wrong


def _listen(page: Any, base: str, wrong: list[str]) -> None:
    page.on("console", lambda said: wrong.append(f"console: {said.text}") if said.type == "error" else None)
    page.on("pageerror", lambda said: wrong.append(f"script: {said}"))
    page.on("request", lambda asked: _outside(asked.url, base, wrong))


def _outside(url: str, base: str, wrong: list[str]) -> None:
    if urlsplit(url).netloc != urlsplit(base).netloc and not url.startswith(("data:", "blob:")):
        wrong.append(f"asks elsewhere: {url}")


def _faults(page: Any, address: str, axe: Path | None) -> Iterator[str]:
    answer = page.goto(address)
    if answer.status != 200:
        yield f"status {answer.status}"
    if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
        yield "is wider than the window"
    if axe is not None:
        page.evaluate(axe.read_text())
        found = page.evaluate("axe.run()")["violations"]
        for one in found:
            if one["impact"] in ("serious", "critical"):
                yield f"{one['id']}: {one['help']}: {one['nodes'][0]['html'][:160]}"


def follow(browser: Any, base: str, count: int = 20) -> list[str]:
    """Positions that are opened and closed while a page is open."""
    import console_data

    import backtest_kit_mongo as bk

    bk.setup()
    page = browser.new_page()
    page.goto(f"{base}/positions")
    page.get_by_text("Live.").wait_for()
    delays = []
    for number in range(count):
        context = (f"FOLLOWED-{number}-", "trend", "binance")
        row = console_data.signal(f"f-{number}", context[0], "trend", 1.0, 1, "<b>", is_long=True)
        for payload, shown in ((row, "attached"), (None, "detached")):
            bk.PersistSignalAdapter.write_signal_data(payload, *context)
            written = time.perf_counter()
            page.locator("#positions tr", has_text=f"{context[0]}trend").wait_for(state=shown)
            delays.append((time.perf_counter() - written) * 1000)
    print(
        f"{len(delays)} writes: in the page {sorted(delays)[len(delays) // 2]:.0f} ms after, at most {max(delays):.0f}"
    )
    return [f"{max(delays):.0f} ms"] if max(delays) > FOLLOW_MS else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("what", choices=("pictures", "check", "follow", "docs"))
    parser.add_argument("directory", type=Path, nargs="?", default=Path("console-pictures"))
    parser.add_argument("--only", default="", help="pictures: only of addresses with this in them")
    parser.add_argument("--axe", type=Path)
    parser.add_argument("--process", type=int, action="append", default=[], help="check: count its CPU too")
    given = parser.parse_args()
    with chromium() as browser:
        if given.what == "docs":
            for_docs(browser, given.base, given.directory)
            return
        if given.what == "pictures":
            pictures(browser, given.base, given.directory, given.only)
            return
        if given.what == "follow":
            wrong = follow(browser, given.base)
        else:
            found = [*addresses(browser.new_page(), given.base), f"{given.base}/signals?at=14:03"]
            wrong = measure(browser, given.base, found, given.process)
            wrong += check(browser, given.base, found, given.axe)
    print("\n".join(wrong) or "nothing is wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
