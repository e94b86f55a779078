"""The process-wide state of MLflow's tracing: whether it is on, where to, and the spans that are open."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Iterable
from typing import Any, NamedTuple

from pytest_mlctx.services.deadline import within
from pytest_mlctx.services.state.kinds import ABSENT, Attribute, ContextVariable, Held, Kind

_PROVIDER = "mlflow.tracing.provider"
_FLUENT = "mlflow.tracing.fluent"
_DEADLINE = 3.0  # seconds for the traces of a provider that is put away to be exported


class Provider(Kind):
    """The tracer provider, which MLflow makes at the first trace and anew with each tracking URI."""

    name = "mlflow.tracer_provider"

    def _slots(self) -> list[tuple[Any, str]]:
        """Where this version of MLflow keeps it, and whether it was made."""
        module = sys.modules.get(_PROVIDER)
        wrapper = getattr(module, "provider", None)  # MLflow 3
        slots = [(module, "_MLFLOW_TRACER_PROVIDER")]
        onces = [getattr(module, "_MLFLOW_TRACER_PROVIDER_INITIALIZED", None)]
        if wrapper is not None:
            slots = [(wrapper, "_isolated_tracer_provider")]
            onces = [
                getattr(wrapper, name, None)
                for name in ("_isolated_tracer_provider_once", "_global_provider_init_once")
            ]
        # MLflow 3.18 has both, the second for reading only.
        slots += [(once, "_done" if hasattr(once, "_done") else "done") for once in onces]
        return [(owner, name) for owner, name in slots if hasattr(owner, name)]

    def read(self) -> Iterable[tuple[Hashable, object]]:
        """The one cell, once MLflow has made a provider."""
        slots = self._slots()
        values = [getattr(owner, name) for owner, name in slots]
        if not any(values):
            return ()
        enabled = not any(values[1:]) or type(values[0]).__name__ != "NoOpTracerProvider"
        key = (enabled, *(id(value) for value in values))
        return (("", Held(key, (enabled, values, _batching(values[0])))),)

    def undo(self, key: Any, before: Any, now: Any) -> None:
        """Export what the provider of now holds, and put back the very one before."""
        retire = getattr(
            getattr(sys.modules[_PROVIDER], "provider", None), "_retire_current_batch_processors", None
        )
        slots = self._slots()
        values: list[object] = [None, *(False for _ in slots[1:])]
        if before is not ABSENT:
            _, values, batching = before.thing
            if batching and not _batching(values[0]):  # MLflow has shut its exporting thread down: made anew
                values = [None, *(False for _ in slots[1:])]
        try:
            if retire is not None and now is not ABSENT and now.thing[1][0] is not values[0]:
                within(_DEADLINE, retire)
        finally:
            for (owner, name), value in zip(slots, values, strict=False):
                setattr(owner, name, value)

    def tell(self, key: Any, before: Any, after: Any) -> str | None:
        """Whether tracing was switched off or on."""
        was = before is ABSENT or before.thing[0]
        now = after is ABSENT or after.thing[0]
        return None if was is now else f"tracing {'enabled' if now else 'disabled'}"


def _batching(provider: Any) -> bool:
    """Whether a thread exports the provider's traces."""
    processors = getattr(getattr(provider, "_active_span_processor", None), "_span_processors", ())
    return any(getattr(processor, "_batch_delegate", None) is not None for processor in processors)


class OpenSpan(Kind):
    """The OpenTelemetry context of the caller, MLflow's own and the common one: it holds the open span."""

    name = "mlflow.span"
    held_by_garbage = True  # the context manager of an open span makes an older context current when it goes

    def _runtimes(self) -> dict[str, Any]:
        provider = sys.modules.get(_PROVIDER)
        common = getattr(sys.modules.get("opentelemetry.context"), "_RUNTIME_CONTEXT", None)
        runtimes = {"mlflow": getattr(provider, "mlflow_runtime_context", None), "opentelemetry": common}
        return {name: runtime for name, runtime in runtimes.items() if runtime is not None}

    def read(self) -> Iterable[tuple[Hashable, object]]:
        """The contexts that hold anything."""
        contexts = [(name, runtime.get_current()) for name, runtime in self._runtimes().items()]
        return [(name, context) for name, context in contexts if context]

    def undo(self, key: Any, before: Any, now: Any) -> None:
        """Make the context before the current one, and forget the trace that was left open."""
        was, left = _span(before), _span(now)
        if getattr(was, "end_time", None) is not None:
            return  # who opened it has left it: a plugin's span of the test that started a service
        runtime = self._runtimes()[key]
        runtime.attach(type(runtime.get_current())() if before is ABSENT else before)
        if left is not None and (was is None or _trace_id(was) != _trace_id(left)):
            abandon(_trace_id(left))

    def tell(self, key: Any, before: Any, after: Any) -> str | None:
        """The name of the span; of other things in the context nothing."""
        was, left = _span(before), _span(after)
        if left is not None and left is not was:
            return f"span {getattr(left, 'name', 'without a name')!r} left open"
        if was is left:
            return None
        return f"span {getattr(was, 'name', 'without a name')!r} ended, which was open before"


def _span(context: Any) -> Any | None:
    if context is ABSENT:
        return None
    trace = sys.modules["opentelemetry.trace"]
    span = trace.get_current_span(context)
    # MLflow 2 makes one current that has no context where it cannot record.
    return span if getattr(span.get_span_context(), "is_valid", False) else None


class OpenTrace(NamedTuple):
    """A trace that has begun and not ended."""

    id: str
    otel_id: int
    name: str
    """Of its first span that is open."""


def open_traces() -> list[OpenTrace]:
    """Those of all threads, but for what is current in the caller's context: that is `OpenSpan`'s."""
    current = {_trace_id(span) for _, context in OpenSpan().read() if (span := _span(context)) is not None}
    found = []
    for trace_id, spans in _in_memory().items():
        left = next((span for span in spans if span.end_time_ns is None), None)
        if left is not None and _trace_id(left._span) not in current:
            found.append(OpenTrace(trace_id, _trace_id(left._span), left.name))
    return found


def abandon(otel_id: int) -> bool:
    """Forget a trace that is open, whose spans end in silence; whether it was open still."""
    manager = _manager()
    if manager is None:
        return False
    for spans in _in_memory().values():
        for span in spans:
            if _trace_id(span._span) == otel_id:
                _silence(span._span)
    return manager.pop_trace(otel_id) is not None


def _in_memory() -> dict[str, list[Any]]:
    """The spans of the traces that MLflow has begun and not handed on, by the ids of these."""
    traces = getattr(_manager(), "_traces", {})
    return {trace_id: [*trace.span_dict.values()] for trace_id, trace in [*traces.items()]}


def _manager() -> Any | None:
    module = sys.modules.get("mlflow.tracing.trace_manager")
    return getattr(getattr(module, "InMemoryTraceManager", None), "_instance", None)


def _silence(span: Any) -> None:
    """Let the span end in silence, and be no parent where it is current.

    The collector may end it while MLflow opens the store to export it to; a thread of a pool goes on.
    """
    processor = getattr(span, "_span_processor", None)
    if processor is not None:
        span._span_processor = type(processor)()
    if hasattr(span, "_context"):
        span._context = sys.modules["opentelemetry.trace"].INVALID_SPAN_CONTEXT


def _trace_id(span: Any) -> int:
    return int(span.get_span_context().trace_id)


class SpanProcessors(Attribute):
    """The functions of ``mlflow.tracing.configure``, compared one by one."""

    def _get(self) -> object:
        value = super()._get()
        return tuple(value) if isinstance(value, list) else value

    def _set(self, value: Any) -> None:
        super()._set(list(value))


class Destination(Attribute):
    """Where ``mlflow.tracing.set_destination`` sends traces: a variable in MLflow 2, in an object since."""

    def _get(self) -> object:
        value = super()._get()
        return getattr(value, "_global_value", value)

    def _set(self, value: object) -> None:
        registry: Any = super()._get()
        if hasattr(registry, "_global_value"):
            registry._global_value = value
        else:
            super()._set(value)


KINDS: tuple[Kind, ...] = (
    OpenSpan(),
    Provider(),
    SpanProcessors(
        "mlflow.span_processors",
        "mlflow.tracing.config",
        "_MLFLOW_TRACING_CONFIG.span_processors",
        pristine=(),
        tell=lambda after: "tracing's span processors changed",
    ),
    Destination(
        "mlflow.trace_destination",
        _PROVIDER,
        "_MLFLOW_TRACE_USER_DESTINATION",
        tell=lambda after: f"tracing destination {'unset' if after is None else 'set'}",
    ),
    ContextVariable(  # MLflow 3
        "mlflow.trace_destination_here",
        _PROVIDER,
        "_MLFLOW_TRACE_USER_DESTINATION._context_local_value",
        tell=lambda after: f"tracing destination {'unset' if after is None else 'set'} in this context",
    ),
    ContextVariable(
        "mlflow.trace_context",
        "mlflow.tracing.context",
        "_USER_TRACE_CONTEXT",
        tell=lambda after: "tracing context left open" if after else None,
    ),
    ContextVariable("mlflow.trace_sampling", "mlflow.tracing.sampling", "_SAMPLING_RATIO_OVERRIDE"),
    Attribute("mlflow.last_trace", _FLUENT, "_LAST_ACTIVE_TRACE_ID_GLOBAL"),
    ContextVariable("mlflow.last_trace_here", _FLUENT, "_LAST_ACTIVE_TRACE_ID_THREAD_LOCAL"),
)
