"""Global context management for ML workflows, as a pytest plugin and as services for production jobs.

The names are imported when they are first used, so that loading the plugin costs nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_mlctx.guard import LeakWarning
    from pytest_mlctx.services import (
        Alert,
        AlertsService,
        LoggerService,
        MlflowService,
        RunConfig,
        Service,
        ServiceError,
        reuse_requirements,
    )

__all__ = [
    "Alert",
    "AlertsService",
    "LeakWarning",
    "LoggerService",
    "MlflowService",
    "RunConfig",
    "Service",
    "ServiceError",
    "reuse_requirements",
]

# Whoever names the package as a plugin means the plugin.
pytest_plugins: tuple[str, ...] = ("pytest_mlctx.plugin",)

if not TYPE_CHECKING:  # to type checkers a name that is not above is a mistake

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name == "LeakWarning":
            from pytest_mlctx import guard

            return guard.LeakWarning
        from pytest_mlctx import services

        return getattr(services, name)
