"""OpenTelemetry spans (CC_TRACING; needs the extra `otel`).

Each read that leaves this process, and each write, is a span of the global tracer provider, which the program sets up
as it likes (`opentelemetry-instrument` does, for the worker too). A write's events carry its span's context, so the
worker's spans are linked to it; one that is not sampled leaves nothing in an event. Attributes are domains and
outcomes, never keys or payloads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from opentelemetry import trace
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from backtest_kit_mongo.coherence import effects as fx
from backtest_kit_mongo.coherence.record import Domain, Record
from backtest_kit_mongo.drivers.counts import READS, Tally
from backtest_kit_mongo.drivers.store import Store

R = TypeVar("R")
OUTCOME = "bkm.outcome"
_PROPAGATOR = TraceContextTextMapPropagator()


def traceparent() -> str:
    """The current span as the `trace` of an event; empty if there is none or it is not sampled."""
    if not trace.get_current_span().get_span_context().trace_flags.sampled:
        return ""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier.get("traceparent", "")


def span_context(traceparent: str) -> SpanContext | None:
    """The span that an event's `trace` names; None if it names none."""
    found = trace.get_current_span(_PROPAGATOR.extract({"traceparent": traceparent})).get_span_context()
    return found if found.is_valid else None


class TracedStore(Store):
    """A store of which reads and writes are spans, but for copies that the near cache serves."""

    _tracer = trace.get_tracer("backtest_kit_mongo")

    @contextmanager
    def _span(self, verb: str, domain: Domain, kind: SpanKind = SpanKind.CLIENT) -> Iterator[None]:
        # Of an error only its type: what it says, and its stack, may show keys and payloads.
        with self._tracer.start_as_current_span(
            f"bkm.{verb} {domain.name}",
            kind=kind,
            attributes={"bkm.domain": domain.name},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except BaseException as error:
                span.set_status(Status(StatusCode.ERROR, type(error).__name__))
                raise

    def _watch(self, effect: fx.Effect[Any], answer: Any) -> None:
        if isinstance(effect, fx.CacheRead):
            is_hit = isinstance(answer, Record)
            trace.get_current_span().set_attribute(
                OUTCOME, "hit" if is_hit else "bypass" if answer.is_bypass else "miss"
            )
        elif isinstance(effect, fx.Defer):
            trace.get_current_span().set_attribute(OUTCOME, "bypass")

    def _run(self, plan: fx.Plan[R], tally: Tally) -> R:
        is_read = tally.names is READS
        with self._span(
            "read" if is_read else "write", tally.domain, SpanKind.CLIENT if is_read else SpanKind.PRODUCER
        ):
            return super()._run(plan, tally)

    def _listing(self, domain: Domain, look: Callable[[], R]) -> R:
        with self._span("list", domain):
            return super()._listing(domain, look)

    def _scanning(self, domain: Domain, records: Iterator[Record]) -> Iterator[Record]:
        # Not the current span while the caller has the record: what it does then is not part of this.
        span = self._tracer.start_span(f"bkm.list {domain.name}", kind=SpanKind.CLIENT)
        try:
            yield from super()._scanning(domain, records)
        finally:
            span.end()
