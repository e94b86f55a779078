"""Finished traces of this process: a callback for each, and their deferred writing to temporary stores."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from typing import Any

from pytest_mlctx.services import mlflow_internals
from pytest_mlctx.services.store import builders, pending, temporary

_OPEN = ("IN_PROGRESS", "TRACE_STATUS_UNSPECIFIED", "STATE_UNSPECIFIED")


@contextmanager
def handed_over(begun: Callable[[Any], Callable[[Any], None] | None]) -> Iterator[None]:
    """Within the block each finished trace (``mlflow.entities.Trace``) is handed over.

    All ways lead through ``InMemoryTraceManager``: decorators, the fluent and the client API, autologging.

    Args:
        begun: asked when a trace begins, in the thread that begins it and with its ``TraceInfo``: to whom it
            is handed over, if anybody.
    """
    receivers: dict[int, Callable[[Any], None]] = {}

    def registering(register: Any) -> Any:
        def register_trace(self: Any, otel_trace_id: int, trace_info: Any, *more: Any, **named: Any) -> Any:
            receiver = begun(trace_info)
            if receiver is not None:
                receivers[otel_trace_id] = receiver
            return register(self, otel_trace_id, trace_info, *more, **named)

        return register_trace

    def popping(pop: Any) -> Any:
        def pop_trace(self: Any, otel_trace_id: int) -> Any:
            popped = pop(self, otel_trace_id)
            receiver = receivers.pop(otel_trace_id, None)
            trace = getattr(popped, "trace", popped)  # MLflow 3, and 2
            if trace is not None and receiver is not None and state(trace) not in _OPEN:
                receiver(trace)
            return popped

        return pop_trace

    with (
        mlflow_internals.wrapped("InMemoryTraceManager.register_trace", registering),
        mlflow_internals.wrapped("InMemoryTraceManager.pop_trace", popping),
    ):
        yield


@contextmanager
def deferred() -> Iterator[None]:
    """Within the block traces for a temporary store are written when it is next read or written, at once.

    Where this MLflow exports them otherwise, as MLflow 2 does, they are written as they end.
    """
    import mlflow
    from mlflow.tracking import fluent

    with ExitStack() as stack:
        if not builders.hear_of_readers():
            yield
            return
        for name in ("_log_spans", "_log_trace"):
            stack.enter_context(mlflow_internals.wrapped(f"MlflowV3SpanExporter.{name}", _deferring))
        for module in (mlflow, fluent):
            stack.enter_context(mlflow_internals.around(module, "flush_trace_async_logging", _flushing))
        yield


def _flushing(original: Any) -> Any:
    """Who asks for a flush may go on to look where nobody sees it: over a connection that is open."""

    def flush(*arguments: Any, **named: Any) -> None:
        original(*arguments, **named)
        pending.flush_all()

    return flush


def _deferring(original: Any) -> Any:
    def export(self: Any, *arguments: Any, **named: Any) -> None:
        uri = getattr(getattr(self, "_client", None), "tracking_uri", None)
        store = temporary.store_of(uri) if uri else None
        trace_id = _trace_id(arguments)
        if store is None or trace_id is None or not _admitted(store):
            original(self, *arguments, **named)
        else:
            content = (trace_id, functools.partial(original, self), arguments, named)
            store.pending.add(pending.Write(trace_id, _write, content))

    return export


def _admitted(store: temporary.Store) -> bool:
    try:
        store.refuse()
    except RuntimeError:  # a thread of a test before: MLflow tells that it is refused
        return False
    return True


def _trace_id(arguments: tuple[Any, ...]) -> str | None:
    """Of ``_log_spans(experiment_id, spans, …)`` or of ``_log_trace(trace, …)``."""
    if isinstance(arguments[0], str):
        spans = arguments[1]
        return str(spans[0].trace_id) if spans and len({span.trace_id for span in spans}) == 1 else None
    return None if arguments[0] is None else str(arguments[0].info.trace_id)


def _write(waiting: Sequence[tuple[str, Callable[..., None], tuple[Any, ...], dict[str, Any]]]) -> None:
    """Write traces in the order of their ends, the spans of each at once."""
    spans: dict[str, list[Any]] = {}
    for trace_id, _, arguments, _ in waiting:
        if isinstance(arguments[0], str):
            spans.setdefault(trace_id, []).extend(arguments[1])
    for trace_id, original, arguments, named in waiting:
        if not isinstance(arguments[0], str):
            original(*arguments, **named)
        elif trace_id in spans:
            original(arguments[0], spans.pop(trace_id), *arguments[2:], **named)


def state(trace: Any) -> str:
    """``OK`` or ``ERROR``; of one that was left open another."""
    found = getattr(trace.info, "state", None) or trace.info.status  # MLflow 3, and 2
    return str(getattr(found, "value", found))


def incompatibility() -> str | None:
    """Why this MLflow records no traces; None where it does."""
    if mlflow_internals.numbers("mlflow-skinny") >= (3, 5) or mlflow_internals.numbers(
        "opentelemetry-sdk"
    ) < (1, 36):
        return None
    mlflow, telemetry = version("mlflow-skinny"), version("opentelemetry-sdk")
    return (
        f"MLflow {mlflow} records no traces beside opentelemetry-sdk {telemetry}: "
        "install 'opentelemetry-sdk<1.36', or MLflow 3.5 or newer."
    )


def lines(trace: Any) -> Iterator[str]:
    """The trace and the tree of its spans, a line for each."""
    info = trace.info
    took = getattr(info, "execution_duration", None) or getattr(info, "execution_time_ms", None)
    seconds = f", {took / 1000:.2f} s" if took else ""
    tokens = (getattr(info, "token_usage", None) or {}).get("total_tokens")
    name = getattr(info, "trace_id", None) or info.request_id
    yield f"trace {name}: {state(trace)}{seconds}{f', {tokens} tokens' if tokens else ''}"
    below: dict[str | None, list[Any]] = {}
    known = {span.span_id for span in trace.data.spans}
    for span in trace.data.spans:
        below.setdefault(span.parent_id if span.parent_id in known else None, []).append(span)

    def tree(parent: str | None, indent: str) -> Iterator[str]:
        for span in sorted(below.get(parent, ()), key=lambda span: span.start_time_ns):
            yield indent + _told(span)
            yield from tree(span.span_id, indent + "  ")

    yield from tree(None, "    ")


def _told(span: Any) -> str:
    took = f" {(span.end_time_ns - span.start_time_ns) / 1e9:.2f} s" if span.end_time_ns else ", left open"
    kind = f" {span.span_type}" if span.span_type not in (None, "UNKNOWN") else ""
    passed = [
        f"{name} {_short(value)}" for name, value in (("in", span.inputs), ("out", span.outputs)) if value
    ]
    status = str(getattr(span.status.status_code, "value", span.status.status_code))
    wrong = [f"{status}: {_exception(span) or span.status.description}"] if status == "ERROR" else []
    return f"{span.name}{kind}{took}{''.join(f', {part}' for part in passed + wrong)}"


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else f"{text[:59]}…"


def _exception(span: Any) -> str:
    for event in span.events:
        attributes = event.attributes or {}
        if "exception.type" in attributes:
            return f"{attributes['exception.type']}: {attributes.get('exception.message', '')}"
    return ""
