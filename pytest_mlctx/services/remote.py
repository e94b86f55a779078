"""The policy for remote stores that code names by itself: refused, redirected or allowed."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from pytest_mlctx.services import credentials, mlflow_internals, registries, uris
from pytest_mlctx.services.errors import ServiceError

Policy = Literal["refuse", "redirect", "allow"]

# "databricks" is a scheme of its own in MLflow's registries, with and without a profile behind it.
_SCHEMES = ("http", "https", "databricks", "databricks-uc", "uc", "postgresql", "mysql", "mssql")


@dataclass(frozen=True)
class _Rule:
    policy: Policy
    remedy: str
    exempt: Collection[str]

    def concerns(self, uri: str) -> bool:
        if any(uri == own or uri.startswith(own.rstrip("/") + "/") for own in self.exempt):
            return False
        if self.policy == "redirect":
            return uris.scheme(uri) in _SCHEMES
        return self.policy == "refuse" and uris.is_remote(uri)


# What MLflow asks of the registry's URI before it goes to Databricks for a model's files, past the store.
_MODEL_QUESTIONS = (
    "is_databricks_unity_catalog_uri",
    "is_oss_unity_catalog_uri",
    "is_using_databricks_registry",
)

_rules: list[_Rule] = []
_stand_ins: list[tuple[Any, Any]] = []  # MLflow's tracking store and registry on each, the one in force last


def reaches(uri: str) -> bool:
    """Whether the URI leads to the store that it names, and not to the one that stands in for it.

    Raises:
        ServiceError: it is refused.
    """
    if not _rules or not _stand_ins or not _rules[-1].concerns(uri):
        return True
    if _rules[-1].policy == "refuse":
        raise ServiceError(
            f"The store {credentials.redact(uri)!r} is remote and was not asked for: {_rules[-1].remedy}"
        )
    return False


@contextmanager
def governed(policy: Policy, *, remedy: str, exempt: Collection[str] = ()) -> Iterator[None]:
    """Within the block, while a store stands in, remote ones follow the policy, whatever way code names them.

    Args:
        policy: ``refuse`` lets loopback pass; ``redirect`` does not.
        remedy: what the user can do, for the sentence where the policy is ``refuse``.
        exempt: URIs that the policy does not concern, as prefixes; more may be added meanwhile.
    """
    both = registries.both()
    before = [
        {name: build for name, build in registry._registry.items() if name.split("+")[0] in _SCHEMES}
        for registry in both
    ]
    rule = _Rule(policy, remedy, exempt)
    _rules.append(rule)
    for place, (registry, own) in enumerate(zip(both, before, strict=True)):
        registry._registry.update({name: _builder(build, place) for name, build in own.items()})
    registries.forget()
    try:
        with ExitStack() as asked:
            for name in _MODEL_QUESTIONS:
                asked.enter_context(mlflow_internals.wrapped(name, _unless_elsewhere))
            yield
    finally:
        _rules.remove(rule)
        for registry, own in zip(both, before, strict=True):
            registry._registry.update(own)
        registries.forget()


@contextmanager
def standing_in(uri: str) -> Iterator[None]:
    """Within the block the store of this URI is in force: what is redirected leads to it."""
    stores = opened(uri)
    _stand_ins.append(stores)
    _forget_redirected()
    try:
        yield
    finally:
        _stand_ins.remove(stores)
        _forget_redirected()


def opened(uri: str) -> tuple[Any, Any]:
    """MLflow's tracking store and registry of this URI, built beforehand: no builder can ask for another."""
    return registries.tracking_store(uri), registries.model_registry(uri)


def _builder(original: Any, place: int) -> Any:
    # MLflow asks the builder's signature what to pass: its two registries pass different second arguments.
    @functools.wraps(original)
    def build(store_uri: str, **arguments: Any) -> Any:
        return original(store_uri=store_uri, **arguments) if reaches(store_uri) else _stand_ins[-1][place]

    return build


def _unless_elsewhere(question: Any) -> Any:
    import mlflow

    def asked(*arguments: Any, **named: Any) -> Any:
        return question(*arguments, **named) and reaches(
            named.get("registry_uri") or mlflow.get_registry_uri()
        )

    return asked


def _forget_redirected() -> None:
    if _rules and _rules[-1].policy == "redirect":
        registries.forget()
