"""`bkm top`: what a frame shows of a deployment at work, and of one that does not answer."""

from __future__ import annotations

import io
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from rich.console import Console
from tests.doctor.conftest import Open
from tests.integration.support import store_for
from tests.worker.feed_support import at_age, event, publish
from typer.testing import CliRunner, Result

from backtest_kit_mongo.cli.top import top
from backtest_kit_mongo.coherence.events import Event, Origin
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.checks import make_change
from backtest_kit_mongo.domains.table import LOG, STATE
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_mongo.feed.newest import newest
from backtest_kit_mongo.feed.workers import consumers
from backtest_kit_mongo.operate.doctor.timing import Latency
from backtest_kit_mongo.operate.top import Sample, draw, take
from backtest_kit_mongo.operate.top.frame import ROWS_MAX, hit_ratio
from backtest_kit_mongo.operate.top.rates import Host, Rates, count, recent
from backtest_kit_mongo.operate.top.sampling import RedisSample
from backtest_kit_worker.dead_letters import DeadLetterWriter
from backtest_kit_worker.leadership import Leadership

NOTHING = RedisSample(Latency(0, 0), 0, 0, 0, 0, (), (), Rates((), ()))


def shown(sample: Sample, before: Sample | None = None) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(draw(sample, before))
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def of(domain: str, host: str) -> Event:
    return event(1)._replace(domain=domain, origin=Origin(host, 1))


class TestRates:
    def test_a_rate_is_over_the_window_unless_there_were_more_events_than_were_asked_for(self) -> None:
        entries: list[tuple[int, Event | None]] = [(990 - 10 * n, of("state", "a")) for n in range(5)]
        quiet = recent(entries, now_ms=1_000, window_ms=10_000, count_max=100)
        assert count([quiet]).per_s == pytest.approx(0.5)
        # The five newest are of the last 50 ms; what came before was not looked at.
        busy = recent(entries, now_ms=1_000, window_ms=10_000, count_max=5)
        assert count([busy]).per_s == pytest.approx(100)

    def test_rates_are_by_operation_and_by_process_the_busiest_first(self) -> None:
        entries = [(900, of("state", "a")), (800, of("log", "b")), (700, of("log", "b")), (600, None)]
        rates = count([recent(entries, now_ms=1_000, window_ms=1_000, count_max=100)])
        assert rates.by_operation == ((("log", "upsert"), 2.0), (("state", "upsert"), 1.0), (("unreadable", "-"), 1.0))
        assert rates.hosts == (Host(Origin("b", 1), 2.0, 200), Host(Origin("a", 1), 1.0, 100))

    def test_an_entry_ahead_of_the_clock_does_no_harm(self) -> None:
        ahead = recent([(2_000, of("state", "a"))], now_ms=1_000, window_ms=1_000, count_max=1)
        assert count([ahead]).per_s > 0


class TestFrame:
    def test_the_hit_ratio_is_of_the_time_between_two_frames(self) -> None:
        first = replace(NOTHING, hits=90, misses=10)
        assert hit_ratio(first, None) == "90.0% since its start"
        assert hit_ratio(replace(NOTHING, hits=93, misses=11), first) == "75.0% now"
        assert hit_ratio(replace(NOTHING, hits=1, misses=1), first) == "50.0% since its start"
        assert hit_ratio(NOTHING, None).startswith("-")

    def test_more_hosts_than_fit_are_counted(self) -> None:
        hosts = tuple(Host(Origin(f"host-{n}", n), 1.0, 5) for n in range(ROWS_MAX + 3))
        frame = shown(Sample(redis=replace(NOTHING, rates=Rates((), hosts))))
        assert f"host-{ROWS_MAX - 1}" in frame
        assert f"host-{ROWS_MAX}" not in frame
        assert "and 3 more" in frame


def bkm(*arguments: str) -> Result:
    app = typer.Typer()
    app.command()(top)
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.live
class TestLive:
    def test_a_frame_shows_who_writes_who_works_and_what_is_parked(
        self, servers: Endpoints, database: str, opened: Open, client: Any
    ) -> None:
        looked = opened(partitions=2)
        with store_for(servers, database, partitions=2) as store:
            for number in range(6):
                store.write(make_change(Key(STATE, (f"s{number}", "b")), {"data": number}, number))
            store.merge(Key(LOG, ()), [make_change(Key(LOG, ("l",)), {"id": "l"})])
        for stream in looked.streams:
            client.xgroup_create(stream, "audit", id="0", mkstream=True)
            client.xreadgroup("audit", "worker-1", {stream: ">"})
        DeadLetterWriter(looked.database).park(looked.streams[0], "audit", "1-1", {b"e": b"x"}, "unreadable")
        Leadership(looked.database, "worker-1", ["recovery"], 60_000).attempt_all()
        sample = take(looked)
        assert (sample.redis is not None, sample.trouble) == (True, ())
        assert dict(sample.redis.rates.by_operation if sample.redis else ()) == pytest.approx(
            {("state", "upsert"): 0.6, ("log", "upsert"): 0.1}
        )
        frame = shown(sample)
        for part in (
            "state upsert",
            "log upsert",
            "worker-1",
            "recovery",
            "1 parked (audit 1)",
            "7 entries in the feed",
        ):
            assert part in frame

    def test_an_abandoned_group_and_a_service_without_a_leader_stand_out(self, opened: Open, client: Any) -> None:
        looked = opened()
        (stream,) = looked.streams
        publish(client, stream, event(1), at=at_age(client, 11 * 60_000))
        client.xgroup_create(stream, "feed:dashboard", id="0")
        leading = Leadership(looked.database, "worker-1", ["trim"], 60_000)
        leading.attempt_all()
        leading.release()
        frame = shown(take(looked))
        assert "abandoned" in frame
        assert "nobody (was worker-1)" in frame

    @pytest.mark.usefixtures("environment", "opened")
    def test_once_prints_one_frame_and_fails_when_a_server_is_away(self, environment: pytest.MonkeyPatch) -> None:
        well = bkm("--once")
        assert (well.exit_code, "no answer" in well.stdout, "Redis" in well.stdout) == (0, False, True)
        environment.setenv("CC_REDIS_PORT", "1")
        away = bkm("--once")
        assert (away.exit_code, "no answer: Redis at 127.0.0.1:1" in away.stdout) == (1, True)
        assert "MongoDB" in away.stdout

    @pytest.mark.usefixtures("environment", "opened")
    def test_the_live_view_goes_on_until_it_is_interrupted(self, environment: pytest.MonkeyPatch) -> None:
        pauses: list[float] = []

        def pause(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 3:
                raise KeyboardInterrupt

        environment.setattr("backtest_kit_mongo.cli.top.time", SimpleNamespace(sleep=pause))
        assert bkm("--interval", "0.5").exit_code == 0
        assert pauses == [0.5, 0.5, 0.5]

    def test_a_consumer_of_several_groups_is_one(self, opened: Open, client: Any) -> None:
        looked = opened()
        (stream,) = looked.streams
        publish(client, stream, event(1), event(2))
        for group in ("audit", "replica"):
            client.xgroup_create(stream, group, id="0")
            client.xreadgroup(group, "worker-1", {stream: ">"})
        sample = take(looked)
        assert sample.redis is not None
        groups = [group for position in sample.redis.streams for group in position.groups]
        (one,) = consumers(client, groups)
        assert (one.name, one.groups, one.pending_count) == ("worker-1", ("audit", "replica"), 4)

    def test_newest_entries_come_without_payloads_and_the_unreadable_as_none(self, opened: Open, client: Any) -> None:
        (stream,) = opened().streams
        publish(client, stream, event(1))
        client.xadd(stream, {"e": b"\xff", "p": b"x"})
        client.xadd(stream, {"other": b"x"})
        found = [change for _, change in newest(client, stream, count_max=10)]
        assert found == [None, None, event(1)._replace(body=b"")]
        assert len(list(newest(client, stream, count_max=2))) == 2
        assert list(newest(client, "nothing", count_max=2)) == []

    def test_newest_entries_are_looked_at_in_pages_and_large_ones_only_so_far(self, opened: Open, client: Any) -> None:
        (stream,) = opened().streams
        ids = [client.xadd(stream, {"e": b"", "p": bytes(100_000 if number > 146 else 9)}) for number in range(150)]
        assert [str(entry) for entry, _ in newest(client, stream, count_max=200)] == [one.decode() for one in ids[::-1]]
        assert len(list(newest(client, stream, count_max=200, bytes_max=150_000))) == 2
        assert len(list(newest(client, stream, count_max=70))) == 70
