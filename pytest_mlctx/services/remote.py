"""What becomes of a remote store that code names by itself: refused, redirected or allowed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from pytest_mlctx.services import secrets, uris
from pytest_mlctx.services.base import ServiceError

Policy = Literal["refuse", "redirect", "allow"]

# "databricks" is a scheme of its own in MLflow's registries, with and without a profile behind it.
_SCHEMES = ("http", "https", "databricks", "databricks-uc", "uc", "postgresql", "mysql", "mssql")


@dataclass(frozen=True)
class _Rule:
    policy: Policy
    remedy: str
    exempt: frozenset[str]

    def concerns(self, uri: str) -> bool:
        if any(uri == own or uri.startswith(own.rstrip("/") + "/") for own in self.exempt):
            return False
        if self.policy == "redirect":
            return uris.scheme(uri) in _SCHEMES
        return self.policy == "refuse" and uris.is_remote(uri)


_rules: list[_Rule] = []


def reaches(uri: str) -> bool:
    """Whether the URI leads to the store that it names, and not to the one that stands in for it.

    Raises:
        ServiceError: it is refused.
    """
    if not _rules or not _rules[-1].concerns(uri):
        return True
    if _rules[-1].policy == "refuse":
        raise ServiceError(
            f"The store {secrets.redact(uri)!r} is remote and was not asked for: {_rules[-1].remedy}"
        )
    return False


@contextmanager
def governed(policy: Policy, stand_in: str, *, remedy: str, exempt: tuple[str, ...] = ()) -> Iterator[None]:
    """Within the block MLflow's stores for remote URIs follow the policy, whatever way code names them.

    Args:
        policy: ``refuse`` lets loopback pass; ``redirect`` does not.
        stand_in: the URI of the store that is used where the policy is ``redirect``.
        remedy: what the user can do, for the sentence where the policy is ``refuse``.
        exempt: URIs that the policy does not concern, as prefixes.
    """
    from mlflow.tracking._model_registry import utils as model_registry
    from mlflow.tracking._tracking_service import utils as tracking

    # Built beforehand: MLflow 3 deadlocks when a builder asks for another store.
    stores = (tracking._get_store(stand_in), model_registry._get_store(stand_in))
    registries: tuple[Any, Any] = (tracking._tracking_store_registry, model_registry._get_store_registry())
    before = [dict(registry._registry) for registry in registries]
    rule = _Rule(policy, remedy, frozenset(exempt))
    _rules.append(rule)
    if policy != "allow":
        for registry, own, store in zip(registries, before, stores, strict=True):
            for scheme in (name for name in own if name.split("+")[0] in _SCHEMES):
                registry.register(scheme, _builder(own[scheme], store))
            _forget(registry)
    try:
        yield
    finally:
        _rules.remove(rule)
        for registry, own in zip(registries, before, strict=True):
            registry._registry.update({name: own[name] for name in own if name.split("+")[0] in _SCHEMES})
            _forget(registry)


def _builder(original: Any, stand_in: Any) -> Any:
    # MLflow passes what the signature names, and its two registries pass different second arguments.
    def build(store_uri: str, artifact_uri: str | None = None, tracking_uri: str | None = None) -> Any:
        if not reaches(store_uri):
            return stand_in
        more = {"artifact_uri": artifact_uri, "tracking_uri": tracking_uri}
        return original(
            store_uri=store_uri, **{name: value for name, value in more.items() if value is not None}
        )

    return build


def _forget(registry: Any) -> None:
    """Drop the stores that the registry has built, so that the next use asks the builders in force."""
    registry._get_store_with_resolved_uri.cache_clear()
