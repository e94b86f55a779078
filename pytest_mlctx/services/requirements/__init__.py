"""Pip requirements of models: inferred by MLflow once for each kind of model, then reused."""

from pytest_mlctx.services.requirements.wrappers import (
    RequirementsWarning,
    Reuse,
    Statistics,
    install,
    reuse_requirements,
    uninstall,
)

__all__ = ["RequirementsWarning", "Reuse", "Statistics", "install", "reuse_requirements", "uninstall"]
