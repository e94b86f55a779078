"""The lifecycle that all services share: start, stop, nesting, who is current, the audit record."""

from __future__ import annotations

import sys
import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from loguru import logger
from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator

from pytest_mlctx.services import credentials, state
from pytest_mlctx.services.errors import ServiceError
from pytest_mlctx.services.state.leases import Lease, in_order, leases, numbers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from typing_extensions import Self


_lock = threading.RLock()


class Service(BaseModel, ABC):
    """A holder of process-wide context with a configuration, ``start()`` and ``stop()``.

    A service is immutable and validated when it is made (``pydantic.ValidationError`` names the bad field).
    Services nest, one service in itself too: each ``start()`` makes the configuration hold, the matching
    ``stop()`` gives back what was before it.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(strict=True, frozen=True, extra="forbid")

    libraries: ClassVar[tuple[state.Library, ...]] = ()
    """The libraries whose process-wide state the service holds while it runs."""

    @model_validator(mode="wrap")
    @classmethod
    def _without_credentials(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(values)
        except ValidationError as error:
            raise credentials.redacted(error) from None

    @abstractmethod
    def _apply(self) -> object:
        """Make the configuration hold. What it changes is given back by the lease, also when it fails.

        What it returns is found in `_made` when the service is started again within itself.
        """

    def _made(self) -> list[Any]:
        """What ``_apply`` has returned, for each start of this very service that waits for its stop."""
        of_this = [lease.made for _, lease in in_order() if lease.service is self]
        return [made for made in of_this if made is not None]

    def start(self) -> None:
        """Make this configuration hold, until the matching ``stop()``.

        Raises:
            ServiceError: what the user must mend, in one sentence; nothing is left changed then.
        """
        with _lock:
            number, before = next(numbers), state.capture(*self.libraries)
            try:
                leases[number] = Lease(self, before, self._apply())
                self._audit("started")
            except BaseException:
                leases.pop(number, None)
                state.restore(before)
                raise

    def stop(self) -> None:
        """Give back what was before the last ``start()`` of this service; without one, do nothing.

        Stopped out of order it changes nothing yet: what it saved passes to the service started after it.
        Of several threads that start the service each stops its own; what is open in the others stays open
        while it runs.
        """
        with _lock:
            own = [(number, lease) for number, lease in in_order() if lease.service is self]
            if not own:
                return
            here = [(number, lease) for number, lease in own if lease.thread == threading.get_ident()]
            number, lease = (here or own)[-1]
            try:
                self._audit("stopped")
            finally:
                leases.pop(number)
                later = next(
                    (other for place, other in in_order() if place > number and other.shares(lease)), None
                )
                if later is None:
                    state.restore(lease.before, elsewhere=not self.running)
                else:
                    later.before = lease.before

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether a ``start()`` of this very service waits for its ``stop()``."""
        return any(lease.service is self for _, lease in in_order())

    @classmethod
    def current(cls) -> Self:
        """The innermost running service of this class, whichever thread started it.

        Raises:
            ServiceError: none is running.
        """
        for _, lease in reversed(in_order()):
            if isinstance(lease.service, cls):
                return lease.service
        raise ServiceError(f"No {cls.__name__} is running: call its start(), or use it in a with statement.")

    def _public_configuration(self) -> dict[str, Any]:
        """The configuration as logs may show it: without credentials."""
        return {
            field: credentials.redact(value) if isinstance(value, str) else value
            for field, value in self.model_dump().items()
        }

    def _configured(self) -> dict[str, Any]:
        """What differs from the defaults."""
        fields = type(self).model_fields
        public = self._public_configuration()
        return {field: value for field, value in public.items() if value != fields[field].default}

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        yield from self._public_configuration().items()

    def _audit(self, event: str) -> None:
        name = type(self).__name__
        try:
            logger.bind(service=name, event=event).opt(depth=_depth_of_caller()).info(
                "{} {}: {}", name, event, self._configured()
            )
        except Exception as error:  # of a handler that raises in the code that logs
            raise ServiceError(
                f"{name} cannot write its audit record, since a handler of loguru's failed "
                f"({type(error).__name__}: {error}): mend that handler, or let loguru catch its errors."
            ) from error


def _depth_of_caller() -> int:
    """How many frames an audit record lies within the code that starts or stops, itself or by ``with``."""
    depth, frame = -1, sys._getframe()
    while frame.f_code.co_filename == __file__ and frame.f_back is not None:
        depth, frame = depth + 1, frame.f_back
    return depth
