"""MLflow before 3.14 cannot open a SQL store beside SQLAlchemy 2.1: the remedy is named."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(
    tuple(map(int, version("mlflow-skinny").split(".")[:2])) >= (3, 14)
    or tuple(map(int, version("sqlalchemy").split(".")[:2])) < (2, 1),
    reason="needs MLflow before 3.14 beside SQLAlchemy 2.1, as `tox -e sqlalchemy21` has",
)

REMEDY = "install 'sqlalchemy<2.1', or MLflow 3.14 or newer"


@pytest.mark.usefixtures("no_other_plugin")
@pytest.mark.parametrize("args", [(), ("--mlctx-tracking-uri=sqlite:///mine.db",)])
def test_the_remedy_is_told_and_the_other_tests_run(pytester: pytest.Pytester, args: Any) -> None:
    pytester.makepyfile("""
        def test_asks(mlflow_service): pass
        def test_asks_again(mlflow_run): pass
        def test_asks_for_an_empty_store(mlflow_sandbox): pass
        def test_other(logger_service): pass
    """)
    result = pytester.runpytest_subprocess(*args)
    result.assert_outcomes(passed=1, errors=3)
    output = result.stdout.str()
    assert output.count(REMEDY) >= 1
    assert output.count("\nas in test_") == 2
    assert "Traceback" not in output
    assert "Error: " not in output


def test_a_service_is_not_half_started(given_back: Path) -> None:
    from pytest_mlctx import MlflowService, ServiceError

    service = MlflowService(tracking_uri=f"sqlite:///{given_back}/mine.db")
    with pytest.raises(ServiceError, match=REMEDY):
        service.start()
    assert not service.running
    assert list(given_back.iterdir()) == []
