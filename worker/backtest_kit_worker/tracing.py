"""The worker's part of a trace: a span for each traced event that a role applied, linked to the span of its write."""

from __future__ import annotations

import time
from collections.abc import Sequence

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

from backtest_kit_mongo.coherence.events import Event
from backtest_kit_mongo.tracing import span_context
from backtest_kit_worker.roles import Apply, Role

_tracer = trace.get_tracer("backtest_kit_worker")


def traced(role: Role) -> Apply:
    """What the role does with a batch, with spans for those events of it whose writes are traced; each lasts as long as
    the batch. Linked and not children: a write has returned long before.
    """

    def apply(events: Sequence[tuple[str, Event]]) -> int:
        since_ns = time.time_ns()
        failure: str | None = None
        try:
            return role.apply(events)
        except BaseException as error:
            failure = type(error).__name__
            raise
        finally:
            for _, event in events:
                if event.trace:
                    _add_span(role.name, event, len(events), since_ns, failure)

    return apply


def _add_span(role: str, event: Event, batch_count: int, since_ns: int, failure: str | None) -> None:
    written = span_context(event.trace)
    if written is None:
        return  # Anybody may write to a stream.
    span = _tracer.start_span(
        f"bkm.apply {role}",
        Context(),
        SpanKind.CONSUMER,
        {"bkm.domain": event.domain, "bkm.operation": event.operation, "bkm.batch_count": batch_count},
        [Link(written)],
        since_ns,
    )
    if failure is not None:
        span.set_status(Status(StatusCode.ERROR, failure))
    span.end()
