"""MLflow's background threads: they finish their work before any other state is restored."""

from __future__ import annotations

import sys
import threading
from collections.abc import Hashable, Iterable
from typing import Any

from pytest_mlctx.services.deadline import within
from pytest_mlctx.services.state.kinds import ABSENT, Kind

_DEADLINE = 3.0  # seconds


class Worker(Kind):
    """A thread of MLflow's that logs runs, artifacts, traces or links of prompts."""

    name = "mlflow.thread"

    _QUEUES = ("MLflowAsyncLoggingLoop", "MLflowAsyncArtifactsLoggingLoop", "MLflowTraceLoggingConsumer")
    _LINKS = "link_prompt"

    def read(self) -> Iterable[tuple[Hashable, object]]:
        """The threads that are alive, and told by name."""
        return [
            (id(thread), thread)
            for thread in threading.enumerate()
            if thread.name in self._QUEUES or thread.name.startswith(self._LINKS)
        ]

    def undo(self, key: Any, before: Any, now: Any) -> None:
        """Let a new thread finish; one that has ended is not missed, MLflow starts them as needed."""
        if before is ABSENT:
            queue: Any = getattr(getattr(now, "_target", None), "__self__", None)
            if queue is None:
                now.join(_DEADLINE)
            else:
                within(_DEADLINE, lambda: _drain(queue))


def _drain(queue: Any) -> None:
    """Log what is in the queue and end its threads, so that the next item starts them again."""
    if hasattr(queue, "shut_down_async_logging"):
        queue.shut_down_async_logging()
    elif hasattr(queue, "log_artifacts_async"):
        queue._at_exit_callback()
        queue._stop_data_logging_thread_event.clear()
        queue._is_activated = False
    else:
        queue.flush(terminate=True)
        queue._stop_event.clear()


class SystemMetrics(Kind):
    """The thread that samples the machine for a run, by run id."""

    name = "mlflow.system_metrics"

    def _monitors(self) -> dict[str, Any]:
        return getattr(sys.modules.get("mlflow.tracking.fluent"), "run_id_to_system_metrics_monitor", {})

    def read(self) -> Iterable[tuple[Hashable, object]]:
        """The monitors that MLflow knows of."""
        return [*self._monitors().items()]

    def undo(self, key: Any, before: Any, now: Any) -> None:
        """Stop the new monitor; one that has ended with its run is not started again."""
        if before is ABSENT and self._monitors().pop(key, None) is not None:
            within(_DEADLINE, now.finish)


KINDS: tuple[Kind, ...] = (Worker(), SystemMetrics())
