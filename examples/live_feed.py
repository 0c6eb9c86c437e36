"""Print every change of the database as it happens: a consumer of the change feed in one page.

    python examples/live_feed.py                          # from now on, all domains; Ctrl-C ends it
    python examples/live_feed.py signal risk --start beginning
    python examples/live_feed.py --start 2025-01-31T12:00:00+00:00 --until-idle

Servers are those of the CC_ environment variables (`bkm up` prints them). The group `live-feed` remembers what was
printed: start it again and it goes on there; start it twice and both share the changes. `--forget` removes the group
when you are done with it, because the stream keeps what a group has not acknowledged.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.pretty import pretty_repr

from backtest_kit_mongo.feed.consume import ChangeEvent, consume, forget

COLOURS = {"upsert": "green", "remove": "red", "batch": "cyan", "conflict": "yellow"}


def line(event: ChangeEvent) -> str:
    """One change in one line."""
    colour = COLOURS.get(event.operation, "white")
    key = " ".join(f"{name}={value}" for name, value in event.key.items())
    payload = pretty_repr(event.payload, max_width=10_000, max_length=4, max_string=40)
    origin = f"{event.host}:{event.process}{' from the audit log' if event.replayed else ''}"
    return (
        f"[dim]{event.written_at:%H:%M:%S.%f}[/] [{colour}]{event.operation:8}[/] [bold]{escape(event.domain)}[/] "
        f"{escape(key)} [dim]rev {event.rev}[/] {escape(payload)} [dim]{escape(origin)}[/]"
    )


def beginning(text: str) -> Literal["new", "beginning"] | datetime:
    """Where to start: a word or an ISO time, UTC unless it has a zone."""
    if text in ("new", "beginning"):
        return text  # type: ignore[return-value]
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("domains", nargs="*", help="domains to print; default: all")
    parser.add_argument("--group", default="live-feed", help="name under which the place is remembered")
    parser.add_argument(
        "--start", default="new", type=beginning, help='"new", "beginning" or an ISO time, for a new group'
    )
    parser.add_argument("--until-idle", action="store_true", help="end when nothing is left")
    parser.add_argument("--forget", action="store_true", help="remove the group, print nothing")
    arguments = parser.parse_args()
    console = Console()
    if arguments.forget:
        console.print("forgotten" if forget(arguments.group) else "there is no such group")
        return
    count = 0
    try:
        with consume(
            arguments.group, arguments.domains or None, start=arguments.start, until_idle=arguments.until_idle
        ) as feed:
            for event in feed:
                console.print(line(event), soft_wrap=True, highlight=False)
                count += 1
                event.ack()  # Only now: what was not printed comes again.
    except KeyboardInterrupt:
        pass  # The feed has handed back what was not printed.
    console.print(f"[dim]{count} changes[/]")


if __name__ == "__main__":
    main()
