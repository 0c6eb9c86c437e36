"""Spans: a read, a write, and what the worker does with the write's event, which names the span that it came from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import util
from typing import Any

import msgpack
import pytest
import redis
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler
from opentelemetry.trace import SpanKind, StatusCode
from tests.integration.support import settings_for, store_for
from tests.worker.feed_support import Recorder, always, event

from backtest_kit_mongo.backends.memory import MemoryTruth
from backtest_kit_mongo.backends.redis.cache import RedisCache
from backtest_kit_mongo.coherence.effects import Upsert
from backtest_kit_mongo.coherence.events import decode
from backtest_kit_mongo.coherence.keys import streams
from backtest_kit_mongo.coherence.record import Key, Record
from backtest_kit_mongo.domains.checks import make_change
from backtest_kit_mongo.domains.table import STATE
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_mongo.errors import InvalidSetting, WriteRefused
from backtest_kit_mongo.ports import NoCache
from backtest_kit_mongo.settings import load
from backtest_kit_mongo.setup import make_store
from backtest_kit_mongo.testing.examples import example
from backtest_kit_mongo.tracing import TracedStore, span_context, traceparent
from backtest_kit_worker import tracing as worker_tracing
from backtest_kit_worker.deployment import connect
from backtest_kit_worker.loop import LoopOptions
from backtest_kit_worker.runner import Runner, RunnerOptions

KEY = Key(STATE, ("signal", "bucket"))
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Refusing(MemoryTruth):
    def upsert(self, effect: Upsert) -> Record:
        raise WriteRefused(f"{effect.change.key}: no")


class Spans:
    """Those that have ended."""

    def __init__(self, sampler: Sampler) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=sampler)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]


@pytest.fixture
def sampler() -> Sampler:
    return ALWAYS_ON


@pytest.fixture
def spans(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    """The global provider can be set only once a process, so the tracers are put in place instead."""
    made = Spans(sampler)
    monkeypatch.setattr(TracedStore, "_tracer", made.provider.get_tracer("store"))
    monkeypatch.setattr(worker_tracing, "_tracer", made.provider.get_tracer("worker"))
    yield made
    made.provider.shutdown()


@pytest.fixture
def store() -> TracedStore:
    return TracedStore("memory", MemoryTruth(), NoCache())


class TestHeaders:
    def test_an_event_without_a_trace_has_no_field_for_it(self) -> None:
        assert "trace" not in msgpack.unpackb(event(0).header())

    def test_a_trace_travels_in_the_header_and_nothing_else_changes(self) -> None:
        traced = event(0)._replace(trace=TRACE)
        assert decode({b"e": traced.header(), b"p": traced.body}) == traced
        assert msgpack.unpackb(traced.header()) == {**msgpack.unpackb(event(0).header()), "trace": TRACE}

    @pytest.mark.parametrize("trace", ["", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
    def test_what_is_no_trace_names_no_span(self, trace: str) -> None:
        assert span_context(trace) is None


class TestTheStore:
    def test_reads_and_writes_are_spans_with_domain_and_outcome(self, store: TracedStore, spans: Spans) -> None:
        store.write(make_change(KEY, example(STATE), 1))
        store.read(KEY)
        (write,), (read,) = spans.named("bkm.write state"), spans.named("bkm.read state")
        assert (write.kind, read.kind) == (SpanKind.PRODUCER, SpanKind.CLIENT)
        assert read.attributes == {"bkm.domain": "state", "bkm.outcome": "miss"}

    def test_a_list_is_a_span_as_long_as_it_is_read(self, store: TracedStore, spans: Spans) -> None:
        store.write(make_change(KEY, example(STATE), 1))
        records = store.scan(KEY.scope)
        next(records)
        assert not spans.named("bkm.list state")
        assert list(records) == []
        assert len(spans.named("bkm.list state")) == 1

    def test_an_error_is_on_the_span(self, spans: Spans) -> None:
        store = TracedStore("memory", Refusing(), NoCache())
        with pytest.raises(WriteRefused):
            store.write(make_change(KEY, example(STATE), 1))
        (span,) = spans.named("bkm.write state")
        assert span.status.status_code is StatusCode.ERROR

    def test_of_an_error_the_span_shows_the_type_and_neither_key_nor_stack(self, spans: Spans) -> None:
        store = TracedStore("memory", Refusing(), NoCache())
        with pytest.raises(WriteRefused, match="signal"):
            store.write(make_change(KEY, example(STATE), 1))
        (span,) = spans.named("bkm.write state")
        assert (span.status.description, span.events) == ("WriteRefused", ())

    def test_outside_of_a_span_there_is_no_trace(self) -> None:
        assert traceparent() == ""

    def test_a_traced_store_counts_as_any_other(self, store: TracedStore, spans: Spans) -> None:
        store.read(KEY)
        assert sum(store.counts.reads[STATE].outcomes) == 1


class TestTheWorker:
    def test_a_batch_that_fails_is_an_error_on_the_span_of_each_traced_event(self, spans: Spans) -> None:
        apply = worker_tracing.traced(Recorder(always(ConnectionError("target gone"))))
        with pytest.raises(ConnectionError):
            apply([("1-0", event(0)._replace(trace=TRACE)), ("2-0", event(1))])
        (span,) = spans.named("bkm.apply recorder")
        assert span.status.status_code is StatusCode.ERROR
        assert span.attributes is not None
        assert span.attributes["bkm.batch_count"] == 2

    def test_a_trace_that_somebody_made_up_is_passed_over(self, spans: Spans) -> None:
        assert worker_tracing.traced(Recorder())([("1-0", event(0)._replace(trace="nonsense"))]) == 1
        assert not spans.named("bkm.apply recorder")


@pytest.mark.live
class TestOnRealServers:
    @pytest.fixture
    def database(self, new_database: Callable[[], str]) -> str:
        return f"{new_database()}_tracing"

    def events(self, servers: Endpoints, database: str) -> list[Any]:
        with redis.Redis(port=servers.redis_port) as client:
            found: Any = client.xrange(streams(database, 1)[0])
        return [decode(fields) for _, fields in found]

    def test_the_workers_span_is_linked_to_the_span_of_the_write(
        self, servers: Endpoints, database: str, spans: Spans
    ) -> None:
        with store_for(servers, database, tracing=True) as store:
            store.write(make_change(KEY, example(STATE), 1))
        (written,) = spans.named("bkm.write state")
        deployment = connect(settings_for(servers, database, tracing=True))
        try:
            Runner(deployment, ["audit"], RunnerOptions(LoopOptions(block_ms=1))).run_until_idle()
        finally:
            deployment.close()
        (applied,) = spans.named("bkm.apply audit")
        (link,) = applied.links
        assert link.context.span_id == written.context.span_id
        assert link.context.trace_id == written.context.trace_id
        assert applied.parent is None
        assert applied.kind is SpanKind.CONSUMER

    @pytest.mark.parametrize("sampler", [ALWAYS_OFF])
    def test_a_write_that_is_not_sampled_leaves_nothing_in_its_event(
        self, servers: Endpoints, database: str, spans: Spans
    ) -> None:
        with store_for(servers, database, tracing=True) as store:
            store.write(make_change(KEY, example(STATE), 1))
        assert [each.trace for each in self.events(servers, database)] == [""]


class TestOff:
    def test_a_store_is_a_plain_one_and_its_events_carry_no_trace(self) -> None:
        store = make_store(load())
        assert type(store) is Store
        assert isinstance(store.cache, RedisCache)
        assert store.cache._options.trace() == ""

    def test_asking_for_it_without_the_package_is_a_clear_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("backtest_kit_mongo.settings.find_spec", lambda name: None)
        with pytest.raises(InvalidSetting, match=r"backtest-kit-mongo\[otel\]"):
            load(tracing=True)
        assert util.find_spec("opentelemetry") is not None
